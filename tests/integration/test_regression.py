"""A regression model through the real worker and agents: its values, the truth about them, and its errors."""

import csv
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from numpy.typing import NDArray
from rich.console import Console

from cli.feedback import FeedbackOptions, send_feedback
from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import write_checksums
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.messages import PerformanceReport
from schemas.pairs import read_pair
from schemas.payloads.encode import encode_json, encode_v2
from schemas.topics import DEAD_LETTERS, FEEDBACK, PAIRS, PERFORMANCE, REQUESTS
from tests.faults.agents import Store, wait_for
from tests.integration.asking import ask
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
MODEL = "crowd"
WEIGHTS, BIAS = np.array([[10.0], [20.0], [-30.0]], np.float32), -5.0
COUNT, EARLY = 40, 10
SITES = ("north", "south", "elsewhere")
NAMES = [f"crowd-{number}" for number in range(COUNT)]
ROWS = np.random.default_rng(7).random((COUNT, 3), np.float32)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"truth_value": float("nan")}, "invalid_json"),
    "word": ({"truth": "many"}, "invalid_field"),
    "label": ({"truth_label": "people"}, "invalid_field"),
    "class": ({"truth_index": 0}, "invalid_field"),
    "one-hot": ({"truth_one_hot": [0, 1, 0]}, "wrong_shape"),
    "too-large": ({"truth": 1e39}, "out_of_range"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model, which answers with a weighted sum of three numbers."""
    import tf_keras

    numbers = tf_keras.Input((3,))
    dense = tf_keras.layers.Dense(1)
    model = tf_keras.Model(numbers, dense(numbers))
    dense.set_weights([WEIGHTS, np.array([BIAS])])
    folder = tmp_path_factory.mktemp("models") / MODEL
    folder.mkdir()
    model.save(folder / "weights.keras")
    spec: dict[str, Any] = {"name": MODEL, "version": "1", "task": "regression", "labels": ["people"]}
    spec |= {"input": {"kind": "tabular", "shape": [3]}, "weights": {"file": "weights.keras"}, "batch_sizes": [1, 16]}
    spec |= {"breakdown": {"attribute": "site", "values": ["north", "south"]}}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    write_checksums(folder)
    return folder.parent


@pytest.fixture(scope="module")
def worker(
    own_servers: EmbeddedServers, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    environment = {"MODELWATCH_DEFAULT_MODEL": MODEL}
    process = WorkerProcess(
        own_servers.kafka, tmp_path_factory.mktemp("worker"), models=models, environment=environment
    )
    yield process.start()
    process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the agents' logs and state."""
    return tmp_path_factory.mktemp("agents")


def agent_of(name: str, servers: EmbeddedServers, models: Path, folder: Path, **more: str) -> WorkerProcess:
    environment = {
        "ELASTICSEARCH_URL": servers.elasticsearch,
        "MODELWATCH_STATE_FOLDER": str(folder / "state"),
        "MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "1e9",  # all pairs are in one
        "MODELWATCH_PERFORMANCE_TICK_SECONDS": "0.3",
        **more,
    }
    module = f"agents.{name}"
    return WorkerProcess(servers.kafka, folder, f"{name}-0", models=models, environment=environment, module=module)


@pytest.fixture(scope="module")
def agent(own_servers: EmbeddedServers, models: Path, worker: WorkerProcess, folder: Path) -> Iterator[WorkerProcess]:
    """The confusion agent; the outliers agent, which writes the records, runs beside it."""
    scorer = agent_of("outliers", own_servers, models, folder).start()
    process = agent_of("confusion", own_servers, models, folder).start()
    yield process.wait_ready()
    process.kill()
    scorer.kill()


@pytest.fixture(scope="module")
def store(own_servers: EmbeddedServers) -> Store:
    return Store(own_servers.elasticsearch)


def shown(agent: WorkerProcess, name: str, window: str = "lifetime", **labels: str) -> float:
    return agent.metric(f"modelwatch_{name}", window=window, **labels)


def outcome(agent: WorkerProcess, name: str) -> float:
    return agent.metric("modelwatch_feedback_total", outcome=name)


def tell(settings: Settings, truths: dict[str, dict[str, Any]], given_at: str = "2020-01-01T00:00:00Z") -> None:
    """Feedback by request id; each is the field that holds the truth."""
    items = {
        name: {"request_id": name, "model": MODEL, "given_at": given_at, **truth} for name, truth in truths.items()
    }
    # Not by orjson, which writes null for NaN.
    values = {name: json.dumps(item).encode() for name, item in items.items()}
    send_all(settings, FEEDBACK.name, values)


def send_all(settings: Settings, topic: str, values: dict[str, bytes]) -> None:
    """A message a key."""
    client, guard = kafka.producer(settings), kafka.DeliveryGuard()
    for key, value in values.items():
        headers = [("content-type", b"application/json")]
        kafka.produce(client, topic, guard.on_delivery, value=value, key=key, headers=headers)
    assert client.flush(30) == 0
    guard.check()


def tell_by_file(settings: Settings, models: Path, path: Path, truths: dict[str, float], **options: Any) -> None:
    """As `modelwatch feedback --csv` does."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "truth"), *truths.items()])
    own = settings.model_copy(update={"models": models})
    send_feedback(FeedbackOptions(csv=path, model=MODEL, **options), own, Console(quiet=True))


def answers(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model says of rows (n, 3)."""
    return (rows @ WEIGHTS + np.float32(BIAS))[:, 0]


def stored(store: Store) -> dict[str, tuple[float, float, str]]:
    """Value, truth and site of each record that has a truth."""
    records = store.all("inferences", ["request_id", "request.attributes", "response", "feedback"])
    return {
        name: (one["response"]["value"], one["feedback"]["value"], one["request"]["attributes"]["site"])
        for name, one in records.items()
        if "feedback" in one
    }


def check_figures(agent: WorkerProcess, records: dict[str, tuple[float, float, str]]) -> None:
    """The gauges are what numpy makes of the records, over all of them and by site."""
    parts: dict[str | None, Any] = {None: list(records.values())}
    for site, value in zip(SITES, ("north", "south", "other"), strict=True):
        parts[value] = [one for one in records.values() if one[2] == site]
    for part, own in parts.items():
        errors = np.array([answer - truth for answer, truth, _ in own])
        prefix, labels = ("", {}) if part is None else ("value_", {"value": part})
        assert shown(agent, f"{prefix}rmse", **labels) == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
        assert shown(agent, f"{prefix}mae", **labels) == pytest.approx(np.abs(errors).mean(), rel=1e-12)


def test_values_are_answered_recorded_and_compared_with_the_truth(
    worker: WorkerProcess, agent: WorkerProcess, store: Store, own_settings: Settings, models: Path, tmp_path: Path
) -> None:
    told = np.round((answers(ROWS) + np.linspace(-3, 9, COUNT)).astype(np.float64), 3)
    truths = dict(zip(NAMES, told.tolist(), strict=True))
    tell(own_settings, {name: {"truth": truths[name]} for name in NAMES[:EARLY]})
    wait_for(lambda: outcome(agent, "early") == EARLY, 30, lambda: f"{outcome(agent, 'early')} early")
    worker.wait_ready()
    requests = {
        name: encode_json(row, attributes={"site": SITES[number % len(SITES)]})
        for number, (name, row) in enumerate(zip(NAMES, ROWS, strict=True))
    }
    send_all(own_settings, REQUESTS.name, requests)
    pairs = [read_pair(message.value()) for message in read(own_settings, PAIRS.name, COUNT)]
    values = {pair.request.request_id: pair.response.value for pair in pairs}
    assert len(values) == len(pairs) == COUNT
    assert [values[name] for name in NAMES] == pytest.approx(answers(ROWS).tolist(), rel=1e-5)
    assert {pair.response.probabilities for pair in pairs} == {pair.response.label for pair in pairs} == {None}

    late = NAMES[-5:]  # of these the truth comes only when they have left the state
    known = {name: truths[name] for name in NAMES if name not in late}
    tell_by_file(
        own_settings, models, tmp_path / "truth.csv", known, shuffle=True, duplicates=0.4, corrections=0.4, seed=3
    )
    wait_for(lambda: {n: one[1] for n, one in stored(store).items()} == known, 60, lambda: f"{stored(store)}")
    wait_for(lambda: shown(agent, "labelled") == len(known), 30, lambda: f"{shown(agent, 'labelled')} labelled")
    check_figures(agent, stored(store))
    assert shown(agent, "rmse", "rolling") == shown(agent, "rmse")
    assert shown(agent, "label_coverage") == len(known) / COUNT
    for name in ("corrected", "duplicate"):
        assert outcome(agent, name) > 0
    assert not any(name in ("modelwatch_accuracy", "modelwatch_estimated_accuracy") for name, _ in agent.metrics())

    report = PerformanceReport.model_validate_json(read(own_settings, PERFORMANCE.name, 1)[-1].value())
    errors = np.array([answer - truth for answer, truth, _ in stored(store).values()])
    assert (report.size, report.labelled, report.confusion) == (COUNT, len(known), ())
    assert report.rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)
    assert report.mae == pytest.approx(np.abs(errors).mean(), rel=1e-12)
    wait_for(lambda: store.count("performance", "rmse") == 1, 30, lambda: "no record of the window")


