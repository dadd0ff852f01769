"""The confusion agent under kill -9: its counts are those that scikit-learn computes from the stored records.

`MODELWATCH_FULL_FAULTS=1` runs the whole size: 20,000 pairs, feedback about each, and 10 kills.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.pairs import read_pair
from schemas.topics import DEAD_LETTERS, FEEDBACK, PAIRS, PERFORMANCE
from tests.faults.agents import Fleet, Store, make_models, wait_for
from tests.faults.pair_feed import LABELS, PairFeed
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import read

FULL = os.environ.get("MODELWATCH_FULL_FAULTS") == "1"
COUNT, KILLS, RATE = (20_000, 10, 200.0) if FULL else (2_000, 3, 150.0)
SETTLE_SECONDS = 180.0
MODEL = "judged"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A record store for one test, with our templates."""
    servers = EmbeddedServers(tmp_path / "store")
    servers.start()
    asyncio.run(setup_record_store(Settings(elasticsearch_url=servers.elasticsearch)))
    yield servers
    servers.kill()


def agent(number: int, bootstrap: str, store: str, models: Path, folder: Path, **more: str) -> WorkerProcess:
    environment = {
        "ELASTICSEARCH_URL": store,
        "MODELWATCH_SESSION_TIMEOUT_MS": "6000",
        "MODELWATCH_STATE_FOLDER": str(folder / "state"),
        "MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "2",
        "MODELWATCH_JOIN_LOOKUP_SECONDS": "6",
        **more,
    }
    return WorkerProcess(
        bootstrap, folder, f"confusion-{number}", models=models, environment=environment, module="agents.confusion"
    )


class FeedbackFeed:
    """Tells the truth about the requests of a `PairFeed`: some before the pair, some wrong at first, some twice.

    Attributes:
        truths: the final one of each request.
    """

    def __init__(self, settings: Settings, prefix: str, count: int, rate: float) -> None:
        chance = random.Random(5)
        names = [f"{prefix}-{index:06d}" for index in range(count)]
        self.truths = {name: chance.randrange(len(LABELS)) for name in names}
        messages: list[tuple[float, str, int, int]] = []
        for index, name in enumerate(names):
            place = index + chance.uniform(-100, 300)
            messages.append((place, name, self.truths[name], 2))
            if chance.random() < 0.3:
                messages.append((place + chance.uniform(-100, 100), name, chance.randrange(len(LABELS)), 1))
            if chance.random() < 0.3:
                messages.append((place + chance.uniform(0, 200), name, self.truths[name], 2))
        self._messages = sorted(messages)
        self._settings, self._rate = settings, rate
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "FeedbackFeed":
        self._thread.start()
        return self

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        client, began = kafka.producer(self._settings), time.monotonic()
        for number, (place, name, truth, second) in enumerate(self._messages):
            time.sleep(max(0.0, began + place / self._rate - time.monotonic()))
            send(client, name, number, truth, second)
        client.flush(30)


def send(client: Any, name: str, number: int, truth: int, second: int) -> None:
    """In one of the forms, in turn."""
    one_hot = [int(index == truth) for index in range(len(LABELS))]
    forms = (
        {"truth_index": truth},
        {"truth_label": LABELS[truth]},
        {"truth_one_hot": one_hot},
        {"truth_probabilities": [0.05 + 0.5 * one for one in one_hot]},
        {"truth": [truth]},
    )
    item = {"request_id": name, "given_at": f"2026-01-01T00:00:0{second}Z", **forms[number % len(forms)]}
    value = orjson.dumps([item] if number % 7 == 0 else item)
    # Some lie where their pair is not: without a key they are on any partition.
    kafka.produce(client, FEEDBACK.name, value=value, key=None if number % 11 == 0 else name)
    client.poll(0)


def gauges(fleet: Fleet) -> dict[tuple[str, str], float]:
    """Cells of the lifetime's confusion matrix; one instance alone shows them."""
    found: dict[tuple[str, str], float] = {}
    for own, value in lifetime(fleet, "confusion"):
        cell = own["truth"], own["predicted"]
        assert cell not in found, "two instances show the same model"
        found[cell] = value
    return found


