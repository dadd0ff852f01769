"""The second stage's wiring: sums of all partitions in, gauges and a report a window out. One instance owns a model."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from faust.types import TP

from agents.confusion.board import Board
from agents.confusion.counts import fits
from agents.confusion.figures import figures
from agents.confusion.fold import Group
from agents.confusion.gauges import PerformanceGauges
from agents.confusion.records import report_record
from agents.confusion.settings import ConfusionSettings
from agents.confusion.told_sums import LIFETIME, ToldSums, Unreadable, key_of, partition_of, read_sums
from agents.confusion.versions import KEPT_VERSIONS
from runtime.batches import Batch
from runtime.elasticsearch_sink import RecordSink
from runtime.logging import get_logger
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.base import utc_now
from schemas.headers import event_headers, rfc3339
from schemas.messages import PerformanceReport
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import PERFORMANCE, PERFORMANCE_SUMS

log = get_logger(__name__)

SOURCE = "/modelwatch/confusion"
REPORT_TYPE = "modelwatch.monitoring.performance.v1"
MAX_SAID = 1000
"""Different lines of the log about what is left out."""


class BoardStage:
    """Keeps the models of the partitions of sums that this instance reads, always from their beginning.

    Nothing is ever committed: the topic is compacted to the latest sums, which are all of the state.

    Args:
        clock: seconds since the epoch.

    Attributes:
        partitions: of the topic of sums.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        metrics: ConfusionMetrics,
        settings: ConfusionSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._specs = dict(specs)
        self._present = {(spec.name, spec.version) for spec in specs.values()}
        self._left_out = metrics.sums_left_out
        self._gauges = PerformanceGauges(metrics)
        self._settings = settings
        self._clock = clock
        self._generation = -1
        self._board = self._new_board()
        self._read: dict[TP, int] = {}
        self._unreadable = Unreadable()
        self._refused: list[tuple[Any, Refusal]] = []
        self._gone: list[Outgoing] = []
        self._said: dict[str, None] = {}
        self.partitions = 1
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink

    def connect(self, results: Results, letters: DeadLetters, sink: RecordSink) -> None:
        """Where results go."""
        self._results, self._letters, self._sink = results, letters, sink

    def compute(self, batch: Batch) -> None:
        """Put the sums on the board."""
        if not self._enter(batch.generation):
            return
        for message in batch.messages:
            self._read[message.tp] = message.offset + 1
            self._unreadable.replaced(message)
            try:
                self._take(read_sums(message, self.partitions))
            except Refusal as refusal:
                if not self._unreadable.put(message, refusal):
                    self._leave_out("unreadable", f"{message.topic} {message.partition} {message.offset}: {refusal}")

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
        self._refused = self._unreadable.take()
        self._left_out.labels("unreadable").inc(len(self._refused))
        self._drop_versions()
        changed = self._board.take_changed()
        known = {place for place in sorted(changed) if self._is_known(*place)}
        for group in {group for group, _ in changed}:
            self._show(group)
        self._gone = [*self._removals()]
        return [self._report(group, window) for group, window in sorted(known) if window != LIFETIME]

    async def publish(self, reports: list[PerformanceReport]) -> None:
        """Records, then messages; and letters for what could not be read, which is then taken from the topic."""
        refused, self._refused = self._refused, []
        gone, self._gone = self._gone, []
        await self._letters.send(refused)
        await self._results.publish(gone)
        await self._sink.write([report_record(report) for report in reports])
        await self._results.publish([_message(report) for report in reports])

    def _removals(self) -> Iterator[Outgoing]:
        """For what need not stay on the topic: what could not be read, and windows that are too old."""
        for message, _ in self._refused:
            if message.key:
                yield Outgoing(PERFORMANCE_SUMS.name, message.key, None, [], message.partition)
        outdated, self._board.outdated = self._board.outdated, []
        for (model, version), window, partition in outdated:
            key, target = key_of(model, version, window, partition), partition_of(model, self.partitions)
            yield Outgoing(PERFORMANCE_SUMS.name, key, None, [], target)

    def _enter(self, generation: int) -> bool:
        """A new assignment begins with an empty board; False if the assignment is over."""
        if generation > self._generation:
            self._generation, self._board, self._read = generation, self._new_board(), {}
            self._unreadable = Unreadable()
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

    def _take(self, told: ToldSums | None) -> None:
        if told is None:
            return
        latest = (self._clock() + self._settings.max_ahead_seconds) / self._settings.performance_window_seconds
        if told.model not in self._specs:
            self._leave_out("unknown_model", told.model)
        elif told.window > latest:
            self._leave_out("in_future", f"{told.model}/{told.version}, window {told.window}")
        elif not self._board.place(told):
            self._leave_out("stale", f"partition {told.partition}, epoch {told.epoch}")
        if len(self._board) > 2 * KEPT_VERSIONS * len(self._specs):
            self._drop_versions()

    def _drop_versions(self) -> None:
        for group in self._board.drop_versions(self._present):
            self._gauges.remove(group)
            self._leave_out("old_version", "/".join(group))

    def _leave_out(self, reason: str, what: str) -> None:
        """Count it; and say it once."""
        self._left_out.labels(reason).inc()
        line = f"{reason}: {what}"
        if line not in self._said and len(self._said) < MAX_SAID:
            self._said[line] = None
            log.warning("sums_left_out", reason=reason, what=what[:200])

    def _is_known(self, group: Group, window: int) -> bool:
        """Of a version with other classes than the present one nothing is said any more."""
        known = fits(self._board.sums(group, window), self._specs[group[0]].classes)
        if not known:
            self._leave_out("other_classes", "/".join(group))
        return known

    def _show(self, group: Group) -> None:
        spec, board = self._specs[group[0]], self._board
        shown = {
            "rolling": board.rolling(group),
            "lifetime": board.sums(group, LIFETIME),
            "latest": board.latest(group),
        }
        for name, sums in shown.items():
            if not sums or not fits(sums, spec.classes):
                self._gauges.remove(group, name)
                continue
            found = figures(sums, spec.classes, spec.temperature)
            if name == "latest":
                self._gauges.show_latest(group, found)
            else:
                self._gauges.show(group, name, found, spec.classes, spec.breakdown_values)

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
            **figures(sums, self._specs[model].classes, self._specs[model].temperature),
        )


def _message(report: PerformanceReport) -> Outgoing:
    moment = rfc3339(report.reported_at.timestamp())
    headers = event_headers(report.window_id, REPORT_TYPE, SOURCE, moment, report.model, None)
    return Outgoing(PERFORMANCE.name, report.model, report.model_dump_json().encode(), list(headers))
