"""docker-compose.yml and the Dockerfile as data: what a container would be started with."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+):-(?P<default>[^}]*)\}")
SERVICES = {
    "worker": "inference",
    "outliers": "agents.outliers",
    "drift": "agents.drift",
    "confusion": "agents.confusion",
    "explanations": "agents.explanations",
}
"""Our services, and the module that each runs."""


def compose_file() -> str:
    return (PROJECT / "docker-compose.yml").read_text()


def load_compose() -> dict[str, Any]:
    """The file with its anchors merged, and `${NAME:-default}` replaced by the default: as with an empty .env."""
    text = VARIABLE.sub(lambda found: found["default"], compose_file())
    project: dict[str, Any] = yaml.safe_load(text)
    return project


def image_environment() -> dict[str, str]:
    """The variables that the Dockerfile's last stage sets."""
    last_stage = (PROJECT / "Dockerfile").read_text().split("\nFROM ")[-1]
    joined = re.sub(r"\\\n\s*", " ", last_stage)
    found = [line.removeprefix("ENV ") for line in joined.splitlines() if line.startswith("ENV ")]
    pairs = [one.partition("=") for line in found for one in shlex.split(line)]
    return {name: value for name, _, value in pairs}


def container_environment(service: dict[str, Any]) -> dict[str, str]:
    """What a container of ours has: the image's variables, and those of the service that have a value."""
    own = {name: value for name, value in service["environment"].items() if value not in (None, "")}
    return image_environment() | own
