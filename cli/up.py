"""`modelwatch up`: run the pipeline in the foreground and say where everything is."""

import os
import threading
import time
from pathlib import Path

from rich.console import Console

from cli.log_output import LogPrinter
from cli.stack import Ports, Stack, running_stack
from runtime.signals import on_stop


def run_up(ports: Ports, workers: int, data: Path) -> None:
    """Run until SIGINT or SIGTERM, then stop everything in order."""
    console = Console()
    stopping = threading.Event()
    on_stop(stopping.set)
    console.print(
        "Starting. Models are loaded in three processes, which may take a minute. Ctrl-C stops everything.",
        soft_wrap=True,
    )
    began = time.monotonic()
    folder = os.environ.get("MODELWATCH_STATE_FOLDER") or str(data / "state")
    environment = {"MODELWATCH_STATE_FOLDER": folder}
    with running_stack(ports, data, workers, LogPrinter(console), stopping, environment, keep_data=True) as stack:
        if not stopping.is_set():
            _print_urls(console, stack, time.monotonic() - began)
        while not stopping.wait(0.5):
            stack.supervisor.check()
        console.print("Stopping.")


def _print_urls(console: Console, stack: Stack, seconds: float) -> None:
    console.rule(f"modelwatch is up, after {seconds:.0f} s")
    console.print(f"  Kafka           {stack.settings.kafka_bootstrap_servers}", highlight=False)
    console.print(f"  Elasticsearch   {stack.settings.elasticsearch_url}", highlight=False)
    for name, url in stack.urls.items():
        more = ", /v2, /v1" if name.startswith("worker") else ""
        console.print(f"  {name:<15} {url}  (/metrics, /health/ready{more})", highlight=False)
    console.print(
        f"Try, in another terminal:\n  export KAFKA_BOOTSTRAP_SERVERS={stack.settings.kafka_bootstrap_servers}\n"
        f"  export ELASTICSEARCH_URL={stack.settings.elasticsearch_url}\n"
        "  modelwatch produce cifar10 --count 1000 --prefix try\n"
        "  modelwatch feedback --prefix try\n"
        "  modelwatch pairs --no-follow\n"
        "  modelwatch explain --all-outliers",
        highlight=False,
    )
    console.rule()
