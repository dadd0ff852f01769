"""The agents under kill -9: each pair has one record with its verdict, and is in one window, as if undisturbed.

`MODELWATCH_FULL_FAULTS=1` runs the whole size: 20,000 pairs and 10 kills, with every detector of the reference model.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
import psutil
import pytest

from agents.outliers.detector import OutlierDetector
from cli.replay.command import replay
from cli.supervisor import answers
from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import load_model_folders
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas import topics
from schemas.topics import DEAD_LETTERS
from tests.faults.agents import Fleet, Store, make_models, reports, undisturbed, wait_for, without_time
from tests.faults.pair_feed import PairFeed
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import read
from training.datasets import load_split

FULL = os.environ.get("MODELWATCH_FULL_FAULTS") == "1"
PAIRS, KILLS, RATE = (20_000, 10, 100.0) if FULL else (2_400, 3, 100.0)
WINDOW = 1000 if FULL else 200
DETECTORS = ("untrained_encoder", "probabilities") if FULL else ("probabilities",)
SETTLE_SECONDS = 240.0
AWAY_SECONDS = 60.0 if FULL else 8.0
MAX_GROWTH_BYTES = 150 << 20
QUIET_SECONDS = 0.5
SESSION_MS = "6000"
"""Shorter than an agent's start: some kills cause a rebalance, others are over before."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A record store for one test, with our templates."""
    servers = EmbeddedServers(tmp_path / "store")
    servers.start()
    asyncio.run(setup_record_store(Settings(elasticsearch_url=servers.elasticsearch)))
    yield servers
    servers.kill()


def agent(module: str, number: int, kafka: ApacheKafka, store: str, models: Path, folder: Path) -> WorkerProcess:
    environment = {
        "ELASTICSEARCH_URL": store,
        "MODELWATCH_SESSION_TIMEOUT_MS": SESSION_MS,
    }
    name = f"{module}-{number}"
    return WorkerProcess(
        kafka.bootstrap, folder, name, models=models, environment=environment, module=f"agents.{module}"
    )


