"""Computes recorded drift windows again: their pairs from the log of features, and the features from the pairs."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from agents.drift.detectors import DriftDetector
from agents.drift.features import extract, read_features
from agents.drift.reports import report_of, window_id
from agents.drift.windows import Entry, ModelWindows, Window
from agents.pairs import read_pairs
from cli.replay.differences import Audit
from cli.replay.log_reader import offsets_at, read_from, whole
from cli.replay.messages import batches
from runtime.settings import Settings
from schemas.messages import DriftReport, FeatureVector
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import DRIFT, FEATURES, PAIRS

TOLERANCE = 1e-9
Detectors = Mapping[str, Mapping[str, DriftDetector]]
Place = tuple[int, int]


def audit_windows(
    settings: Settings, specs: Mapping[str, ModelSpec], detectors: Detectors, begin: float, end: float
) -> Audit:
    """Compare every report whose last pair lies in `begin` to `end` (seconds since the epoch)."""
    audit = Audit()
    recorded = {}
    for report in _recorded(settings, audit):
        if begin <= report.last.time.timestamp() <= end and report.model in detectors:
            recorded[report.window_id] = report
    computed = {window_id(window): window for window in _windows(settings, specs, recorded)}
    features = _features_of_pairs(settings, specs, detectors, list(recorded.values()))
    for name, report in recorded.items():
        if report.start is None:
            audit.notes.append(f"{name} was recorded without the place where it begins, and cannot be computed again")
        elif (window := computed.get(name)) is None:
            audit.add(name, "window", "recorded", f"not in {FEATURES.name}: changed, or no longer kept")
        else:
            _compare(audit, report, _with_features(window, features, audit), detectors[report.model])
    for name, window in computed.items():
        if name not in recorded and begin <= window.entries[-1].time <= end:
            audit.add(name, "window", "not recorded", f"{len(window.entries)} pairs, closed by {window.closed_by}")
    return audit


def _recorded(settings: Settings, audit: Audit) -> Iterator[DriftReport]:
    """Reports on the topic. One that came twice must have said the same."""
    seen: dict[str, DriftReport] = {}
    for message in read_from(settings, DRIFT.name, whole(settings, DRIFT.name)):
        report = DriftReport.model_validate_json(message.value() or b"")
        known = seen.setdefault(report.window_id, report)
        if known is report:
            yield report
        else:
            hidden = {"reported_at"}
            audit.compare(
                report.window_id, "report", known.model_dump(exclude=hidden), report.model_dump(exclude=hidden)
            )


def _windows(
    settings: Settings, specs: Mapping[str, ModelSpec], recorded: Mapping[str, DriftReport]
) -> Iterator[Window]:
    """All windows of each model from its first recorded one on, from the log of features alone."""
    first: dict[str, DriftReport] = {}
    for report in recorded.values():
        known = first.get(report.model)
        if report.start and (known is None or not known.start or report.start.offset < known.start.offset):
            first[report.model] = report
    starts = {model: report.start for model, report in first.items() if report.start}
    models = {model: ModelWindows(specs[model].window, start) for model, start in starts.items()}
    begins: dict[int, int] = {}
    for start in starts.values():
        begins[start.partition] = min(start.offset, begins.get(start.partition, start.offset))
    for message in read_from(settings, FEATURES.name, begins):
        model = (message.key() or b"").decode(errors="replace")
        if model not in models or message.partition() != starts[model].partition:
            continue
        if not message.value():
            if message.offset() >= starts[model].offset:
                yield from models[model].tick(message.timestamp()[1] / 1000, message.offset() + 1)
            continue
        try:
            vector = read_features(message.value())
        except Refusal:
            continue  # in the dead letters
        position = vector.position
        moment = position.time.timestamp()
        yield from models[model].add(Entry(message.offset(), position.partition, position.offset, moment, vector))


def _features_of_pairs(
    settings: Settings, specs: Mapping[str, ModelSpec], detectors: Detectors, recorded: list[DriftReport]
) -> dict[Place, FeatureVector]:
    """The features of the windows' pairs, computed again from the images, by the pairs' places."""
    if not recorded:
        return {}
    begin = min(report.first.time.timestamp() for report in recorded)
    wanted = {request_id for report in recorded for request_id in report.request_ids or ()}
    found: dict[Place, FeatureVector] = {}
    # Pairs of one window lie on several partitions, so its first one need not be the oldest.
    oldest = begin - max((specs[report.model].window.max_age_seconds for report in recorded), default=0)
    for messages in batches(read_from(settings, PAIRS.name, offsets_at(settings, PAIRS.name, oldest))):
        pairs, _ = read_pairs(messages, specs, time.time(), settings.max_ahead_seconds)
        for encoded in extract([pair for pair in pairs if pair.pair.request.request_id in wanted], detectors):
            vector = read_features(encoded.value)
            found[vector.position.partition, vector.position.offset] = vector
    return found


def _with_features(window: Window, features: Mapping[Place, FeatureVector], audit: Audit) -> Window:
    """The window with its features computed again, as far as its pairs are still kept."""
    entries, gone = [], 0
    for entry in window.entries:
        content = features.get((entry.pair_partition, entry.pair_offset))
        gone += content is None
        entries.append(replace(entry, content=content or entry.content))
    if gone:
        audit.notes.append(f"{window_id(window)}: {gone} pairs are no longer kept; their recorded features were used")
    return replace(window, entries=entries)


def _compare(audit: Audit, report: DriftReport, window: Window, detectors: Mapping[str, DriftDetector]) -> None:
    again: Any = report_of(window, detectors)
    audit.compared += 1
    for name in ("first", "last", "size", "closed_by", "request_ids", "start"):
        audit.compare(report.window_id, name, getattr(report, name), getattr(again, name))
    audit.compare(report.window_id, "detectors", sorted(report.detectors), sorted(again.detectors))
    for name, recorded in report.detectors.items():
        computed = again.detectors.get(name)
        if computed is None:
            continue
        at = report.window_id
        audit.compare(at, f"{name}: detector", recorded.detector, computed.detector)
        audit.compare(at, f"{name}: verdict", recorded.is_drift, computed.is_drift)
        audit.compare_numbers(at, f"{name}: p-values", recorded.p_values, computed.p_values, TOLERANCE)
        audit.compare_numbers(at, f"{name}: distances", recorded.distances, computed.distances, TOLERANCE)
        audit.compare_numbers(at, f"{name}: threshold", (recorded.threshold,), (computed.threshold,), TOLERANCE)
