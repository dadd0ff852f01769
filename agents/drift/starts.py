"""Where each model's next window begins, kept on a compacted topic: what outlives a process beside the log itself."""

import time
from collections.abc import Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from runtime import kafka
from runtime.errors import TransientError
from runtime.logging import get_logger
from runtime.results import Outgoing
from runtime.settings import Settings
from schemas.messages import WindowStart
from schemas.topics import DRIFT_STATE, FEATURES

log = get_logger(__name__)

CALL_SECONDS = 30.0


def start_message(start: WindowStart, instance: str) -> Outgoing:
    """The message that keeps a start, on the partition of the model's features.

    The instance is in the key because of a former owner that does not know yet that it was replaced: its older start
    must not take the place of the newer one.
    """
    return Outgoing(
        DRIFT_STATE.name, f"{start.model}/{instance}", start.model_dump_json().encode(), [], start.partition
    )


def furthest(starts: Iterable[WindowStart]) -> dict[str, WindowStart]:
    """For each model the start of the latest window; by their place in the log, which says more than their number."""
    found: dict[str, WindowStart] = {}
    for start in starts:
        known = found.get(start.model)
        if known is None or (start.offset, start.sequence) > (known.offset, known.sequence):
            found[start.model] = start
    return found


def read_starts(settings: Settings, partition: int) -> dict[str, WindowStart]:
    """Read the starts of one partition, to its end.

    Raises:
        TransientError: the brokers do not answer.
    """
    reader = kafka.assigned_consumer(settings, **{"enable.partition.eof": True})
    try:
        reader.assign([TopicPartition(DRIFT_STATE.name, partition, OFFSET_BEGINNING)])
        starts = _read_to_end(reader)
        _, end = reader.get_watermark_offsets(TopicPartition(FEATURES.name, partition), timeout=CALL_SECONDS)
    except KafkaException as error:
        raise TransientError(f"the starts of drift windows cannot be read: {error.args[0].str()}") from error
    finally:
        reader.close()
    beyond = [start for start in starts if start.offset > end]
    if beyond:
        log.error("window_starts_beyond_the_log", topic=FEATURES.name, partition=partition, count=len(beyond), end=end)
    return furthest(start for start in starts if start.offset <= end)


def _read_to_end(reader: Consumer) -> list[WindowStart]:
    starts: list[WindowStart] = []
    deadline = time.monotonic() + CALL_SECONDS
    while time.monotonic() < deadline:
        for message in reader.consume(1000, 0.5):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return starts
            if error is not None:
                continue
            try:
                starts.append(WindowStart.model_validate_json(message.value() or b""))
            except ValidationError:
                log.warning("unreadable_window_start", topic=DRIFT_STATE.name, offset=message.offset())
    raise TransientError(f"{DRIFT_STATE.name} was not read to its end within {CALL_SECONDS:g} s")
