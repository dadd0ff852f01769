"""What an agent writes to topics: in order, without gaps, and safe before anything is acknowledged."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from runtime import kafka
from runtime.elasticsearch_sink import Record
from runtime.errors import FatalError
from runtime.metrics import CommonMetrics
from runtime.settings import Settings
from schemas.letters import dead_letter
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS

GAPLESS = {
    "enable.gapless.guarantee": True,
    # A message that timed out would be a gap that the guarantee does not cover.
    "message.timeout.ms": 0,
    # librdkafka 2.16 warns that the guarantee is experimental, each time.
    "log_level": 3,
    # Sums and folds of models with many classes; every reader takes gzip, also one of an earlier version.
    "compression.type": "gzip",
    "compression.level": 1,
}
CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to produce.

    Attributes:
        partition: None: by the key.
        time: milliseconds since the epoch; None: now.
        delivered: gets the message's offset, in the producer's thread and in the order of the partition's log.
    """

    topic: str
    key: str | bytes | None
    value: bytes | None
    headers: list[tuple[str, Any]] = field(default_factory=list)
    partition: int | None = None
    time: int | None = None
    delivered: Callable[[int], None] | None = None


class Results:
    """Produces from an event loop, through librdkafka's idempotent producer.

    Messages of one partition are in the log in the order of the calls, and none is missing between two: a message that
    cannot be delivered stops the producer for good (`enable.gapless.guarantee`), and the call raises.

    Args:
        loop: where `publish` is called.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._producer = kafka.producer(settings, None, **GAPLESS)
        self._loop = loop
        self._closing = threading.Event()
        self._waiting: set[asyncio.Future[None]] = set()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._poll, name="results", daemon=True)
        self._thread.start()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return when the brokers hold all of them. They are queued, in order, before this first yields.

        Raises:
            FatalError: one cannot be delivered; nothing more can be after it.
        """
        if not messages:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        flight = _Flight(len(messages), done, self._loop)
        self._waiting.add(done)
        try:
            for message in messages:
                self._produce(message, flight)
            if self._failure is not None:
                raise FatalError(self._failure)
            await done
        except KafkaException as error:
            raise FatalError(f"a result could not be produced to {message.topic}: {error.args[0].str()}") from error
        finally:
            self._waiting.discard(done)

    def _produce(self, message: Outgoing, flight: "_Flight") -> None:
        options: dict[str, Any] = {"value": message.value, "key": message.key, "headers": message.headers}
        if message.partition is not None:
            options["partition"] = message.partition
        if message.time is not None:
            options["timestamp"] = message.time
        report = flight.on_delivery if message.delivered is None else partial(flight.on_place, message.delivered)
        kafka.produce(self._producer, message.topic, report, **options)

    def _poll(self) -> None:
        while not self._closing.is_set():
            try:
                self._producer.poll(0.2)
            except KafkaException as error:  # a fatal one; there are no more delivery reports after it
                self._loop.call_soon_threadsafe(self._fail, f"results cannot be delivered: {error.args[0].str()}")
                return

    def _fail(self, reason: str) -> None:
        self._failure = reason
        for done in self._waiting:
            if not done.done():
                done.set_exception(FatalError(reason))

    def close(self) -> None:
        """Deliver what is queued, for at most two seconds; who still waits for the rest waits in vain."""
        with contextlib.suppress(KafkaException):  # it has failed, and who waited has been told
            self._producer.flush(CLOSE_SECONDS)
        self._closing.set()
        self._thread.join(1)


class _Flight:
    """The messages of one `publish` that are not acknowledged yet."""

    def __init__(self, count: int, done: "asyncio.Future[None]", loop: asyncio.AbstractEventLoop) -> None:
        self._remaining = count
        self._done = done
        self._loop = loop

    def on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._loop.call_soon_threadsafe(self._fail, f"{message.topic()} [{message.partition()}]: {error.str()}")
            return
        self._remaining -= 1  # in the polling thread only
        if not self._remaining:
            self._loop.call_soon_threadsafe(self._finish)

    def on_place(self, delivered: Callable[[int], None], error: KafkaError | None, message: Any) -> None:
        """As `on_delivery`, and says where the message stands."""
        if error is None:
            delivered(message.offset())
        self.on_delivery(error, message)

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(FatalError(f"a result could not be delivered to {reason}"))


class DeadLetters:
    """Sends what an agent cannot process to the dead letters, whole, and counts it.

    Args:
        stage: the agent's name, in the header `stage` and the metric.
    """

    def __init__(self, results: Results, metrics: CommonMetrics, stage: str) -> None:
        self._results = results
        self._metrics = metrics
        self._stage = stage

    async def send(self, refused: Sequence[tuple[Any, Refusal]]) -> None:
        """Return when the brokers hold the letters.

        Args:
            refused: consumed messages (key, value, headers, topic, partition, offset), each with why it is refused.

        Raises:
            FatalError: a letter cannot be delivered. Better down than lossy.
        """
        await self._results.publish([self._letter(message, refusal) for message, refusal in refused])
        for _, refusal in refused:
            self._metrics.dead_letters.labels(self._stage, refusal.reason.value).inc()

    async def send_record(self, record: Record, reason: str) -> None:
        """The store will never take this record: what it was made of goes to the dead letters; the others are written.

        Raises:
            FatalError: as `send`.
        """
        await self.send([(record.source, Refusal(Reason.MAPPING_REJECTED, f"{record.index}/{record.id}: {reason}"))])

    def _letter(self, message: Any, refusal: Refusal) -> Outgoing:
        place = (message.topic, message.partition, message.offset)
        letter = dead_letter(message.key, message.value, message.headers, place, self._stage, refusal)
        return Outgoing(DEAD_LETTERS.name, *letter)
