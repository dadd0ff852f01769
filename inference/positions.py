"""Which request comes next, by partition: where reading begins, and a record of it that brokers never forget.

Committed offsets say so, but not for ever: brokers forget those of a group that was away for a week, and take those of
a topic for the next one of its name. `inference.positions` says of which topic of which cluster a position is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from inference.starts import FIRST, Recorded, start_of
from runtime import kafka
from runtime.errors import TransientError
from runtime.logging import get_logger
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.messages import RequestPosition
from schemas.topics import POSITIONS, REQUESTS

log = get_logger(__name__)

Offsets = Mapping[tuple[str, int], int]
CALL_SECONDS = 10.0
RECORD_SECONDS = 30.0
"""A partition's position is recorded so often while there is traffic, and when it is given up."""


class Positions:
    """Positions of one consumer group on `inference.requests`."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._admin = kafka.admin(settings)
        self._topic = ("", "")
        self._recorded_at: dict[int, float] = {}

    def begin(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Where to begin these partitions, which were just assigned; says in the log where it is no committed offset.

        Raises:
            TransientError: the brokers do not say.
        """
        self._topic, self._recorded_at = self._identity(CALL_SECONDS), {}
        try:
            committed = {one.partition: one.offset for one in consumer.committed(list(partitions), CALL_SECONDS)}
            ends = {one.partition: consumer.get_watermark_offsets(one, CALL_SECONDS) for one in partitions}
        except KafkaException as failure:
            raise TransientError(f"the brokers do not say where to begin: {failure.args[0].str()}") from failure
        recorded = self._recorded()
        begun = []
        for number, (low, high) in ends.items():
            offset = committed[number] if committed[number] >= 0 else None
            start = start_of(offset, low, high, recorded.get(number))
            if start.why:
                facts = {"partition": number, "offset": start.offset, "committed": offset, "first": low, "end": high}
                say = log.info if start.why == FIRST else log.warning
                say(start.why, topic=REQUESTS.name, **facts)
            begun.append(TopicPartition(REQUESTS.name, number, start.offset))
        return begun

    def is_same_topic(self) -> bool:
        """Whether the topic is the one that the partitions were assigned of; also where the brokers do not say."""
        try:
            return self._identity(1.0) == self._topic
        except TransientError:
            return True

    def due(self, offsets: Offsets, everything: bool) -> Iterator[dict[str, Any]]:
        """Messages for the transaction that commits these offsets: of partitions not recorded for a while, or all."""
        now = time.monotonic()
        for (_, partition), offset in offsets.items():
            if everything or now - self._recorded_at.get(partition, -RECORD_SECONDS) >= RECORD_SECONDS:
                self._recorded_at[partition] = now
                cluster, topic = self._topic
                position = RequestPosition(
                    cluster_id=cluster, topic_id=topic, partition=partition, offset=offset, written_at=utc_now()
                )
                key = f"{self._group}/{partition}"
                yield {"topic": POSITIONS.name, "key": key, "value": position.model_dump_json().encode()}

    def _identity(self, seconds: float) -> tuple[str, str]:
        """Ids of the cluster and of the topic of requests; that is empty where the brokers have none."""
        topic = kafka.topic_ids(self._admin, [REQUESTS.name], seconds).get(REQUESTS.name, "")
        try:
            cluster = self._admin.list_topics(REQUESTS.name, timeout=seconds).cluster_id
        except KafkaException as failure:
            raise TransientError(f"topic {REQUESTS.name} cannot be described: {failure.args[0].str()}") from failure
        return cluster or "", topic

    def _recorded(self) -> dict[int, Recorded]:
        """The last records of this group in this cluster, by partition."""
        found: dict[int, Recorded] = {}
        cluster, topic = self._topic
        if not topic:
            return found
        reader = kafka.assigned_consumer(self._settings, **{"enable.partition.eof": True})
        try:
            partitions = self._admin.list_topics(POSITIONS.name, CALL_SECONDS).topics[POSITIONS.name].partitions
            for message in _read_all(reader, len(partitions)):
                group = (message.key() or b"").decode(errors="replace").rpartition("/")[0]
                if group == self._group and message.value():
                    position = RequestPosition.model_validate_json(message.value())
                    if position.cluster_id == cluster:
                        same = position.topic_id == topic
                        found[position.partition] = Recorded(position.offset, same)
        except KafkaException as failure:
            raise TransientError(f"topic {POSITIONS.name} cannot be read: {failure.args[0].str()}") from failure
        finally:
            reader.close()
        return found


def _read_all(reader: Consumer, partitions: int) -> Iterator[Any]:
    """Every message of `inference.positions`, which is compacted."""
    reader.assign([TopicPartition(POSITIONS.name, number, OFFSET_BEGINNING) for number in range(partitions)])
    unread, deadline = set(range(partitions)), time.monotonic() + CALL_SECONDS
    while unread:
        if time.monotonic() > deadline:
            raise TransientError(f"topic {POSITIONS.name} could not be read to its end in {CALL_SECONDS:g} s")
        for message in reader.consume(1000, 0.1):
            error = message.error()
            if error is None:
                deadline = time.monotonic() + CALL_SECONDS
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
