"""Writing messages, and reading all there are, for tests against any broker."""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, TopicPartition

from runtime import kafka
from runtime.settings import Settings

DEADLINE = 120.0


def send(settings: Settings, topic: str, values: Sequence[bytes | None], **message: Any) -> None:
    client = kafka.producer(settings)
    guard = kafka.DeliveryGuard()
    for value in values:
        kafka.produce(client, topic, on_delivery=guard.on_delivery, value=value, **message)
    assert client.flush(DEADLINE) == 0
    guard.check()


def read(settings: Settings, topic: str, at_least: int = 0, **overrides: Any) -> list[Message]:
    """All messages of a topic: read to the end of every partition, and on until there are `at_least` so many.

    A transaction may become visible a moment after its commit returned, hence the number.
    """
    reader = kafka.assigned_consumer(settings, **{"enable.partition.eof": True} | overrides)
    partitions = kafka.cluster_topics(settings)[topic]
    reader.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    deadline = time.monotonic() + DEADLINE
    found: list[Message] = []
    ended: set[int] = set()
    while len(ended) < partitions or len(found) < at_least:
        assert time.monotonic() < deadline, f"{len(found)} messages of {at_least}, {ended} of {partitions} partitions"
        for message in reader.consume(500, 0.1):
            if message.error() is None:
                found.append(message)
                ended.discard(message.partition())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    reader.close()
    return found


def committed(settings: Settings, group: str, topic: str, partitions: int = 1) -> int:
    """Sum of the group's committed offsets; a partition without one counts nothing."""
    reader = kafka.consumer(settings, group, static=False)
    offsets = reader.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=DEADLINE)
    reader.close()
    return sum(max(0, one.offset) for one in offsets)
