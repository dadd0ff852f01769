"""Where each process shows its metrics, as Prometheus is told, and as `modelwatch top` reads it."""

import json
from pathlib import Path

import pytest

from cli.targets import TARGETS_FILE, read_targets, write_targets
from runtime.errors import ConfigurationError

URLS = {
    "worker-0": "http://127.0.0.1:8080",
    "worker-1": "http://127.0.0.1:8081",
    "drift": "http://127.0.0.1:8091",
}


def test_each_process_is_a_target_of_the_job_that_rules_know(tmp_path: Path) -> None:
    write_targets(tmp_path / "up", URLS)
    assert json.loads((tmp_path / "up" / TARGETS_FILE).read_text()) == [
        {"targets": ["127.0.0.1:8080"], "labels": {"job": "modelwatch-worker"}},
        {"targets": ["127.0.0.1:8081"], "labels": {"job": "modelwatch-worker"}},
        {"targets": ["127.0.0.1:8091"], "labels": {"job": "modelwatch-drift"}},
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_targets(tmp_path, URLS)
    assert read_targets(tmp_path / TARGETS_FILE) == URLS


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", "no JSON", '[{"targets": [], "labels": 1}, {}]'])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / TARGETS_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=r"targets\.json"):
        read_targets(tmp_path / TARGETS_FILE)
