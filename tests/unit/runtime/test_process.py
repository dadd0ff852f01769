"""`python -m SERVICE` starts the service, and only that; misspelt variables are told."""

import subprocess
import sys

import pytest

from cli.settings_documents import SECTIONS
from runtime.process import CONFIGURATION_EXIT, USAGE_EXIT
from schemas.generated_files import PROJECT

SERVICES = ("inference", "agents.outliers", "agents.drift", "agents.confusion", "agents.explanations")
NOWHERE = {"PATH": "/usr/bin", "MODELWATCH_MODELS": "/nonexistent", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env=NOWHERE | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("service", SERVICES)
def test_help_lists_the_settings_and_starts_nothing(service: str) -> None:
    """With no models there, a service that started would end with another status."""
    done = run(service, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {service}\n")
    for name in ("KAFKA_BOOTSTRAP_SERVERS  [127.0.0.1:9092]", "MODELWATCH_PORT  [8080]", "Port of the HTTP server"):
        assert name in done.stdout


def test_an_argument_that_no_service_has_is_refused() -> None:
    done = run("inference", "--port", "80")
    assert done.returncode == USAGE_EXIT and "inference takes no options; found '--port 80'" in done.stderr


def test_help_names_every_variable_that_a_service_reads() -> None:
    said = run("agents.confusion", "--help").stdout
    for title, cls in SECTIONS:
        if title in ("Every process", "Every agent", "Confusion agent"):
            assert all(field.upper() in said for field in cls.model_fields)


def test_a_process_and_the_command_tell_misspelt_variables() -> None:
    said = "PIPELINE_DEPHT is set, but nothing reads a variable of that name; did you mean MODELWATCH_PIPELINE_DEPTH?"
    worker = run("inference", MODELWATCH_PIPELINE_DEPHT="8")
    assert worker.returncode == CONFIGURATION_EXIT and said in worker.stdout, worker.stderr
    command = run("cli.main", "setup", MODELWATCH_PIPELINE_DEPHT="8", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1")
    assert command.returncode == CONFIGURATION_EXIT and said in command.stderr
    assert "'127.0.0.1' is not host:port" in command.stderr
