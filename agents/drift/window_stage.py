"""The second stage's wiring: features in, windows kept by model, a report and records out for each that closes."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from faust.types import TP

from agents.drift.detectors import DriftDetector
from agents.drift.features import entry_of
from agents.drift.gauges import WindowGauges
from agents.drift.partition import PartitionWindows
from agents.drift.reports import records_of, report_of
from agents.drift.states import States, state_message
from agents.drift.windows import Window
from runtime.batches import Batch
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.errors import FatalError
from runtime.logging import get_logger
from runtime.metrics import DriftMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.clock import check_not_ahead
from schemas.headers import event_headers, rfc3339
from schemas.messages import DriftReport, DriftState
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import DRIFT, FEATURES, PAIRS

log = get_logger(__name__)

SOURCE = "/modelwatch/drift"
REPORT_TYPE = "modelwatch.monitoring.drift.v1"
TICK_AGAIN_SECONDS = 10.0
ReadStates = Callable[[Collection[int]], Mapping[int, tuple[str | None, States]]]
"""By partition: the id of `monitoring.features`, where it has one, and the states of the models."""


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A window, tested."""

    report: DriftReport
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Windowed:
    """A batch, computed.

    Attributes:
        states: of the models whose windows ended.
        safe: by partition, from where the log must be read again once the windows are delivered.
    """

    closed: list[ClosedWindow]
    refused: list[tuple[Any, Refusal]]
    states: list[DriftState]
    safe: dict[TP, int]


