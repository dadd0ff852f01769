"""Reads a stretch of a topic, by time or by offset, as any subscriber would: committed records, to the present end."""

from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from runtime import kafka
from runtime.errors import TransientError
from runtime.settings import Settings

CALL_SECONDS = 30.0
POLL_MESSAGES = 500


def offsets_at(settings: Settings, topic: str, moment: float) -> dict[int, int]:
    """By partition, the offset of the first message at or after `moment` (seconds since the epoch), or the end."""
    reader = kafka.assigned_consumer(settings)
    try:
        asked = [TopicPartition(topic, number, int(moment * 1000)) for number in _partitions(settings, topic)]
        found = reader.offsets_for_times(asked, timeout=CALL_SECONDS)
        return {
            one.partition: one.offset if one.offset >= 0 else reader.get_watermark_offsets(one, timeout=CALL_SECONDS)[1]
            for one in found
        }
    except KafkaException as error:
        raise TransientError(f"the brokers do not answer: {error.args[0].str()}") from error
    finally:
        reader.close()


def beginnings(settings: Settings, topic: str) -> dict[int, int]:
    """By partition, the offset of the first message that is still kept."""
    reader = kafka.assigned_consumer(settings)
    try:
        return {
            number: reader.get_watermark_offsets(TopicPartition(topic, number), timeout=CALL_SECONDS)[0]
            for number in _partitions(settings, topic)
        }
    except KafkaException as error:
        raise TransientError(f"the brokers do not answer: {error.args[0].str()}") from error
    finally:
        reader.close()


def read_from(settings: Settings, topic: str, offsets: Mapping[int, int]) -> Iterator[Any]:
    """Messages of these partitions from these offsets, to where each ends now; in order within a partition.

    Raises:
        TransientError: the brokers do not answer.
    """
    reader = kafka.assigned_consumer(settings, **{"enable.partition.eof": True})
    open_partitions = set(offsets)
    try:
        reader.assign([TopicPartition(topic, number, offset) for number, offset in offsets.items()])
        silent = 0
        while open_partitions:
            messages = reader.consume(POLL_MESSAGES, 1.0)
            silent = 0 if messages else silent + 1
            if silent > CALL_SECONDS:
                raise TransientError(f"{topic} was not read to its end: the brokers have been silent for {silent} s")
            for message in messages:
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
    finally:
        reader.close()


def whole(settings: Settings, topic: str) -> dict[int, int]:
    """Offsets by which `read_from` reads all there is."""
    return dict.fromkeys(_partitions(settings, topic), 0)


def _partitions(settings: Settings, topic: str) -> range:
    found = kafka.cluster_topics(settings)
    if topic not in found:
        raise TransientError(f"there is no topic {topic}; create the topics with `modelwatch setup`")
    return range(found[topic])