def test_http_answers_are_values(worker: WorkerProcess) -> None:
    quiet = {"x-modelwatch-record": "false"}
    described = ask(worker, f"/v2/models/{MODEL}").json["outputs"]
    assert described == [{"name": "value", "datatype": "FP32", "shape": [-1, 1]}]
    [tensor] = ask(worker, f"/v2/models/{MODEL}/infer", encode_v2(ROWS[:2]), headers=quiet).json["outputs"]
    assert (tensor["name"], tensor["shape"]) == ("value", [2, 1])
    assert tensor["data"] == pytest.approx(answers(ROWS[:2]).tolist(), rel=1e-5)
    body = orjson.dumps({"instances": ROWS[:2].tolist()})
    predictions = ask(worker, f"/v1/models/{MODEL}:predict", body, headers=quiet).json["predictions"]
    assert predictions == [[value] for value in tensor["data"]]


def test_what_is_no_truth_about_a_number_is_in_the_dead_letters_and_changes_nothing(
    agent: WorkerProcess, own_settings: Settings
) -> None:
    before = shown(agent, "rmse"), shown(agent, "labelled")
    tell(own_settings, {name: truth for name, (truth, _) in BAD.items()})
    letters = {
        (letter.key() or b"").decode(): dict(letter.headers())["reason"].decode()
        for letter in read(own_settings, DEAD_LETTERS.name, len(BAD))
    }
    assert letters == {name: reason for name, (_, reason) in BAD.items()}
    assert (shown(agent, "rmse"), shown(agent, "labelled")) == before


