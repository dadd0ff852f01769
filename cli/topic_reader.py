"""Reads a whole topic as any subscriber would see it: committed records only, from the beginning to the end."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from runtime.errors import TransientError
from runtime.kafka import assigned_consumer, cluster_topics
from runtime.settings import Settings

QUIET_SECONDS = 2.0
"""Silence that counts as the end: a transaction's last marker has an offset but is never delivered."""
SILENCE_SECONDS = 30.0


def read_topic(settings: Settings, topic: str, done: Callable[[], bool], timeout: float) -> Iterator[Any]:
    """Messages of `topic` from the beginning, until `done()` is true and nothing has come for `QUIET_SECONDS`.

    Reading on after `done` shows what there is too much of.

    Raises:
        TransientError: `done()` was not true within `timeout` seconds.
    """
    partitions = cluster_topics(settings)[topic]
    consumer = assigned_consumer(settings)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    deadline = time.monotonic() + timeout
    quiet_since = time.monotonic()
    try:
        while True:
            messages = [message for message in consumer.consume(500, 0.2) if message.error() is None]
            yield from messages
            now = time.monotonic()
            quiet_since = now if messages else quiet_since
            if done() and now - quiet_since > QUIET_SECONDS:
                return
            if now > deadline and not done():
                raise TransientError(f"{topic} did not hold what was awaited within {timeout:g} s")
    finally:
        consumer.close()


def read_to_end(settings: Settings, topic: str) -> Iterator[Any]:
    """Committed messages of `topic`, from the beginning to where each partition ends now: what comes meanwhile is left.

    Raises:
        TransientError: there is no such topic, or the brokers fall silent before its end.
    """
    partitions = cluster_topics(settings).get(topic)
    if partitions is None:
        raise TransientError(f"topic {topic} does not exist; run `modelwatch setup`")
    consumer = assigned_consumer(settings, **{"enable.partition.eof": True})
    places = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)]
    try:
        ends = {place.partition: consumer.get_watermark_offsets(place, timeout=SILENCE_SECONDS)[1] for place in places}
        consumer.assign(places)
        yield from _up_to(consumer, ends, topic)
    except KafkaException as failure:
        raise TransientError(f"{topic} cannot be read: {failure.args[0].str()}") from failure
    finally:
        consumer.close()


def _up_to(consumer: Consumer, ends: dict[int, int], topic: str) -> Iterator[Any]:
    """The end of a partition tells, too: a transaction's last marker has an offset but is never delivered."""
    unread, deadline = {partition for partition, end in ends.items() if end}, time.monotonic() + SILENCE_SECONDS
    while unread:
        if time.monotonic() > deadline:
            raise TransientError(f"{topic}: no answer about partitions {sorted(unread)} in {SILENCE_SECONDS:g} s")
        for message in consumer.consume(500, 0.2):
            error, partition = message.error(), message.partition()
            if error is None:
                deadline = time.monotonic() + SILENCE_SECONDS
                if message.offset() < ends[partition]:
                    yield message
                if message.offset() >= ends[partition] - 1:
                    unread.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(partition)
