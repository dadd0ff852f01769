"""The confusion agent as a process: late, unknown and bad feedback, and what it shows."""

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agents.confusion.told_sums import partition_of
from agents.outliers.records import document_of, index_of
from agents.pairs import ReadPair
from runtime import kafka
from runtime.elasticsearch_sink import client_from_settings
from runtime.embedded import EmbeddedServers
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.pairs import read_pair
from schemas.topics import DEAD_LETTERS, FEEDBACK, PAIRS, PERFORMANCE_SUMS
from tests.faults.agents import Store, make_models, wait_for
from tests.faults.pair_feed import LABELS, PairFeed
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read, send

MODEL = "judged"
COUNT = 40
KEEP_SECONDS = 9
BAD: dict[str, tuple[bytes, str]] = {
    "not-json": (b"{", "invalid_json"),
    "empty": (b"", "empty_value"),
    "wrong-class": (b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth_index": 10}', "out_of_range"),
    "unknown-label": (
        b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth_label": "zebra"}',
        "invalid_field",
    ),
    "wrong-length": (b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth": [0, 1, 0]}', "wrong_shape"),
    "nan": (b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth": [NaN]}', "invalid_json"),
    "two-forms": (
        b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth_index": 1, "truth_label": "cat"}',
        "invalid_field",
    ),
    "no-id": (b'{"given_at": "2026-01-01T00:00:00Z", "truth_index": 1}', "missing_field"),
    "unknown-model": (
        b'{"request_id": "x", "given_at": "2026-01-01T00:00:00Z", "truth_index": 1, "model": "nobody"}',
        "unknown_model",
    ),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Servers of our own: topic names are fixed."""
    with EmbeddedServers(tmp_path_factory.mktemp("own-servers")) as own:
        settings = Settings(kafka_bootstrap_servers=own.kafka, elasticsearch_url=own.elasticsearch)
        kafka.create_topics(settings)
        asyncio.run(setup_record_store(settings))
        yield own
        own.kill()


@pytest.fixture(scope="module")
def settings(servers: EmbeddedServers) -> Settings:
    return Settings(kafka_bootstrap_servers=servers.kafka, elasticsearch_url=servers.elasticsearch, instance="tests")


@pytest.fixture(scope="module")
def agent(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("agent")
    breakdown = {"attribute": "site", "values": ["north", "south", "west"]}
    models = make_models(folder / "models", [MODEL], {"window_size": 1000}, breakdown=breakdown)
    environment = {
        "ELASTICSEARCH_URL": servers.elasticsearch,
        "MODELWATCH_STATE_FOLDER": str(folder / "state"),
        "MODELWATCH_JOIN_KEEP_SECONDS": str(KEEP_SECONDS),
        "MODELWATCH_JOIN_LOOKUP_SECONDS": "1",
        "MODELWATCH_JOIN_ORPHAN_SECONDS": "7",
        "MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "1",
        "MODELWATCH_PERFORMANCE_TICK_SECONDS": "0.3",
    }
    process = WorkerProcess(
        servers.kafka, folder, "confusion-0", models=models, environment=environment, module="agents.confusion"
    )
    yield process.start().wait_ready()
    process.kill()


def tell(settings: Settings, name: str, truth: int, given_at: str, **more: Any) -> None:
    item = {"request_id": name, "truth_index": truth, "given_at": given_at, **more}
    send(settings, FEEDBACK.name, [orjson.dumps(item)], key=name)


def shown(agent: WorkerProcess, name: str, window: str = "lifetime", **labels: str) -> float:
    return agent.metric(f"modelwatch_{name}", window=window, **labels)


def outcome(agent: WorkerProcess, name: str) -> float:
    return agent.metric("modelwatch_feedback_total", outcome=name)


def write_records(settings: Settings) -> dict[str, int]:
    """What the outliers agent would have written; and the prediction of each pair."""

    async def write() -> dict[str, int]:
        client, predicted = client_from_settings(settings), {}
        for message in read(settings, PAIRS.name, COUNT):
            source = SimpleNamespace(
                value=message.value(), partition=message.partition(), offset=message.offset(), headers=()
            )
            one = ReadPair(read_pair(message.value()), source)
            name = one.pair.request.request_id
            await client.update(index=index_of(one), id=name, doc=document_of(one, None), doc_as_upsert=True)
            predicted[name] = int(one.pair.response.predicted or 0)
        await client.indices.refresh(index="modelwatch-inferences-*")
        await client.close()
        return predicted

    return asyncio.run(write())


def test_bad_feedback_is_in_the_dead_letters_with_its_reason_and_counts_stay(
    agent: WorkerProcess, settings: Settings
) -> None:
    for name, (value, _) in BAD.items():
        send(settings, FEEDBACK.name, [value], key="x", headers=[("name", name.encode())])
    wait_for(lambda: outcome(agent, "invalid") == len(BAD), 30, lambda: f"{outcome(agent, 'invalid')} refused")
    letters = {
        dict(letter.headers())["name"].decode(): (letter.value() or b"", dict(letter.headers())["reason"].decode())
        for letter in read(settings, DEAD_LETTERS.name, len(BAD))
    }
    assert letters == BAD
    assert shown(agent, "confusion") == 0


def unreadable(agent: WorkerProcess) -> float:
    return agent.metric("modelwatch_sums_left_out_total", reason="unreadable")


POISON = [
    (f"{MODEL}/1/9/0", b"\xff"),
    ("a/b/c/d/e", b"{}"),
    ("no window", b"[" * 10_000),
    (f"{MODEL}/1/-7/0", b'{"model": "%s"}' % MODEL.encode()),
]


def test_poison_among_the_sums_is_in_the_dead_letters_and_gone_from_the_topic(
    agent: WorkerProcess, settings: Settings
) -> None:
    target = partition_of(MODEL, kafka.cluster_topics(settings)[PERFORMANCE_SUMS.name])
    for key, value in [*POISON, ("nothing, where nothing was", None)]:
        send(settings, PERFORMANCE_SUMS.name, [value], key=key, partition=target)
    wait_for(lambda: unreadable(agent) == len(POISON), 30, lambda: f"{unreadable(agent)} unreadable")
    letters = read(settings, DEAD_LETTERS.name, len(BAD) + len(POISON))
    origins = [dict(letter.headers() or [])["topic"].decode() for letter in letters]
    assert origins.count(PERFORMANCE_SUMS.name) == len(POISON)
    ends: dict[bytes, bytes | None] = {}
    for message in read(settings, PERFORMANCE_SUMS.name, len(POISON) + 1):
        ends[message.key()] = message.value()
    assert [ends[key.encode()] for key, _ in POISON] == [None] * len(POISON)


def test_late_feedback_is_joined_by_the_record_and_moves_the_count_again(
    agent: WorkerProcess, servers: EmbeddedServers, settings: Settings
) -> None:
    PairFeed(settings, "old", COUNT, 500.0, {MODEL: 1}).start().join()
    predicted = write_records(settings)
    early = sorted(predicted)[:10]
    for name in early:
        tell(settings, name, predicted[name], "2026-01-01T00:00:00Z")
    wait_for(lambda: shown(agent, "labelled") == 10, 30, lambda: f"{shown(agent, 'labelled')} labelled")
    assert shown(agent, "accuracy") == 1.0
    assert 0 < shown(agent, "estimated_accuracy") < 1
    wait_for(lambda: agent.metric("modelwatch_join_entries") == 0, 60, lambda: "all has left the state")
    assert shown(agent, "labelled") == 10
    store = Store(servers.elasticsearch)
    store.call("POST", "_refresh")

    # Of the first ten, two are corrected after they left the state; one was never labelled before; one is told again.
    wrong = {name: (predicted[name] + 1) % len(LABELS) for name in early[:2]}
    for name, truth in wrong.items():
        tell(settings, name, truth, "2026-01-02T00:00:00Z")
    tell(settings, early[2], predicted[early[2]], "2026-01-01T00:00:00Z")
    tell(settings, early[3], (predicted[early[3]] + 1) % len(LABELS), "2025-01-01T00:00:00Z")  # older than what holds
    fresh = sorted(predicted)[20]
    tell(settings, fresh, predicted[fresh], "2026-01-02T00:00:00Z")
    wait_for(lambda: outcome(agent, "late") == 5, 30, lambda: f"{outcome(agent, 'late')} late")
    wait_for(lambda: shown(agent, "labelled") == 11, 30, lambda: f"{shown(agent, 'labelled')} labelled")
    assert shown(agent, "accuracy") == pytest.approx(9 / 11, abs=1e-12)
    # Of the eleven, in turn from the north, the south, elsewhere and nowhere, a northern and a southern one are wrong.
    values = {"north": (4, 3 / 4), "south": (3, 2 / 3), "other": (2, 1.0), "none": (2, 1.0), "west": (0, 0.0)}
    for value, (labelled, accuracy) in values.items():
        assert shown(agent, "value_labelled", value=value) == labelled
        assert shown(agent, "value_accuracy", value=value) == pytest.approx(accuracy, abs=1e-12)
    assert sum(shown(agent, "value_size", value=value) for value in values) == COUNT
    feedback = store.all("inferences", ["feedback", "request_id"])
    assert {name: feedback[name]["feedback"]["truth"] for name in wrong} == wrong
    assert feedback[early[3]]["feedback"]["truth"] == predicted[early[3]]


def test_figures_survive_a_restart_and_the_loss_of_the_local_state(
    agent: WorkerProcess, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {name: shown(agent, name) for name in ("labelled", "accuracy", "log_loss", "brier", "calibration_error")}
    agent.kill()
    for state in agent.log.parent.glob("state/*/partition-*/*"):
        state.unlink()
    agent.start().wait_ready()
    wait_for(lambda: shown(agent, "labelled") == before["labelled"], 60, lambda: f"{shown(agent, 'labelled')} labelled")
    assert {name: shown(agent, name) for name in before} == before


def test_feedback_about_nothing_is_an_orphan_after_its_time(agent: WorkerProcess, settings: Settings) -> None:
    tell(settings, "nobody", 3, "2026-01-01T00:00:00Z")
    labelled = shown(agent, "labelled")
    wait_for(lambda: outcome(agent, "orphan") == 1, 60, lambda: "it still waits")
    [letter] = [one for one in read(settings, DEAD_LETTERS.name) if one.key() == b"nobody"]
    assert dict(letter.headers())["reason"] == b"orphan"
    assert orjson.loads(letter.value())["truth_index"] == 3
    assert shown(agent, "labelled") == labelled


def test_feedback_with_its_own_response_needs_no_pair(agent: WorkerProcess, settings: Settings) -> None:
    labelled = shown(agent, "labelled")
    response = [0.91] + [0.01] * 9
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    tell(settings, "alone", 0, now, model=MODEL, response=response)
    wait_for(lambda: shown(agent, "labelled") == labelled + 1, 30, lambda: "it is not counted")


def test_a_class_without_a_sample_has_no_figure(agent: WorkerProcess, settings: Settings) -> None:
    for name, value in agent.metrics().items():
        assert value == value, f"{name} is NaN"
    answered = {dict(labels)["label"] for (name, labels) in agent.metrics() if name == "modelwatch_recall"}
    told = {
        dict(labels)["truth"] for (name, labels), value in agent.metrics().items() if name == "modelwatch_confusion"
    }
    assert answered == told
