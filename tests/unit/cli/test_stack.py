"""Where each process shows its metrics, as Prometheus is told."""

import json
from pathlib import Path

from cli.stack import TARGETS_FILE, _write_targets
from cli.supervisor import Service


def test_each_process_is_a_target_of_the_job_that_rules_know(tmp_path: Path) -> None:
    services = [
        Service("worker-0", [], "http://127.0.0.1:8080"),
        Service("worker-1", [], "http://127.0.0.1:8081"),
        Service("drift", [], "http://127.0.0.1:8091"),
    ]
    _write_targets(tmp_path / "up", services)
    assert json.loads((tmp_path / "up" / TARGETS_FILE).read_text()) == [
        {"targets": ["127.0.0.1:8080"], "labels": {"job": "modelwatch-worker"}},
        {"targets": ["127.0.0.1:8081"], "labels": {"job": "modelwatch-worker"}},
        {"targets": ["127.0.0.1:8091"], "labels": {"job": "modelwatch-drift"}},
    ]
