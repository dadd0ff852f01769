"""Requests to models beside the lab's own, all the while that these come and go; and the truths about the answers."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from confluent_kafka import Message, TopicPartition

from runtime import kafka
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.payloads.encode import encode_png
from schemas.topics import DEAD_LETTERS, FEEDBACK, PAIRS, REQUESTS
from tests.faults.side_found import answer_of, letter_of, refused_of
from tests.faults.side_ledger import Answer, Expected, Refused, SideRequest
from tests.faults.stream import HEADERS, wait_until
from training.datasets import load_split

RATE = 4.0
"""Requests a second to each model."""
TICK_SECONDS = 0.25
IMAGES = 200
WAIT_SECONDS = 180.0
HELD_BACK = 3
"""The truth about every third request is held back until it is asked for."""


@dataclass
class _Stream:
    expected: Expected
    sent: int = 0
    flowing: bool = True


class Seen(NamedTuple):
    """What was sent, about which of it the truth was told, and what came of it."""

    sent: list[SideRequest]
    told: set[str]
    pairs: list[Answer]
    letters: list[Refused]


class SideTraffic:
    """Sends to each model that is opened, and sees what becomes of it. Use it in a `with` block.

    Attributes:
        sent: every request, by id, in the order of sending.
        pairs, letters: every answer and every refusal that was seen, each as often as it is there.
        told: ids about which the truth was told.
    """

    def __init__(self, settings: Settings) -> None:
        images, labels = load_split("test", progress=False)
        self._values = [encode_png(image) for image in images[:IMAGES]]
        self._labels = labels[:IMAGES].tolist()
        self._producer = kafka.producer(settings, **{"log_level": 0})
        self._guard = kafka.DeliveryGuard()
        self._reader = kafka.assigned_consumer(settings, **{"log_level": 0})
        self._streams: dict[str, _Stream] = {}
        self._held: dict[str, None] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._settings = settings
        self._failed: BaseException | None = None
        self.sent: dict[str, SideRequest] = {}
        self.pairs: list[Answer] = []
        self.letters: list[Refused] = []
        self._settled: set[str] = set()
        self.told: set[str] = set()

    def __enter__(self) -> "SideTraffic":
        partitions = kafka.cluster_topics(self._settings)
        topics = (PAIRS.name, DEAD_LETTERS.name)
        self._reader.assign([TopicPartition(name, number, 0) for name in topics for number in range(partitions[name])])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._reader.close()

    def open(self, model: str, expected: Expected) -> None:
        """Begin to send to a model."""
        with self._lock:
            self._streams[model] = _Stream(expected)

    def expect(self, model: str, expected: Expected) -> None:
        """From now on this may become of requests to it. What may become of those sent before stays."""
        with self._lock:
            self._streams[model].expected = expected

    def close(self, model: str) -> None:
        """Send no more to it."""
        with self._lock:
            self._streams[model].flowing = False

    @property
    def models(self) -> list[str]:
        """Every model that was ever opened, the first one first."""
        with self._lock:
            return list(self._streams)

    def of(self, *models: str) -> list[SideRequest]:
        """What was sent to these so far, or to all."""
        with self._lock:
            return [one for one in self.sent.values() if not models or one.model in models]

    def wait_settled(self, model: str) -> None:
        """Wait until everything sent to it so far has a pair or a dead letter."""
        names = {one.request_id for one in self.of(model)}
        self._wait(lambda: names <= self._settled, f"pairs or letters of {model}")

    def wait_sent(self, model: str, count: int) -> None:
        """Wait until so many more were sent to it."""
        enough = len(self.of(model)) + count
        self._wait(lambda: len(self.of(model)) >= enough, f"{count} more requests to {model}")

    def wait_seen(self, count: int) -> None:
        """Wait until so many pairs were seen."""
        self._wait(lambda: len(self.pairs) >= count, f"{count} pairs")

    def tell_held_back(self, model: str) -> None:
        """Tell the truths about a model's answers that were held back so far."""
        with self._lock:
            for name in [one for one in self._held if self.sent[one].model == model]:
                del self._held[name]
                self._tell(name, None)

    def finish(self) -> None:
        """Send no more, wait for every answer, tell every truth, and see all acknowledged."""
        for model in list(self._streams):
            self.close(model)
            self.wait_settled(model)
            self.tell_held_back(model)
        assert self._producer.flush(60) == 0
        self._guard.check()

    def seen(self, *models: str) -> "Seen":
        """What was sent to these models, or all, and what came of it so far."""
        with self._lock:
            sent = self.of(*models)
            names = {one.request_id for one in sent}
            pairs = [one for one in self.pairs if one.request_id in names]
            letters = [one for one in self.letters if one.request_id in names]
            return Seen(sent, self.told & names, pairs, letters)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            if self._failed is not None:
                raise RuntimeError(f"the side models' traffic ended: {self._failed!r}") from self._failed
            with self._lock:
                return condition()

        wait_until(holds, WAIT_SECONDS, what)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self._lock:
                    for model, stream in self._streams.items():
                        if stream.flowing:
                            self._send(model, stream)
                messages = self._reader.consume(2000, TICK_SECONDS)
                with self._lock:
                    for message in messages:
                        self._see(message)
                self._producer.poll(0)
        except BaseException as error:  # told by whoever waits for the thread
            self._failed = error

    def _send(self, model: str, stream: _Stream) -> None:
        for _ in range(max(1, round(RATE * TICK_SECONDS))):
            name, row = f"{model}-{stream.sent:06d}", stream.sent % IMAGES
            stream.sent += 1
            self.sent[name] = SideRequest(name, model, self._labels[row], stream.expected)
            headers = [*HEADERS, ("model", model.encode())]
            send = partial(kafka.produce, self._producer, REQUESTS.name, self._guard.on_delivery, headers=headers)
            send(key=name, value=self._values[row])

    def _see(self, message: Message) -> None:
        if message.error() is not None:
            return  # a broker is away; the client tries again
        if message.topic() == PAIRS.name:
            answer = answer_of(message.value())
            if answer.request_id in self.sent:
                self.pairs.append(answer)
                self._judge(answer)
        elif (refused := refused_of(letter_of(message))) is not None and refused.request_id in self.sent:
            self.letters.append(refused)
            self._settled.add(refused.request_id)

    def _judge(self, answer: Answer) -> None:
        """Tell the truth about an answer: of every third later, of every third by the model's name as well."""
        if answer.request_id in self._settled:
            return
        self._settled.add(answer.request_id)
        place = int(answer.request_id.rsplit("-", 1)[1]) % HELD_BACK
        if place == 0:
            self._held[answer.request_id] = None
        else:
            self._tell(answer.request_id, answer.model if place == 1 else None)

    def _tell(self, name: str, model: str | None) -> None:
        item = {"request_id": name, "truth_index": self.sent[name].truth, "given_at": utc_now().isoformat()}
        value = json.dumps(item | ({"model": model} if model else {}))
        kafka.produce(self._producer, FEEDBACK.name, self._guard.on_delivery, key=name, value=value)
        self.told.add(name)
