"""`modelwatch doctor`: is everything here that the pipeline needs, and if not, what to do."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import urllib3
from rich.console import Console
from rich.table import Table

from cli.stack import AGENTS, Ports, port_is_free
from runtime.broker_features import MINUTE_MS, RETENTION, forgets_offsets_early, offset_retention_minutes
from runtime.errors import ModelwatchError, TransientError
from runtime.kafka import cluster_topics
from runtime.model_folder import load_model_folders
from runtime.settings import Settings, read_settings
from runtime.topic_check import topic_problems
from schemas.topics import REQUESTS, TOPICS

NEEDED_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One check: `ok` None means that it is worth knowing but stops nothing."""

    check: str
    ok: bool | None
    found: str
    remedy: str = ""


def run_doctor() -> bool:
    """Print all findings; True if nothing needed is missing."""
    findings = list(_findings(read_settings(Settings)))
    table = Table("check", "", "found", "what to do", box=None, pad_edge=False)
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]note[/]"}
    for finding in findings:
        table.add_row(finding.check, marks[finding.ok], finding.found, "" if finding.ok else finding.remedy)
    Console().print(table)
    return all(finding.ok is not False for finding in findings)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield _python()
    yield _disk()
    yield _embedded()
    yield from _ports()
    yield _models(settings)
    yield from _attempt("broker", _broker, settings, "start one with `modelwatch up`, or set KAFKA_BOOTSTRAP_SERVERS")
    yield from _attempt("record store", _store, settings, "start one with `modelwatch up`, or set ELASTICSEARCH_URL")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", (3, 10) <= sys.version_info[:2] <= (3, 11), version, "use Python 3.10 or 3.11")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / (1 << 30)
    return Finding("disk", free > NEEDED_GIB, f"{free:.1f} GiB free", f"free at least {NEEDED_GIB:g} GiB")


def _embedded() -> Finding:
    found = find_spec("noida_db") is not None
    return Finding(
        "embedded servers", found or None, "installed" if found else "not installed", "install the extra `local`"
    )


def _ports() -> Iterator[Finding]:
    ports = Ports()
    named = [("kafka", ports.kafka), ("elasticsearch", ports.elasticsearch), ("worker", ports.worker)]
    named += [("agents", ports.agents + number) for number in range(len(AGENTS))]
    for name, port in named:
        free = port_is_free(port)
        yield Finding(
            f"port {port}", free or None, "free" if free else "in use", f"for `up`, stop its user or give --{name}-port"
        )


def _models(settings: Settings) -> Finding:
    try:
        folders = load_model_folders(settings.models)
        for folder in folders.values():
            folder.verify()
    except ModelwatchError as error:
        return Finding("models", False, str(error), "restore the folder, or set MODELWATCH_MODELS")
    return Finding("models", True, f"{', '.join(sorted(folders))}: checksums agree")


def _attempt(
    check: str, call: Callable[[Settings], Iterator[Finding]], settings: Settings, remedy: str
) -> Iterator[Finding]:
    """A server that is not running yet is worth a note, not a failure: `up` brings its own."""
    try:
        yield from call(settings)
    except (ModelwatchError, urllib3.exceptions.HTTPError) as error:
        yield Finding(check, None, str(error).splitlines()[0][:160], remedy)


def _broker(settings: Settings) -> Iterator[Finding]:
    topics = cluster_topics(settings, timeout=3)
    yield Finding("broker", True, f"{settings.kafka_bootstrap_servers} answers")
    if not any(topic.name in topics for topic in TOPICS):
        yield Finding("topics", False, "none of ours exists", "create them with `modelwatch setup`")
        return
    problems = topic_problems(topics, settings.kafka_partitions)
    for problem in problems:
        yield Finding("topics", False if problem.fatal else None, problem.found_text, problem.remedy)
    if not problems:
        yield Finding("topics", True, "all exist")
    yield from _offsets(settings)


def _offsets(settings: Settings) -> Iterator[Finding]:
    try:
        minutes = offset_retention_minutes(settings)
    except TransientError:
        return  # a user without the right to see the brokers' settings
    if minutes is not None:
        early = forgets_offsets_early(minutes)
        yield Finding(
            "committed offsets",
            None if early else True,
            f"forgotten {minutes} minutes after a group has gone",
            f"set {RETENTION} of the brokers to at least {REQUESTS.retention_ms // MINUTE_MS}",
        )


def _store(settings: Settings) -> Iterator[Finding]:
    key, authority = settings.elasticsearch_api_key, settings.elasticsearch_ca_certs
    pool = urllib3.PoolManager(ca_certs=str(authority) if authority else None)
    headers = {"Authorization": f"ApiKey {key.get_secret_value()}"} if key else {}
    response = pool.request("GET", settings.elasticsearch_url, headers=headers, timeout=3, retries=False)
    found = f"{settings.elasticsearch_url} answers {response.status}"
    yield Finding("record store", response.status < 400, found, "check MODELWATCH_ELASTICSEARCH_API_KEY")
