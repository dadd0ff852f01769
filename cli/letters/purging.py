"""Deletes dead letters for good: all of a partition before a moment, which is what Kafka can delete."""

from confluent_kafka import KafkaException, TopicPartition

from runtime import kafka
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings
from schemas.topics import DEAD_LETTERS

CALL_SECONDS = 30.0


def purgeable(settings: Settings, before: float) -> dict[int, tuple[int, int]]:
    """By partition, the first offset there is and the one up to which letters are older than a moment.

    Args:
        before: seconds since the epoch, by the letters' timestamps in the log.
    """
    partitions = kafka.cluster_topics(settings).get(DEAD_LETTERS.name)
    if partitions is None:
        raise TransientError(f"topic {DEAD_LETTERS.name} does not exist; run `modelwatch setup`")
    consumer = kafka.assigned_consumer(settings)
    try:
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(DEAD_LETTERS.name, number), timeout=CALL_SECONDS)
            for number in range(partitions)
        }
        asked = [TopicPartition(DEAD_LETTERS.name, number, int(before * 1000)) for number in ends]
        found = {place.partition: place.offset for place in consumer.offsets_for_times(asked, CALL_SECONDS)}
    except KafkaException as failure:
        raise TransientError(f"{DEAD_LETTERS.name} cannot be read: {failure.args[0].str()}") from failure
    finally:
        consumer.close()
    # Negative: no letter is younger.
    spans = {number: (low, found[number] if found[number] >= 0 else high) for number, (low, high) in ends.items()}
    return {number: (low, end) for number, (low, end) in spans.items() if end > low}


def purge(settings: Settings, spans: dict[int, tuple[int, int]]) -> None:
    """Delete what `purgeable` found.

    Raises:
        ConfigurationError: the brokers do not let this user delete.
        TransientError: they do not do it for another reason.
    """
    client = kafka.admin(settings)  # its futures end with it
    asked = [TopicPartition(DEAD_LETTERS.name, number, end) for number, (_, end) in spans.items()]
    for place, future in client.delete_records(asked, request_timeout=CALL_SECONDS).items():
        try:
            future.result(2 * CALL_SECONDS)
        except KafkaException as failure:
            error = failure.args[0]
            message = f"letters of partition {place.partition} are not deleted: {error.str()}"
            if kafka.refused(error):
                raise ConfigurationError(f"{message}; see user modelwatch-operators in docs/acls.md") from failure
            raise TransientError(message) from failure