class WindowStage:
    """Keeps the windows of the partitions that this instance reads. Subscribe it with depth 1: states go out in order.

    Args:
        specs: of the models that have detectors.
        read_states: of partitions, from the topic.
        instance: name of this instance, part of the key of the states that it writes.
        max_ahead: see `schemas.clock`.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        detectors: Mapping[str, Mapping[str, DriftDetector]],
        metrics: DriftMetrics,
        read_states: ReadStates,
        instance: str,
        max_ahead: float,
    ) -> None:
        self._specs = {name: spec.window for name, spec in specs.items()}
        self._detectors = detectors
        self._metrics = metrics
        self._read_states = read_states
        self._instance = instance
        self._max_ahead = max_ahead
        self._generation = -1
        self._partitions: dict[int, PartitionWindows] = {}
        self._ticked: dict[str, float] = {}
        max_ages = {name: spec.max_age_seconds for name, spec in self._specs.items()}
        self._gauges = WindowGauges(metrics, {name: spec.version for name, spec in specs.items()}, max_ages)
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink

    def connect(self, results: Results, letters: DeadLetters, sink: RecordSink) -> None:
        """Where results go."""
        self._results, self._letters, self._sink = results, letters, sink

    def compute(self, batch: Batch) -> Windowed:
        """Add the features to their windows, and test those that close."""
        self._begin(batch.generation)
        touched = {message.tp: self._partition(message.tp.partition) for message in batch.messages}
        closed: list[ClosedWindow] = []
        refused: list[tuple[Any, Refusal]] = []
        for message in batch.messages:
            partition = touched[message.tp]
            try:
                closed.extend(self._closed(partition, one) for one in self._add(partition, message))
            except Refusal as refusal:
                partition.skip(message.offset)
                refused.append((message, refusal))
        states = [state for one in touched.values() for state in one.changed()]
        for one in touched.values():
            self._count_passed_over(one)
        return Windowed(closed, refused, states, {tp: one.safe() for tp, one in touched.items()})

    async def deliver(self, windowed: Windowed) -> None:
        """Records, then reports, then where the next windows begin: nothing after these is needed to go on."""
        await self._letters.send(windowed.refused)
        await self._sink.write([record for one in windowed.closed for record in one.records])
        await self._results.publish([_message(one.report) for one in windowed.closed])
        await self._results.publish([state_message(one, self._instance) for one in windowed.states])
        for one in windowed.closed:
            self._count(one.report)

    def safe(self, _batch: Batch, windowed: Windowed) -> Mapping[TP, int]:
        """Up to the first message of the partition's oldest open window."""
        return windowed.safe

    def watch(self, generation: int, assigned: Collection[int], now: float) -> list[Outgoing]:
        """Show the gauges of the partitions that are ours; messages that say what time it is, for the models whose
        windows are over-age. Call it between batches, now and then.

        Args:
            generation: of the present assignment.
            assigned: partitions of `monitoring.features` in it.
            now: seconds since the epoch.
        """
        if generation < self._generation:
            return []
        self._begin(generation)
        self._open(assigned)
        ours = {number: self._partitions[number] for number in assigned}
        self._gauges.show([one for windows in ours.values() for one in windows.models.values()], now)
        return self._ticks(ours, now)

    def _ticks(self, ours: Mapping[int, PartitionWindows], now: float) -> list[Outgoing]:
        late = [(number, model) for number, windows in ours.items() for model in windows.over_age(now)]
        due = [
            (partition, model) for partition, model in late if now >= self._ticked.get(model, 0) + TICK_AGAIN_SECONDS
        ]
        self._ticked = {model: self._ticked.get(model, 0) for _, model in late} | {model: now for _, model in due}
        return [Outgoing(FEATURES.name, model, None, [], partition, int(now * 1000)) for partition, model in due]

    def _begin(self, generation: int) -> None:
        """A new assignment is read again from the committed offsets, so what is here would be counted twice."""
        if generation != self._generation:
            self._generation, self._partitions = generation, {}

    def _open(self, numbers: Collection[int]) -> None:
        missing = set(numbers) - self._partitions.keys()
        for number, (features_id, states) in (self._read_states(missing) if missing else {}).items():
            self._partitions[number] = PartitionWindows(number, self._specs, states, features_id)

    def _partition(self, number: int) -> PartitionWindows:
        self._open([number])
        return self._partitions[number]

    def _add(self, partition: PartitionWindows, message: Any) -> list[Window]:
        if message.offset < partition.position:
            raise FatalError(
                f"{FEATURES.name} [{message.partition}]: offset {message.offset} came after "
                f"{partition.position - 1}; the topic was made anew, and is read again from its beginning"
            )
        if not message.value:
            check_not_ahead("Kafka's timestamp", message.timestamp, time.time(), self._max_ahead)
            return partition.tick((message.key or b"").decode(errors="replace"), message.offset, message.timestamp)
        return partition.add(*entry_of(message, self._max_ahead, time.time()))

    def _closed(self, partition: PartitionWindows, window: Window) -> ClosedWindow:
        model = window.start.model
        report = report_of(window, self._detectors[model], self._specs[model].smallest)
        if report.detectors:
            partition.models[model].remember(window, report.detectors)
        return ClosedWindow(report, records_of(window, report))

    def _count_passed_over(self, partition: PartitionWindows) -> None:
        self._metrics.unwindowed.inc(partition.unknown)
        partition.unknown = 0
        for name, windows in partition.models.items():
            self._metrics.duplicates.labels(name).inc(windows.duplicates)
            if windows.made_anew:
                log.warning("topic_was_made_anew", topic=PAIRS.name, model=name, partition=partition.partition)
                self._metrics.made_anew.labels(PAIRS.name).inc(windows.made_anew)
            windows.duplicates = windows.made_anew = 0

    def _count(self, report: DriftReport) -> None:
        self._metrics.closed.labels(report.model, report.closed_by).inc()
        drifts = {name: "drift" if test.is_drift else "no_drift" for name, test in report.detectors.items()}
        for name, result in {**report.untested, **drifts}.items():
            self._metrics.windows.labels(report.model, name, result).inc()


def _message(report: DriftReport) -> Outgoing:
    moment = rfc3339(report.reported_at.timestamp())
    headers = event_headers(report.window_id, REPORT_TYPE, SOURCE, moment, report.model, None)
    return Outgoing(DRIFT.name, report.model, report.model_dump_json().encode(), list(headers))
