"""Requests sent twice, and feedback in any order and repeated: one record an id, and each label counted once."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
import yaml

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.settings import Settings
from schemas.payloads import encode_png
from schemas.topics import FEEDBACK
from tests.faults.agents import Store, wait_for
from tests.faults.pair_feed import LABELS
from tests.integration.conftest import MODEL, PROJECT
from tests.integration.traffic import Traffic
from tests.integration.workers import WorkerProcess

COUNT = 40
SECONDS = 60.0


@pytest.fixture
def bare_models(tmp_path: Path) -> Path:
    """The reference model's spec without weights and detectors: no process of it needs TensorFlow."""
    spec = yaml.safe_load((PROJECT / "models" / MODEL / "model.yaml").read_text())
    spec |= {"weights": {"framework": "null"}, "outliers": None, "drift": {}}
    (tmp_path / "models" / MODEL).mkdir(parents=True)
    (tmp_path / "models" / MODEL / "model.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "models"


@pytest.mark.timeout(900)
def test_repeated_requests_and_shuffled_feedback_leave_one_record_an_id_and_right_counts(
    own_servers: EmbeddedServers, own_settings: Settings, bare_models: Path, tmp_path: Path
) -> None:
    variables = {
        "ELASTICSEARCH_URL": own_servers.elasticsearch,
        "MODELWATCH_STATE_FOLDER": str(tmp_path / "state"),
    }
    _worker, outliers, confusion = processes = [
        WorkerProcess(own_servers.kafka, tmp_path, module, module, bare_models, variables, module)
        for module in ("inference", "agents.outliers", "agents.confusion")
    ]
    traffic, chance, store = Traffic(own_settings), random.Random(7), Store(own_servers.elasticsearch)
    ids = [f"repeated-{number}" for number in range(COUNT)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_ready()
        image = encode_png(np.zeros((32, 32, 3), np.uint8))
        told = feedback(ids)
        half = len(told) // 2
        chance.shuffle(told)
        tell(own_settings, told[:half])  # some before their pairs
        for request_id in chance.sample(ids + ids, 2 * COUNT):
            traffic.send(image, "image/png", request_id)
        traffic.flush()
        tell(own_settings, told[half:] + told[:half])

        def state() -> tuple[float, float, float]:
            return (
                outliers.metric("modelwatch_unscored_total"),
                confusion.metric("modelwatch_joined_pairs_total"),
                sum(cells(confusion).values()),
            )

        wait_for(lambda: state() == (2 * COUNT, 2 * COUNT, COUNT), SECONDS, lambda: str(state()))
        wanted = truths(ids)
        wait_for(lambda: store.count("inferences", "feedback.truth") == COUNT, SECONDS, lambda: "truths in the records")
        records = store.all("inferences", ["feedback.truth"])
        assert {name: one["feedback"]["truth"] for name, one in records.items()} == wanted
        # The null model answers the first class.
        assert cells(confusion) == {(LABELS[truth], LABELS[0]): n for truth, n in Counter(wanted.values()).items()}
        assert [process.stop() for process in processes] == [0, 0, 0]
    finally:
        traffic.close()
        for process in processes:
            process.kill()


def truths(ids: list[str]) -> dict[str, int]:
    return {name: number % 3 for number, name in enumerate(ids)}


def feedback(ids: list[str]) -> list[tuple[str, bytes]]:
    """The truth about each, twice, and a wrong one that was given earlier: key and value."""
    told = []
    for name, truth in truths(ids).items():
        for given, form in ((1, (truth + 1) % 3), (2, truth), (2, truth)):
            item = {"request_id": name, "truth_index": form, "given_at": f"2026-01-01T00:00:0{given}Z"}
            told.append((name, orjson.dumps(item)))
    return told


def tell(settings: Settings, told: list[tuple[str, bytes]]) -> None:
    client = kafka.producer(settings)
    for name, value in told:
        kafka.produce(client, FEEDBACK.name, key=name, value=value)
    assert client.flush(SECONDS) == 0


def cells(confusion: WorkerProcess) -> dict[tuple[str, str], float]:
    """The lifetime's confusion matrix, without its zeros."""
    return {
        (dict(labels)["truth"], dict(labels)["predicted"]): value
        for (name, labels), value in confusion.metrics().items()
        if name == "modelwatch_confusion" and ("window", "lifetime") in labels and value
    }
