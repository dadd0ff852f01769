"""Reads a whole topic as any subscriber would see it: committed records only, from the beginning to the end."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from runtime.errors import TransientError
from runtime.kafka import assigned_consumer, cluster_topics
from runtime.settings import Settings

QUIET_SECONDS = 2.0
"""Silence that counts as the end: a transaction's last marker has an offset but is never delivered."""


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