def lifetime(fleet: Fleet, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each sample of a metric of the lifetime, from the instances that answer."""
    for process in fleet.processes:
        with suppress(OSError):
            for (found, labels), value in process.metrics().items():
                own = dict(labels)
                if found == f"modelwatch_{name}" and own["window"] == "lifetime":
                    yield own, value


def figure(fleet: Fleet, name: str, **labels: str) -> float:
    values: list[float] = []

    def is_shown() -> bool:
        values[:] = [value for own, value in lifetime(fleet, name) if labels.items() <= own.items()]
        return bool(values)

    wait_for(is_shown, SETTLE_SECONDS, lambda: f"nobody shows {name}", fleet.revive)
    [value] = values
    return value


@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_counts_are_those_of_the_records_whatever_is_killed(
    own_kafka: ApacheKafka, own_settings: Settings, store: EmbeddedServers, tmp_path: Path
) -> None:
    models = make_models(tmp_path / "models", [MODEL], {"window_size": 1000})
    # In the whole size, most pairs leave the state before the end.
    bounds = {"MODELWATCH_JOIN_MAX_ENTRIES": "1000"}
    processes = [
        agent(number, own_kafka.bootstrap, store.elasticsearch, models, tmp_path, **bounds) for number in range(2)
    ]
    scorer = WorkerProcess(
        own_kafka.bootstrap,
        tmp_path,
        "outliers-0",
        models=models,
        environment={"ELASTICSEARCH_URL": store.elasticsearch},
        module="agents.outliers",
    )
    fleet, records = Fleet(processes, seed=int(time.time())), Store(store.elasticsearch)
    try:
        fleet.start()
        if FULL:
            scorer.start().wait_ready()
        pairs = PairFeed(own_settings, "pair", COUNT, RATE, {MODEL: 1}).start()
        truths = FeedbackFeed(own_settings, "pair", COUNT, RATE).start()
        for _ in range(KILLS):
            time.sleep(COUNT / RATE / (KILLS + 1))
            fleet.kill_one()
        pairs.join()
        truths.join()
        wait_for(
            lambda: sum(gauges(fleet).values()) == COUNT and records.count("inferences", "feedback.truth") == COUNT,
            SETTLE_SECONDS,
            lambda: (
                f"{sum(gauges(fleet).values())} of {COUNT} counted, "
                f"{records.count('inferences', 'feedback.truth')} recorded"
            ),
            fleet.revive,
        )

        def stored_truths() -> dict[str, Any]:
            found = records.all("inferences", ["feedback", "request_id", "response.predicted"])
            return {name: record["feedback"]["truth"] for name, record in found.items()}

        # Corrections change no count of records.
        wait_for(lambda: stored_truths() == truths.truths, SETTLE_SECONDS, lambda: "the last corrections", fleet.revive)
        stored = records.all("inferences", ["feedback", "request_id", "response.predicted"])
        if FULL:
            predicted = {name: record["response"]["predicted"] for name, record in stored.items()}
        else:
            found = (read_pair(message.value()) for message in read(own_settings, PAIRS.name))
            predicted = {pair.request.request_id: pair.response.predicted for pair in found}
        told = [stored[name]["feedback"]["truth"] for name in sorted(stored)]
        assert told == [truths.truths[name] for name in sorted(stored)]
        answers = [predicted[name] for name in sorted(stored)]
        matrix = confusion_matrix(told, answers, labels=range(len(LABELS)))

        def shows_them() -> bool:
            return bool((cells(fleet) == matrix).all())

        wait_for(shows_them, SETTLE_SECONDS, lambda: f"{cells(fleet)}", fleet.revive)
        time.sleep(3)  # were anything counted twice by what is still on its way, it would show
        assert cells(fleet).sum() <= COUNT
        # One that was killed last may come back only now; while partitions move, nobody shows anything.
        wait_for(shows_them, SETTLE_SECONDS, lambda: f"{cells(fleet)}", fleet.revive)
        assert figure(fleet, "accuracy") == pytest.approx(accuracy_score(told, answers), abs=1e-12)
        theirs = precision_recall_fscore_support(told, answers, labels=range(len(LABELS)))
        for name, values in zip(("precision", "recall", "f1"), theirs, strict=False):
            for label, value in zip(LABELS, values, strict=True):
                assert figure(fleet, name, label=label) == pytest.approx(value, abs=1e-12)
        check_reports(own_settings)
        statuses = fleet.stop()
    finally:
        fleet.kill()
        scorer.kill()
    print(f"kills: {dict(fleet.kills)}")
    assert statuses == [0, 0]
    assert fleet.setbacks == []
    assert read(own_settings, DEAD_LETTERS.name) == []


def cells(fleet: Fleet) -> NDArray[np.int64]:
    """The confusion matrix that the agents show; rows are the truth."""
    shown = gauges(fleet)
    return np.array([[shown.get((truth, answer), 0) for answer in LABELS] for truth in LABELS])


def check_reports(settings: Settings) -> None:
    """The last report of each window: together they have every pair once and every label once."""
    reports: dict[str, Any] = {}
    for message in sorted(read(settings, PERFORMANCE.name), key=lambda one: (one.partition(), one.offset())):
        report = orjson.loads(message.value())
        reports[report["window_id"]] = report
    assert sum(report["size"] for report in reports.values()) == COUNT
    assert sum(sum(map(sum, report["confusion"])) for report in reports.values()) <= COUNT