@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_killed_agents_lose_and_repeat_nothing(
    own_kafka: ApacheKafka, own_settings: Settings, store: EmbeddedServers, tmp_path: Path
) -> None:
    models = make_models(tmp_path / "models", ["fast", "slow"], {"window_size": WINDOW}, DETECTORS)
    processes = [
        agent(module, number, own_kafka, store.elasticsearch, models, tmp_path)
        for module in ("outliers", "drift")
        for number in range(2)
    ]
    fleet = Fleet(processes, seed=int(time.time()))
    records = Store(store.elasticsearch)
    try:
        fleet.start()
        feed = PairFeed(own_settings, "pair", PAIRS, RATE, {"fast": 3, "slow": 1}).start()
        for _ in range(KILLS):
            time.sleep(PAIRS / RATE / (KILLS + 1))
            fleet.kill_one()
        feed.join()
        wanted = sum(count // WINDOW for count in Counter(feed.models.values()).values())

        def done() -> bool:
            return records.count("inferences", "outlier.score") == PAIRS and len(reports(own_settings)) == wanted

        def state() -> str:
            scored, windows = records.count("inferences", "outlier.score"), len(reports(own_settings))
            return f"{scored} of {PAIRS} scored, {windows} of {wanted} windows"

        wait_for(done, SETTLE_SECONDS, state, fleet.revive)
        statuses = fleet.stop()
    finally:
        fleet.kill()
    print(f"kills: {dict(fleet.kills)}")
    assert statuses == [0, 0, 0, 0]
    assert fleet.setbacks == []
    assert read(own_settings, DEAD_LETTERS.name) == []
    _check_records(records, feed, models)
    _check_windows(own_settings, records, feed, models)
    settings = own_settings.model_copy(update={"elasticsearch_url": store.elasticsearch, "models": models})
    _check_audit(settings, records, wanted)


def with_unmappable_size(value: bytes) -> bytes:
    """A pair that every reader takes, with a size of its batch that the mapping's integer cannot hold."""
    pair = orjson.loads(value)
    pair["response"]["batch_size"] = 2**40
    return orjson.dumps(pair)


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_a_store_that_is_away_loses_no_record_and_costs_no_membership(
    own_kafka: ApacheKafka, own_settings: Settings, store: EmbeddedServers, tmp_path: Path
) -> None:
    """One document in the midst is refused by the mapping: it alone is in the dead letters, whole."""
    models = make_models(tmp_path / "models", ["fast"], {"window_size": WINDOW})
    processes = [agent(module, 0, own_kafka, store.elasticsearch, models, tmp_path) for module in ("outliers", "drift")]
    fleet, records = Fleet(processes, seed=0), Store(store.elasticsearch)
    total = int(AWAY_SECONDS * RATE * 2)
    try:
        fleet.start()
        feed = PairFeed(own_settings, "pair", total, RATE, {"fast": 1}).start()
        wait_for(lambda: records.count("inferences", "outlier.score") > 100, 120, lambda: "the first records")
        before = [(process.metric("modelwatch_assignments_total"), memory(process)) for process in processes]
        with standing_still(processes):
            store.stop()
        poison = with_unmappable_size(feed.value(total, "poison"))
        kafka.produce(producer := kafka.producer(own_settings), topics.PAIRS.name, key="poison", value=poison)
        assert producer.flush(30) == 0
        time.sleep(AWAY_SECONDS)
        for process, (assignments, size) in zip(processes, before, strict=True):
            assert process.alive and answers(f"{process.url}/health/live")
            assert process.metric("modelwatch_assignments_total") == assignments
            assert memory(process) - size < MAX_GROWTH_BYTES
        store.start()
        feed.join()

        def scored() -> int:
            return records.count("inferences", "outlier.score")

        windows = (total + 1) // WINDOW
        wait_for(
            lambda: scored() == total and len(reports(own_settings)) == windows,
            SETTLE_SECONDS,
            lambda: f"{scored()} of {total} scored, {len(reports(own_settings))} of {windows} windows",
        )
        assert [process.metric("modelwatch_assignments_total") for process in processes] == [one for one, _ in before]
        assert fleet.stop() == [0, 0]
    finally:
        fleet.kill()
    [letter] = read(own_settings, DEAD_LETTERS.name)
    headers = dict(letter.headers())
    assert (letter.key(), letter.value()) == (b"poison", poison)
    assert (headers["stage"], headers["reason"]) == (b"outliers", b"mapping_rejected")
    assert headers["topic"] == topics.PAIRS.name.encode()
    linked = {name for one in reports(own_settings).values() for name in one.request_ids or ()}
    found = records.all("inferences", ["outlier.score"])
    assert {name for name, one in found.items() if one} == set(feed.models)
    assert len(linked) == windows * WINDOW


@contextmanager
def standing_still(processes: list[WorkerProcess]) -> Iterator[None]:
    """SIGSTOP for a while: the embedded store acknowledges writes while it saves its data to end, and loses them."""
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(QUIET_SECONDS)  # what was sent before is written
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


def memory(process: WorkerProcess) -> int:
    """Resident bytes."""
    return int(psutil.Process(process.pid).memory_info().rss)


def _check_records(records: Store, feed: PairFeed, models: Path) -> None:
    """One record a pair, with the verdict that the detector gives its image."""
    found = records.all("inferences", ["model", "outlier.score", "outlier.is_outlier"])
    assert found.keys() == feed.models.keys()
    detector = OutlierDetector(load_model_folders(models)["fast"])
    images = load_split("test", progress=False)[0]
    rows = sorted(set(feed.rows.values()))
    scores = dict(zip(rows, detector.score(images[np.array(rows)]).scores.tolist(), strict=True))
    for request_id, record in found.items():
        score = scores[feed.rows[request_id]]
        assert record["model"] == feed.models[request_id]
        assert record["outlier"]["score"] == pytest.approx(score, rel=1e-12)
        assert record["outlier"]["is_outlier"] == (score > detector.threshold)


def _check_windows(settings: Settings, records: Store, feed: PairFeed, models: Path) -> None:
    """Windows hold each pair once, and are those of a reader that was never killed, p-values and all."""
    found, expected = reports(settings), undisturbed(settings, models)
    assert {name: without_time(one) for name, one in found.items()} == {
        name: without_time(one) for name, one in expected.items()
    }
    for model, count in Counter(feed.models.values()).items():
        own = [report for report in found.values() if report.model == model]
        ids = [request_id for report in own for request_id in report.request_ids or ()]
        assert len(ids) == len(set(ids)) == count // WINDOW * WINDOW
        assert {feed.models[request_id] for request_id in ids} == {model}
        assert {report.closed_by for report in own} == {"full"}
    assert records.all("drift", ["size"]).keys() == found.keys()
    window_of = {name: one.window_id for one in found.values() for name in one.request_ids or ()}
    linked = records.all("inferences", ["drift.window_id"])
    assert {name: one["drift"]["window_id"] for name, one in linked.items() if one} == window_of


def _check_audit(settings: Settings, records: Store, windows: int) -> None:
    """`modelwatch replay` finds everything as recorded, and a record that was tampered with."""
    audits = replay(settings, 0.0, time.time())
    assert [audit.differences for audit in audits.values()] == [[], []]
    assert [audit.compared for audit in audits.values()] == [windows, PAIRS]
    [index] = list(records.call("GET", "modelwatch-inferences-*/_mapping"))
    records.call("POST", f"{index}/_update/pair-000008?refresh=true", {"doc": {"outlier": {"score": 0.5}}})
    [_, verdicts] = replay(settings, 0.0, time.time()).values()
    assert [(one.what, one.field) for one in verdicts.differences] == [("pair-000008", "score")]
