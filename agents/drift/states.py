"""Where each model's windows stand, kept on a compacted topic: what outlives a process beside the log itself."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from runtime import kafka
from runtime.errors import TransientError
from runtime.logging import get_logger
from runtime.metrics import DriftMetrics
from runtime.results import Outgoing
from runtime.settings import Settings
from schemas.base import MAX_INTEGER
from schemas.messages import DriftState, DriftStream, Mark, WindowStart
from schemas.topics import DRIFT_STATE, FEATURES, PAIRS

log = get_logger(__name__)

CALL_SECONDS = 30.0
States = dict[str, DriftState]
"""By model."""


@dataclass(frozen=True, slots=True)
class Log:
    """One partition of `monitoring.features`, and `inference.pairs`, as they are now.

    Attributes:
        features_id: of the topic, where it has one.
        begin, end: offsets.
        pair_ends: by partition of `inference.pairs`.
    """

    features_id: str | None
    begin: int
    end: int
    pair_ends: Mapping[int, int]


def state_message(state: DriftState, instance: str) -> Outgoing:
    """The message that keeps a state, on the partition of the model's features.

    The instance is in the key because of a former owner that does not know yet that it was replaced: its older state
    must not take the place of the newer one.
    """
    return Outgoing(
        DRIFT_STATE.name, f"{state.model}/{instance}", state.model_dump_json().encode(), [], state.partition
    )


def state_of(value: bytes) -> DriftState:
    """The state that a message of `monitoring.drift-state` holds, also one of an earlier version.

    Raises:
        ValidationError: it holds none.
    """
    try:
        return DriftState.model_validate_json(value)
    except ValidationError as error:
        try:
            start = WindowStart.model_validate_json(value)
        except ValidationError:
            raise error from None
    return DriftState(
        model=start.model,
        partition=start.partition,
        seen=start.offset,
        marks=start.marks,
        streams=(DriftStream(start=start),),
    )


def furthest(states: Iterable[DriftState], features_id: str | None = None, end: int = MAX_INTEGER) -> States:
    """For each model the state that takes account of most of the log with this id, which ends there."""

    def progress(state: DriftState) -> tuple[bool, bool, int]:
        return state.features_id == features_id, state.seen <= end, state.seen

    found: States = {}
    for state in states:
        known = found.get(state.model)
        if known is None or progress(state) > progress(known):
            found[state.model] = state
    return found


def fitted(state: DriftState, now: Log) -> tuple[DriftState, set[str]]:
    """A state as it holds for the log as it is, and the topics that were made anew since it was written.

    Offsets of a topic that was made anew begin again: nothing of it has been counted. Where brokers give topics no
    ids, this shows only while the new log ends before what was counted.
    """
    anew = set()
    held = [mark for mark in state.marks if _holds(mark, now)]
    if len(held) != len(state.marks):
        anew.add(PAIRS.name)
    other = state.features_id is not None and now.features_id not in (None, state.features_id)
    if other or state.seen > now.end:
        anew.add(FEATURES.name)
        return _from_the_beginning(state, held, now), anew
    streams = [
        one.model_copy(update={"start": _start(one.start, now, offset=max(one.start.offset, now.begin))})
        for one in state.streams
    ]
    update = {"marks": tuple(held), "streams": tuple(streams), "features_id": now.features_id}
    return state.model_copy(update=update), anew


def _from_the_beginning(state: DriftState, held: list[Mark], now: Log) -> DriftState:
    streams = [
        one.model_copy(
            update={"start": _start(one.start, now, offset=0, seen=0, reported=0, features_id=now.features_id)}
        )
        for one in state.streams
    ]
    return state.model_copy(
        update={"seen": 0, "marks": tuple(held), "streams": tuple(streams), "features_id": now.features_id}
    )


def _start(start: WindowStart, now: Log, **update: Any) -> WindowStart:
    if start.seen is None and start.offset < now.begin:
        update["reported"] = 0  # it is not known which of them are gone
    marks = tuple(mark for mark in start.marks if _holds(mark, now))
    return start.model_copy(update=update | {"marks": marks})


def _holds(mark: Mark, now: Log) -> bool:
    """Marks with an id tell by themselves which topic they are about."""
    return mark.topic_id is not None or mark.offset < now.pair_ends.get(mark.partition, 0)


class StateReader:
    """Reads the states of partitions, to their end.

    Args:
        metrics: where topics are counted that were made anew.
    """

    def __init__(self, settings: Settings, metrics: DriftMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._admin = kafka.admin(settings)

    def pairs_id(self) -> str | None:
        """Id of the topic `inference.pairs`, where it has one.

        Raises:
            TransientError: the brokers do not answer.
        """
        return self._ids().get(PAIRS.name)

    def read(self, partitions: Iterable[int]) -> dict[int, tuple[str | None, States]]:
        """For each partition, the id of `monitoring.features`, where it has one, and the states.

        Raises:
            TransientError: the brokers do not answer.
        """
        wanted = sorted(partitions)
        if not wanted:
            return {}
        reader = kafka.assigned_consumer(self._settings, **{"enable.partition.eof": True})
        try:
            reader.assign([TopicPartition(DRIFT_STATE.name, one, OFFSET_BEGINNING) for one in wanted])
            found, unreadable = _read_to_end(reader, set(wanted))
            self._metrics.unreadable.inc(unreadable)
            logs = dict(zip(wanted, self._logs(reader, wanted), strict=True))
        except KafkaException as error:
            raise TransientError(f"the states of drift windows cannot be read: {error.args[0].str()}") from error
        finally:
            reader.close()
        return {one: (logs[one].features_id, self._fitted(one, found[one], logs[one])) for one in wanted}

    def _ids(self) -> dict[str, str]:
        return kafka.topic_ids(self._admin, (PAIRS.name, FEATURES.name), CALL_SECONDS)

    def _logs(self, reader: Consumer, partitions: list[int]) -> Iterator[Log]:
        features_id = self._ids().get(FEATURES.name)
        topics = reader.list_topics(timeout=CALL_SECONDS).topics
        count = len(topics[PAIRS.name].partitions) if PAIRS.name in topics else 0
        ends = {number: _bounds(reader, PAIRS.name, number)[1] for number in range(count)}
        for partition in partitions:
            yield Log(features_id, *_bounds(reader, FEATURES.name, partition), ends)

    def _fitted(self, partition: int, states: list[DriftState], now: Log) -> States:
        found: States = {}
        for model, state in furthest(states, now.features_id, now.end).items():
            found[model], anew = fitted(state, now)
            for topic in sorted(anew):
                log.warning("topic_was_made_anew", topic=topic, model=model, partition=partition, end=now.end)
                self._metrics.made_anew.labels(topic).inc()
        return found


def _bounds(reader: Consumer, topic: str, partition: int) -> tuple[int, int]:
    begin, end = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=CALL_SECONDS)
    return begin, end


def _read_to_end(reader: Consumer, partitions: set[int]) -> tuple[dict[int, list[DriftState]], int]:
    """The states of each partition, and how many messages hold none."""
    found: dict[int, list[DriftState]] = defaultdict(list)
    unreadable = 0
    deadline = time.monotonic() + CALL_SECONDS
    while time.monotonic() < deadline:
        for message in reader.consume(1000, 0.5):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                partitions.discard(message.partition())
            elif error is None and message.value() is not None:
                try:
                    found[message.partition()].append(state_of(message.value()))
                except ValidationError:
                    unreadable += 1
                    log.warning("unreadable_drift_state", topic=DRIFT_STATE.name, offset=message.offset())
        if not partitions:
            return found, unreadable
    raise TransientError(f"{DRIFT_STATE.name} was not read to its end within {CALL_SECONDS:g} s")
