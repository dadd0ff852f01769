"""The second stage's wiring: sums of all partitions in, gauges and a report a window out. One instance owns a model."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from faust.types import TP

from agents.confusion.board import LIFETIME, Board
from agents.confusion.figures import figures, fits
from agents.confusion.fold import Group
from agents.confusion.gauges import PerformanceGauges
from agents.confusion.records import report_record
from agents.confusion.settings import ConfusionSettings
from agents.confusion.sums import Sums
from runtime.batches import Batch
from runtime.elasticsearch_sink import RecordSink
from runtime.results import Outgoing, Results
from schemas.base import utc_now
from schemas.headers import event_headers, rfc3339
from schemas.messages import PerformanceReport, PerformanceSums
from schemas.model_spec import ModelSpec
from schemas.topics import PERFORMANCE

SOURCE = "/modelwatch/confusion"
REPORT_TYPE = "modelwatch.monitoring.performance.v1"


class BoardStage:
    """Keeps the models of the partitions of sums that this instance reads, always from their beginning.

    Nothing is ever committed: the topic is compacted to the latest sums, which are all of the state.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], gauges: PerformanceGauges, settings: ConfusionSettings) -> None:
        self._specs = dict(specs)
        self._gauges = gauges
        self._settings = settings
        self._generation = -1
        self._board = self._new_board()
        self._read: dict[TP, int] = {}
        self._results: Results
        self._sink: RecordSink

    def connect(self, results: Results, sink: RecordSink) -> None:
        """Where results go."""
        self._results, self._sink = results, sink

    def compute(self, batch: Batch) -> None:
        """Put the sums on the board."""
        if not self._enter(batch.generation):
            return
        for message in batch.messages:
            self._read[message.tp] = message.offset + 1
            self._take(message)

    async def deliver(self, result: None) -> None:
        """Nothing: what is on the board is reported by the clock."""

    def safe(self, _batch: Batch, _result: None) -> Mapping[TP, int]:
        """Nothing is: all is read again."""
        return {}

    def reports(self, generation: int, ends: Mapping[TP, int | None]) -> list[PerformanceReport]:
        """Bring the gauges up to date, and report the windows that changed. Run it between batches.

        Args:
            ends: of the partitions that this instance owns; until they are read as far as that, nothing is said.
        """
        if not self._enter(generation) or any(end is None or self._read.get(tp, 0) < end for tp, end in ends.items()):
            return []
        changed = {place for place in self._board.take_changed() if self._is_known(*place)}
        for group in {group for group, _ in changed}:
            self._show(group)
        made = [self._report(group, window) for group, window in sorted(changed) if window != LIFETIME]
        return [report for report in made if report.size]

    async def publish(self, reports: list[PerformanceReport]) -> None:
        """Records, then messages."""
        await self._sink.write([report_record(report) for report in reports])
        await self._results.publish([_message(report) for report in reports])

    def _enter(self, generation: int) -> bool:
        """A new assignment begins with an empty board; False if the assignment is over."""
        if generation > self._generation:
            self._generation, self._board, self._read = generation, self._new_board(), {}
            self._gauges.clear()
        return generation == self._generation

    def _new_board(self) -> Board:
        settings = self._settings
        return Board(
            settings.performance_window_seconds,
            settings.performance_rolling_pairs,
            settings.performance_rolling_seconds,
            max_windows=int(2 * settings.join_keep_seconds / settings.performance_window_seconds) + 10,
        )

    def _take(self, message: Any) -> None:
        model, version, window, partition = message.key.decode().rsplit("/", 3)
        if message.value is None:
            self._board.forget((model, version), int(window), int(partition))
            return
        told = PerformanceSums.model_validate_json(message.value)
        progress = (told.epoch, told.progress)
        self._board.place((model, version), int(window), int(partition), progress, Sums(told.sums))

    def _is_known(self, group: Group, window: int) -> bool:
        """Of a version with other classes than the present one nothing is said any more."""
        spec = self._specs.get(group[0])
        return spec is not None and fits(self._board.sums(group, window), spec.classes)

    def _show(self, group: Group) -> None:
        classes, values = self._specs[group[0]].classes, self._specs[group[0]].breakdown_values
        for name, sums in (("rolling", self._board.rolling(group)), ("lifetime", self._board.sums(group, LIFETIME))):
            if fits(sums, classes):
                self._gauges.show(group, name, figures(sums, classes), classes, values)
        latest = self._board.latest(group)
        if fits(latest, classes):
            self._gauges.show_latest(group, figures(latest, classes))

    def _report(self, group: Group, window: int) -> PerformanceReport:
        (model, version), seconds = group, self._settings.performance_window_seconds
        sums = self._board.sums(group, window)
        return PerformanceReport(
            window_id=f"{model}-{version}-{int(seconds)}-{window}",
            model=model,
            model_version=version,
            begin=datetime.fromtimestamp(window * seconds, timezone.utc),
            end=datetime.fromtimestamp((window + 1) * seconds, timezone.utc),
            reported_at=utc_now(),
            **figures(sums, self._specs[model].classes),
        )


def _message(report: PerformanceReport) -> Outgoing:
    moment = rfc3339(report.reported_at.timestamp())
    headers = event_headers(report.window_id, REPORT_TYPE, SOURCE, moment, report.model, None)
    return Outgoing(PERFORMANCE.name, report.model, report.model_dump_json().encode(), list(headers))
