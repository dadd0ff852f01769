"""`modelwatch up`: run the pipeline in the foreground and say where everything is."""

import os
import shlex
import threading
import time
from pathlib import Path

from rich.console import Console

from cli.log_output import LogPrinter
from cli.stack import Ports, Stack, running_stack
from runtime.model_folder import default_model, load_model_folders
from runtime.settings import Settings
from runtime.signals import on_stop

PICTURE = (32, 32, 3)
"""Of CIFAR-10, which `modelwatch produce` has."""


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
    console.print("Try, in another terminal:", *first_steps(stack.settings), sep="\n  ", highlight=False, markup=False)
    console.rule()


def first_steps(settings: Settings) -> list[str]:
    """Commands for whoever sees the pipeline for the first time, of a model that there is."""
    specs = {name: folder.spec for name, folder in load_model_folders(settings.models).items()}
    chosen = default_model(settings.default_model, specs)
    ours = [name for name, spec in specs.items() if spec.classes and spec.input.shape == PICTURE]
    name = chosen if chosen in ours else next(iter(sorted(ours)), None)
    variables = {"KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers}
    variables["ELASTICSEARCH_URL"] = settings.elasticsearch_url
    if "MODELWATCH_MODELS" in os.environ:
        variables["MODELWATCH_MODELS"] = str(settings.models.resolve())
    steps = [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
    if name is None:
        steps.append(f"modelwatch produce FILE-OR-FOLDER --model {chosen or sorted(specs)[0]}")
    else:
        model = "" if name == chosen else f" --model {name}"
        steps.append(f"modelwatch produce cifar10 --count 1000 --prefix try{model}")
        steps.append(f"modelwatch feedback --prefix try{model}")
    return [*steps, "modelwatch pairs --no-follow", "modelwatch explain --all-outliers"]