def test_truths_about_what_has_left_the_state_are_joined_by_the_record(
    agent: WorkerProcess, own_servers: EmbeddedServers, store: Store, own_settings: Settings, models: Path, folder: Path
) -> None:
    labelled = int(shown(agent, "labelled"))
    agent.kill()
    short = {"JOIN_KEEP_SECONDS": "3", "JOIN_ORPHAN_SECONDS": "2", "JOIN_LOOKUP_SECONDS": "0.5"}
    environment = {f"MODELWATCH_{name}": seconds for name, seconds in short.items()}
    again = agent_of("confusion", own_servers, models, folder, **environment)
    try:
        again.start().wait_ready()
        wait_for(lambda: shown(again, "labelled") == labelled, 60, lambda: f"{shown(again, 'labelled')} labelled")
        wait_for(lambda: again.metric("modelwatch_join_entries") == 0, 60, lambda: "all has left the state")
        check_figures(again, stored(store))
        told = {NAMES[0]: 0.1, NAMES[1]: -1.0, **dict.fromkeys(NAMES[-5:], -1.0)}
        same = {NAMES[2]: stored(store)[NAMES[2]][1], "nobody": 4.0}
        truths = {name: {"truth_value": truth} for name, truth in (told | same).items()}
        tell(own_settings, truths, (utc_now() + timedelta(seconds=60)).isoformat())
        wait_for(lambda: shown(again, "labelled") == COUNT, 60, lambda: f"{shown(again, 'labelled')} labelled")
        wait_for(lambda: outcome(again, "late") == 8 and outcome(again, "orphan") == 1, 60, lambda: "late and orphan")
        wait_for(lambda: len(stored(store)) == COUNT, 30, lambda: f"{len(stored(store))} records with a truth")
        records = stored(store)
        assert {name: records[name][1] for name in told} == told
        check_figures(again, records)
        [letter] = [one for one in read(own_settings, DEAD_LETTERS.name, len(BAD) + 1) if one.key() == b"nobody"]
        assert dict(letter.headers())["reason"] == b"orphan"
    finally:
        again.kill()
