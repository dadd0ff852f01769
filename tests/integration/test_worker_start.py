"""How a worker begins and ends when things are not as they should be: wrong settings, no broker yet, none any more."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cli.supervisor import answers
from inference.pipeline import NEEDED
from runtime.embedded import EmbeddedServers, free_ports
from runtime.errors import CONFIGURATION_EXIT
from runtime.kafka import create_topics
from runtime.settings import Settings
from schemas.messages import Outcome
from schemas.payloads.encode import encode_png
from tests.integration.asking import ask
from tests.integration.conftest import MODEL
from tests.integration.traffic import Traffic, pair_of
from tests.integration.workers import WorkerProcess

SECONDS = 120.0
STOP_SECONDS = 10.0
"""DESIGN.md section 5, law 6."""


@pytest.fixture
def servers(embedded: EmbeddedServers, tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A broker of the test's own, not started yet; `embedded` skips where there is none."""
    own = EmbeddedServers(tmp_path / "servers")
    yield own
    own.kill()


@pytest.fixture
def null_worker(servers: EmbeddedServers, null_models: Path, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker for `servers` that computes nothing, not started yet."""
    process = WorkerProcess(servers.kafka, tmp_path, "early", "early", null_models)
    yield process
    process.kill()


def wait_for_line(worker: WorkerProcess, text: str) -> None:
    deadline = time.monotonic() + SECONDS
    while text not in worker.last_words(1 << 20):
        assert worker.alive, worker.last_words()
        assert time.monotonic() < deadline, worker.last_words()
        time.sleep(0.05)


def assert_stops(worker: WorkerProcess) -> None:
    began = time.monotonic()
    worker.terminate()
    assert worker.wait(STOP_SECONDS) == 0, worker.last_words()
    assert time.monotonic() - began < STOP_SECONDS
    assert "Traceback" not in worker.last_words()


def test_a_wrong_setting_ends_the_worker_with_one_line_that_names_it(
    null_models: Path, damaged_models: Path, tmp_path: Path
) -> None:
    (damaged_models / MODEL / "resnet32.keras").write_bytes(b"not the file it was")
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    expected = {
        "no-models": ({"MODELWATCH_MODELS": "/nonexistent/models"}, "/nonexistent/models"),
        "no-number": ({"MODELWATCH_PORT": "eighty"}, "MODELWATCH_PORT"),
        "bad-instance": ({"MODELWATCH_INSTANCE": "a b"}, "MODELWATCH_INSTANCE"),
        "other-model": ({"MODELWATCH_DEFAULT_MODEL": "resnet50"}, "MODELWATCH_DEFAULT_MODEL"),
        "damaged": ({"MODELWATCH_MODELS": str(damaged_models)}, "resnet32.keras"),
        "port-taken": ({"MODELWATCH_PORT": port}, port),
    }
    workers = {
        name: WorkerProcess(f"127.0.0.1:{free_ports(1)[0]}", tmp_path, name, models=null_models, environment=variables)
        for name, (variables, _) in expected.items()
    }
    try:
        for worker in workers.values():
            worker.start()
        for name, worker in workers.items():
            assert worker.wait(SECONDS) == CONFIGURATION_EXIT, worker.last_words()
            # The Kafka client's own lines begin with a percent sign; there is no broker for it here.
            every = worker.last_words().splitlines()
            lines = [line for line in every if '"level": "info"' not in line and not line.startswith("%")]
            assert len(lines) == 1, lines
            assert expected[name][1] in lines[0]
    finally:
        taken.close()
        for worker in workers.values():
            worker.kill()


def test_a_worker_that_is_early_waits_for_the_broker_and_then_for_the_topics(
    servers: EmbeddedServers, null_worker: WorkerProcess, truck: NDArray[np.uint8], unique: str
) -> None:
    null_worker.start()
    deadline = time.monotonic() + SECONDS
    while not answers(f"{null_worker.url}/health/live"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not answers(f"{null_worker.url}/health/ready")
    servers.start()
    missing = ", ".join(sorted(topic.name for topic in NEEDED))
    wait_for_line(null_worker, f"topics are missing: {missing}; create them with `modelwatch setup`")
    assert not answers(f"{null_worker.url}/health/ready")
    settings = Settings(kafka_bootstrap_servers=servers.kafka)
    create_topics(settings)
    null_worker.wait_ready(SECONDS)
    traffic = Traffic(settings)
    traffic.send(encode_png(truck), "image/png", unique)
    traffic.flush()
    assert pair_of(traffic.pairs([unique])[unique]).response.outcome is Outcome.OK
    traffic.close()
    assert_stops(null_worker)


def test_a_worker_that_never_found_a_broker_stops_in_time(null_worker: WorkerProcess) -> None:
    null_worker.start()
    wait_for_line(null_worker, '"listening"')
    time.sleep(0.5)
    assert answers(f"{null_worker.url}/health/live")
    assert_stops(null_worker)


def test_a_worker_whose_broker_went_away_tells_callers_to_come_again_and_stops_in_time(
    servers: EmbeddedServers, null_worker: WorkerProcess, truck: NDArray[np.uint8]
) -> None:
    servers.start()
    create_topics(Settings(kafka_bootstrap_servers=servers.kafka))
    null_worker.start().wait_ready(SECONDS)
    picture, path = encode_png(truck), f"/v2/models/{MODEL}/infer"
    assert ask(null_worker, path, picture, "image/png").status == 200
    servers.kill()
    response = ask(null_worker, path, picture, "image/png")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert "could not be recorded" in response.json["error"]
    assert ask(null_worker, path, picture, "image/png", {"x-modelwatch-record": "false"}).status == 200
    assert answers(f"{null_worker.url}/health/live")
    assert_stops(null_worker)


def test_a_worker_that_is_still_loading_stops_in_time(tmp_path: Path) -> None:
    loading = WorkerProcess(f"127.0.0.1:{free_ports(1)[0]}", tmp_path, "loading").start()
    try:
        wait_for_line(loading, "loading_model")
        time.sleep(0.5)
        assert_stops(loading)
    finally:
        loading.kill()


def test_several_models_without_a_default_are_asked_by_name_and_none_of_them_is_primary(
    servers: EmbeddedServers, null_models: Path, truck: NDArray[np.uint8], tmp_path: Path
) -> None:
    models = Path(shutil.copytree(null_models, tmp_path / "models"))
    text = (models / MODEL / "model.yaml").read_text()
    (models / "other").mkdir()
    (models / "other" / "model.yaml").write_text(text.replace(f"name: {MODEL}", "name: other"))
    servers.start()
    settings = Settings(kafka_bootstrap_servers=servers.kafka)
    create_topics(settings)
    worker = WorkerProcess(servers.kafka, tmp_path, "several", "several", models)
    try:
        worker.start()
        worker.wait_ready(SECONDS)
        traffic = Traffic(settings)
        traffic.send(encode_png(truck), "image/png", "nameless")
        traffic.send(encode_png(truck), "image/png", "named", model="other")
        traffic.flush()
        answer = pair_of(traffic.pairs(["named"])["named"]).response
        assert (answer.model, answer.primary) == ("other", False)
        headers = dict(traffic.dead_letters(["nameless"])["nameless"].headers())
        assert headers["reason"] == b"unknown_model" and f"{MODEL}, other".encode() in headers["error"]
        traffic.close()
    finally:
        worker.kill()
