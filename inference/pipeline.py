"""Kafka in, Kafka out: fetch and decode, compute, publish and commit, each on its own thread, all at the same time.

A pipeline is thrown away whole at the first trouble (aborted transaction, lost partitions, broker away) and a new one
starts at the committed offsets: the same path as after a crash, and the only one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from inference.batcher import Batcher
from inference.budget import Budget
from inference.chunks import Chunk, Decode, build_chunk
from inference.positions import Positions
from inference.publisher import Publisher
from inference.settings import WorkerSettings
from runtime import kafka
from runtime.errors import ConfigurationError, FatalError, TransientError
from runtime.logging import get_logger
from runtime.metrics import WorkerMetrics
from runtime.topic_check import check_topics
from schemas.pairs import PairWriter
from schemas.topics import DEAD_LETTERS, PAIRS, POSITIONS, REQUESTS

log = get_logger(__name__)

NEEDED = (REQUESTS, PAIRS, DEAD_LETTERS, POSITIONS)
REVOKE_SECONDS = 20.0
TOPICS_SECONDS = 5.0
TOPIC_SECONDS = 2.0
REFRESH_MS = 10_000
GONE = {KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
STOP_SECONDS = 5.0
POLL_SECONDS = 1.0
CLOSE_SECONDS = 5.0
LAG_SECONDS = 1.0
ERROR_LOG_SECONDS = 10.0
FETCH_MESSAGES = 8
"""Taken from the client at once: the bytes of so many are not bounded but by the topic."""
QUEUE_KBYTES = 64 << 10
"""Of pairs that the client holds until the brokers have them."""


class Pipeline:
    """One life of the Kafka side of the worker. `run` it once.

    Args:
        batcher: shared with the HTTP endpoint, outlives this pipeline.
        on_ready: called with whether the consumer takes part in its group.
        beat: called at every turn of the fetch loop.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        batcher: Batcher,
        decode: Decode,
        writers: Mapping[str, PairWriter],
        batch_sizes: Mapping[str, int],
        metrics: WorkerMetrics,
        on_ready: Callable[[bool], None],
        beat: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._batcher = batcher
        self._decode = decode
        self._batch_sizes = batch_sizes
        self._fetch_size = max(batch_sizes.values())
        # What is decoded and not yet handed over comes on top of what is in hand.
        self._chunk_bytes = settings.decoded_bytes // 8
        self._budget = Budget(settings.decoded_bytes - self._chunk_bytes)
        self._metrics = metrics
        self._on_ready = on_ready
        self._beat = beat
        self._group: Any = None
        self._assignments = 0
        self._error_log_due = 0.0
        self._lag_due = 0.0
        self._refused_credentials: KafkaError | None = None
        self._gone: KafkaError | None = None
        self._positions = Positions(settings, settings.group)
        self._topic_due = 0.0
        self._publisher = Publisher(
            kafka.producer(
                settings,
                transactional_id=f"{settings.group}-{settings.instance}",
                error_cb=self._on_client_error,
                **{"queue.buffering.max.kbytes": QUEUE_KBYTES},
                **kafka.watched_connections(lambda: self._publisher.on_broken_connection()),
            ),
            writers,
            metrics,
            self._positions,
            settings.pipeline_depth,
            settings.transaction_seconds,
        )
        self._consumer: Consumer = kafka.consumer(
            settings,
            settings.group,
            static=settings.static_membership,
            error_cb=self._on_client_error,
            **{
                "session.timeout.ms": settings.session_timeout_ms,
                "topic.metadata.refresh.interval.ms": REFRESH_MS,  # how soon a deleted topic is seen
                "auto.offset.reset": "error",  # where to begin is known better here
                "heartbeat.interval.ms": min(3_000, settings.session_timeout_ms // 3),
            },
        )

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set, then finish what is in hand.

        Raises:
            TransientError: start a new pipeline; also while a topic is missing.
            FatalError: stop the process.
        """
        try:
            if not self._publisher.start(partial(self._goes_on, stopping)):
                return
            check_topics(kafka.cluster_topics(self._settings, TOPICS_SECONDS), NEEDED)
            self._consumer.subscribe(
                [REQUESTS.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while self._goes_on(stopping):
                self._turn(stopping)
            if not self._publisher.flush(STOP_SECONDS):
                log.warning("stopped_with_uncommitted_work", remedy="none needed: it is computed again after the start")
        except KafkaException as error:
            raise _consumer_error(error.args[0]) from error
        finally:
            self._end(stopping)

    def _end(self, stopping: threading.Event) -> None:
        """Take back what is not committed, leave the group, and raise what forbids a next pipeline."""
        self._publisher.abandon(TransientError("the pipeline ended"))
        self._on_ready(False)
        self._publisher.close(POLL_SECONDS if stopping.is_set() else CLOSE_SECONDS)
        self._consumer.close()
        self._raise_refused_credentials()
        if isinstance(self._publisher.failure, FatalError):
            raise self._publisher.failure

    def _goes_on(self, stopping: threading.Event) -> bool:
        self._beat()
        self._raise_refused_credentials()
        return not stopping.is_set()

    def _turn(self, stopping: threading.Event) -> None:
        self._publisher.check()
        if self._gone is not None:
            raise TransientError(f"a topic or its partitions are gone: {self._gone.str()}")
        self._check_topic()
        messages = self._fetch()
        received_at, group = time.time(), self._group
        left = deque(message for message in messages if not self._is_error(message))
        while left:
            # Taken off one by one: what is decoded need not be kept as it came.
            chunk = build_chunk(
                _taken(left), self._decode, self._batch_sizes.__getitem__, received_at, group, self._chunk_bytes
            )
            if not self._hand_over(chunk, stopping):
                return  # it is not committed, so it is read again after the start
        self._measure_lag()

    def _fetch(self) -> list[Any]:
        """Messages for a batch: as many as come in time, or fewer where they are large."""
        messages: list[Any] = []
        size, until = 0, time.monotonic() + self._settings.max_wait_seconds
        while len(messages) < self._fetch_size and size < self._chunk_bytes:
            count = min(FETCH_MESSAGES, self._fetch_size - len(messages))
            assignments = self._assignments
            # Partitions may come and go inside this call: librdkafka then takes what was of the revoked ones off what
            # it returns. What was read before is not ours any more, and read again by whom it belongs to.
            came = self._consumer.consume(count, max(0.0, until - time.monotonic()))
            messages = [*messages, *came] if self._assignments == assignments else came
            size = sum(len(message.value() or b"") for message in messages)
            if len(came) < count:
                break
        return messages

    def _hand_over(self, chunk: Chunk, stopping: threading.Event) -> bool:
        """To those who compute and publish, when there is room; False if told to stop before."""
        held = min(chunk.nbytes, self._budget.total)
        while not self._budget.acquire(held, POLL_SECONDS):
            self._publisher.check()
            if not self._goes_on(stopping):
                return False
        chunk.on_end = partial(self._budget.release, held)
        for part in chunk.parts:
            self._batcher.submit(part.job)
        while not self._publisher.put(chunk, timeout=POLL_SECONDS):
            self._publisher.check()
            if not self._goes_on(stopping):
                return False
        return True

    def _check_topic(self) -> None:
        """See now and then that the topic is still the one of the assignment: librdkafka reads on in another."""
        if time.monotonic() >= self._topic_due and self._group is not None:
            self._topic_due = time.monotonic() + TOPIC_SECONDS
            if not self._positions.is_same_topic():
                raise TransientError(f"topic {REQUESTS.name} was deleted and made anew")

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assignments += 1
        self._group = consumer.consumer_group_metadata()
        if not consumer.memberid():
            # Brokers take offsets without a member's name unchecked (KIP-447), and then nothing fences us.
            raise TransientError("the membership was lost before the partitions were taken over")
        consumer.assign(self._positions.begin(consumer, partitions))
        log.info("partitions_assigned", partitions=[partition.partition for partition in partitions])
        self._on_ready(True)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit all that is in hand before the partitions go to somebody else."""
        self._assignments += 1
        self._forget_lag(partitions)
        if self._publisher.failure is not None:
            return  # nothing of this pipeline will be committed any more
        flushed = self._publisher.flush(REVOKE_SECONDS)
        log.info("partitions_revoked", partitions=[partition.partition for partition in partitions], flushed=flushed)
        if not flushed:
            self._publisher.abandon(TransientError("the work in hand could not be committed before a rebalance"))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("partitions_lost", partitions=[partition.partition for partition in partitions])
        self._forget_lag(partitions)
        self._publisher.abandon(TransientError("this worker was too slow and its partitions were given to others"))

    def _on_client_error(self, error: KafkaError) -> None:
        if kafka.refused(error):
            self._refused_credentials = error
        elif error.code() in GONE:
            self._gone = error
        else:
            self._warn("kafka_client", error=error.str())

    def _warn(self, event: str, **facts: Any) -> None:
        """Log what the client says again and again, at most once in ten seconds."""
        if time.monotonic() >= self._error_log_due:
            self._error_log_due = time.monotonic() + ERROR_LOG_SECONDS
            log.warning(event, **facts)

    def _raise_refused_credentials(self) -> None:
        if self._refused_credentials is not None:
            raise ConfigurationError(
                f"the brokers at {self._settings.kafka_bootstrap_servers} refused this client: "
                f"{self._refused_credentials.str()}; check the MODELWATCH_KAFKA_* settings"
            )

    def _is_error(self, message: Any) -> bool:
        """Whether the message is an error event; raises if it needs a new pipeline."""
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TransientError(f"topic {REQUESTS.name} does not exist; run `modelwatch setup`")
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise TransientError(f"there is nothing to read where reading should go on: {error.str()}")
        if error.code() == KafkaError._MAX_POLL_EXCEEDED or _is_fatal(error):
            raise _consumer_error(error)
        if error.code() in kafka.UNREADABLE:
            self._warn(
                "batch_unreadable",
                **{"topic": message.topic(), "partition": message.partition(), "offset": message.offset()},
                error=error.str(),
                remedy="this partition waits here: restore it from another replica, or delete records up to behind "
                "this offset, see docs/operate.md",
            )
        else:
            self._warn("consumer_event", error=error.str())
        return True

    def _measure_lag(self) -> None:
        now = time.monotonic()
        if now < self._lag_due:
            return
        self._lag_due = now + LAG_SECONDS
        for position in self._consumer.position(self._consumer.assignment()):
            _low, high = self._consumer.get_watermark_offsets(position, cached=True)
            if high >= 0 and position.offset >= 0:
                lag = self._metrics.consumer_lag.labels(position.topic, str(position.partition))
                lag.set(max(0, high - position.offset))

    def _forget_lag(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            try:
                self._metrics.consumer_lag.remove(partition.topic, str(partition.partition))
            except KeyError:
                continue  # it was never measured


def _taken(messages: deque[Any]) -> Iterator[Any]:
    while messages:
        yield messages.popleft()


def _is_fatal(error: KafkaError) -> bool:
    return bool(error.fatal()) or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)


def _consumer_error(error: KafkaError) -> TransientError | FatalError:
    """Our error for one of the consumer's; fatal where a new pipeline would only throw the newer worker out in turn."""
    if not _is_fatal(error):
        return TransientError(f"the consumer failed: {error.str()}")
    return FatalError(
        f"the consumer was put out of its group for good: {error.str()}; if it was fenced, another worker has the same "
        "MODELWATCH_INSTANCE: give each its own"
    )
