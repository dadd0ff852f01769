"""`modelwatch setup`: topics, the services' rights on the brokers, and the record store's index templates."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import typer
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from runtime.acls import create_acls
from runtime.errors import TransientError
from runtime.kafka import cluster_topics, create_topics
from runtime.record_indices import setup_record_store
from runtime.settings import Settings, read_settings
from runtime.topic_check import topic_problems

T = TypeVar("T")


def run_setup(principal: str | None, wait: float) -> None:
    """Do it, and say what was done.

    Args:
        principal: form of the principals that get their rights, see `create_acls`; None: no rights are given.
        wait: seconds to go on trying while a server does not answer.
    """
    settings = read_settings(Settings)
    created = _patiently(lambda: create_topics(settings), wait)
    typer.echo(
        f"{settings.kafka_bootstrap_servers}: " + (f"created {', '.join(created)}" if created else "nothing to do")
    )
    for problem in topic_problems(cluster_topics(settings), settings.kafka_partitions):
        typer.echo(f"note: {problem}", err=True)
    if principal is not None:
        count = create_acls(settings, principal)
        typer.echo(f"{settings.kafka_bootstrap_servers}: {count} rights are set")
    applied = _patiently(lambda: asyncio.run(setup_record_store(settings)), wait)
    typer.echo(f"{settings.elasticsearch_url}: {', '.join(applied)}")


def _patiently(call: Callable[[], T], wait: float) -> T:
    trying = retry(
        retry=retry_if_exception_type(TransientError), stop=stop_after_delay(wait), wait=wait_fixed(1), reraise=True
    )
    return trying(call)()
