"""The second stage's wiring: features in, windows kept by model, a report and records out for each that closes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from faust.types import TP

from agents.drift.detectors import DriftDetector
from agents.drift.features import read_features
from agents.drift.reports import records_of, report_of
from agents.drift.starts import start_message
from agents.drift.windows import Entry, PartitionWindows, Window
from runtime.batches import Batch
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.metrics import DriftMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.headers import event_headers, rfc3339
from schemas.messages import DriftReport, WindowStart
from schemas.model_spec import WindowSpec
from schemas.refusal import Reason, Refusal
from schemas.topics import DRIFT, FEATURES

SOURCE = "/modelwatch/drift"
REPORT_TYPE = "modelwatch.monitoring.drift.v1"
TICK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A window, tested."""

    report: DriftReport
    records: list[Record]
    following: WindowStart


@dataclass(frozen=True, slots=True)
class Windowed:
    """A batch, computed.

    Attributes:
        safe: by partition, from where the log must be read again once the windows are delivered.
    """

    closed: list[ClosedWindow]
    refused: list[tuple[Any, Refusal]]
    safe: dict[TP, int]


@dataclass(frozen=True, slots=True)
class _LetterSource:
    """A record that the store refused, in the shape of a message for the dead letters."""

    key: bytes
    value: bytes
    headers: tuple[()] = ()
    topic: str = FEATURES.name
    partition: int = 0
    offset: int = 0


class WindowStage:
    """Keeps the windows of the partitions that this instance reads. Subscribe it with depth 1: starts go out in order.

    Args:
        specs: the windows of each model that has detectors.
        read_starts: the starts of a partition, from the topic.
        instance: name of this instance, part of the key of the starts that it writes.
    """

    def __init__(
        self,
        specs: Mapping[str, WindowSpec],
        detectors: Mapping[str, Mapping[str, DriftDetector]],
        metrics: DriftMetrics,
        read_starts: Callable[[int], dict[str, WindowStart]],
        instance: str,
    ) -> None:
        self._specs = dict(specs)
        self._detectors = detectors
        self._metrics = metrics
        self._read_starts = read_starts
        self._instance = instance
        self._generation = -1
        self._partitions: dict[TP, PartitionWindows] = {}
        self._ticked: dict[str, float] = {}
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink

    def connect(self, results: Results, letters: DeadLetters, sink: RecordSink) -> None:
        """Where results go."""
        self._results, self._letters, self._sink = results, letters, sink

    def compute(self, batch: Batch) -> Windowed:
        """Add the features to their windows, and test those that close."""
        if batch.generation != self._generation:
            # A new assignment is read again from the committed offsets, so what is here would be counted twice.
            self._generation, self._partitions = batch.generation, {}
        closed: list[ClosedWindow] = []
        refused: list[tuple[Any, Refusal]] = []
        for message in batch.messages:
            partition = self._partition(message.tp)
            try:
                closed.extend(self._closed(one) for one in self._add(partition, message))
            except Refusal as refusal:
                partition.skip(message.offset)
                refused.append((message, refusal))
        touched = {message.tp for message in batch.messages}
        self._measure(touched)
        return Windowed(closed, refused, {tp: self._partitions[tp].safe() for tp in touched})

    async def deliver(self, windowed: Windowed) -> None:
        """Records, then reports, then where the next windows begin: nothing after these is needed to go on."""
        await self._letters.send(windowed.refused)
        await self._sink.write([record for one in windowed.closed for record in one.records])
        await self._results.publish([_message(one.report) for one in windowed.closed])
        await self._results.publish([start_message(one.following, self._instance) for one in windowed.closed])
        for one in windowed.closed:
            self._count(one.report)

    def safe(self, _batch: Batch, windowed: Windowed) -> Mapping[TP, int]:
        """Up to the first message of the partition's oldest open window."""
        return windowed.safe

    def ticks(self, generation: int, now: float) -> list[Outgoing]:
        """Messages that say what time it is, for the models whose windows are over-age; call it between batches.

        Args:
            generation: of the present assignment; windows of an earlier one are not ours any more.
            now: seconds since the epoch.
        """
        if generation != self._generation:
            return []
        late = [(tp.partition, model) for tp, windows in self._partitions.items() for model in windows.over_age(now)]
        due = [
            (partition, model) for partition, model in late if now >= self._ticked.get(model, 0) + TICK_AGAIN_SECONDS
        ]
        self._ticked = {model: self._ticked.get(model, 0) for _, model in late} | {model: now for _, model in due}
        return [Outgoing(FEATURES.name, model, None, [], partition, int(now * 1000)) for partition, model in due]

    async def on_rejected(self, record: Record, reason: str) -> None:
        """The store will never take this record, so it goes to the dead letters; the report is on its topic."""
        value = record.document if isinstance(record.document, bytes) else orjson.dumps(record.document)
        refusal = Refusal(Reason.MAPPING_REJECTED, f"{record.index}/{record.id}: {reason}")
        await self._letters.send([(_LetterSource(record.id.encode(), value), refusal)])

    def _partition(self, tp: TP) -> PartitionWindows:
        found = self._partitions.get(tp)
        if found is None:
            starts = self._read_starts(tp.partition)
            found = self._partitions[tp] = PartitionWindows(tp.partition, self._specs, starts)
        return found

    def _add(self, partition: PartitionWindows, message: Any) -> list[Window]:
        if not message.value:
            return partition.tick((message.key or b"").decode(errors="replace"), message.offset, message.timestamp)
        vector = read_features(message.value)
        position = vector.position
        entry = Entry(message.offset, position.partition, position.offset, position.time.timestamp(), vector)
        return partition.add(vector.model, entry)

    def _closed(self, window: Window) -> ClosedWindow:
        report = report_of(window, self._detectors[window.start.model])
        return ClosedWindow(report, records_of(window, report), window.following)

    def _measure(self, touched: set[TP]) -> None:
        for tp in touched:
            for model, windows in self._partitions[tp].models.items():
                self._metrics.window_fill.labels(model).set(windows.fill)
                self._metrics.duplicates.labels(model).inc(windows.take_duplicates())

    def _count(self, report: DriftReport) -> None:
        metrics, model = self._metrics, report.model
        metrics.closed.labels(model, report.closed_by).inc()
        for name, test in report.detectors.items():
            metrics.detected.labels(model, name).set(test.is_drift)
            metrics.threshold.labels(model, name).set(test.threshold)
            metrics.windows.labels(model, name, "drift" if test.is_drift else "no_drift").inc()
            for feature, (p_value, distance) in enumerate(zip(test.p_values, test.distances, strict=True)):
                metrics.p_value.labels(model, name, str(feature)).set(p_value)
                metrics.distance.labels(model, name, str(feature)).set(distance)


def _message(report: DriftReport) -> Outgoing:
    moment = rfc3339(report.reported_at.timestamp())
    headers = event_headers(report.window_id, REPORT_TYPE, SOURCE, moment, report.model, None)
    return Outgoing(DRIFT.name, report.model, report.model_dump_json().encode(), list(headers))
