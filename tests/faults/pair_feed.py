"""Pairs written as the worker writes them, straight to the topic: in transactions, some of which are aborted."""

import threading
import time
from collections.abc import Mapping

import numpy as np
from confluent_kafka import Producer

from runtime import kafka
from runtime.settings import Settings
from schemas.headers import PAIR_TYPE, WORKER_SOURCE, event_headers, rfc3339
from schemas.pairs import PairWriter
from schemas.topics import PAIRS
from training.datasets import load_split

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SITES: tuple[dict[str, str], ...] = ({"site": "north"}, {"site": "south"}, {"site": "elsewhere"}, {})
"""Attributes of the requests, in turn."""
TRANSACTION = 50
ABORT_EVERY = 7
TICK_SECONDS = 0.05


class PairFeed:
    """Writes `count` pairs at a steady pace from a thread of its own; models take turns by their weights.

    Attributes:
        models: model of each committed pair so far, by request id.
        rows: the test image of each, by request id.
    """

    def __init__(self, settings: Settings, prefix: str, count: int, rate: float, models: Mapping[str, int]) -> None:
        self._images = load_split("test", progress=False)[0]
        self._settings = settings
        self._prefix = prefix
        self._count = count
        self._rate = rate
        turns = [name for name, weight in models.items() for _ in range(weight)]
        self._model_of = lambda index: turns[index * 7919 % len(turns)]
        self._writers = {name: PairWriter(name, "1", "ab" * 32, LABELS, "CPU:0") for name in models}
        self.models: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> "PairFeed":
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> "PairFeed":
        """Wait for the last pair."""
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.failure = error

    def _run(self) -> None:
        producer = kafka.producer(self._settings, f"feed-{self._prefix}", **{"log_level": 0})
        producer.init_transactions(30)
        began, sent, turn = time.monotonic(), 0, 0
        while sent < self._count:
            due = min(self._count, int((time.monotonic() - began) * self._rate) + 1)
            while sent < due:
                batch = range(sent, min(due, sent + TRANSACTION))
                turn += 1
                if turn % ABORT_EVERY == 0:
                    self._write(producer, batch, "aborted")
                    producer.abort_transaction(30)
                self._write(producer, batch, self._prefix)
                producer.commit_transaction(30)
                sent = batch[-1] + 1
            time.sleep(TICK_SECONDS)

    def _write(self, producer: Producer, batch: range, prefix: str) -> None:
        producer.begin_transaction()
        for index in batch:
            model, key = self._model_of(index), f"{prefix}-{index:06d}"
            headers = event_headers(key, PAIR_TYPE, WORKER_SOURCE, rfc3339(time.time()), model, None)
            kafka.produce(producer, PAIRS.name, value=self.value(index, key), key=key, headers=headers)
            if prefix != "aborted":
                self.models[key], self.rows[key] = model, index % len(self._images)
        producer.flush(30)

    def value(self, index: int, key: str) -> bytes:
        """The pair of that number under a request id."""
        now, model = time.time(), self._model_of(index)
        probabilities = np.random.default_rng(index).dirichlet(np.ones(10))[None].astype(np.float32).clip(0, 1)
        image = self._images[index % len(self._images)][None]
        [value] = self._writers[model].encode(
            [key], image, [SITES[index % len(SITES)]], [now], [None], probabilities, [0.01], [0.0], 0.01, 1, now
        )
        return value
