"""Computes recorded drift windows again: their pairs from the log of features, and the features from the pairs."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agents.drift.features import Detectors, entry_of
from agents.drift.partition import ModelWindows
from agents.drift.reports import content_of, report_of, stacked, window_id
from agents.drift.windows import Identity, Window
from cli.replay.differences import Audit
from cli.replay.features import FeaturesAgain, compare_features
from cli.replay.log_reader import beginnings, read_from, whole
from cli.replay.messages import consumed
from runtime import kafka
from runtime.settings import Settings
from schemas.messages import DriftReport, DriftState, DriftStream, DriftTest
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import DRIFT, FEATURES

TOLERANCE = 1e-9
"""Of p-values, distances and thresholds from the same features: another processor may round otherwise."""


def audit_windows(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    detectors: Detectors,
    begin: float,
    end: float,
    older: Sequence[Detectors] = (),
) -> Audit:
    """Compare every report whose last pair lies in `begin` to `end` (seconds since the epoch).

    Args:
        older: detectors of earlier versions, of which some windows may be; they are known by their hashes.
    """
    audit = Audit()
    recorded = {
        report.window_id: report
        for report in _recorded(settings, audit)
        if begin <= report.last.time.timestamp() <= end and report.model in detectors
    }
    kept = _whole(settings, audit, recorded)
    computed = {window_id(window): window for window in _chain(settings, specs, kept)}
    features = FeaturesAgain(settings, specs, [detectors, *older], kept.values())
    for name, report in kept.items():
        window = computed.get(name) or _alone(settings, specs, report, audit)
        if window is None:
            audit.add(name, "window", "recorded", f"not in {FEATURES.name}")
            continue
        _compare(audit, report, window, specs[report.model].window.smallest, [detectors, *older])
        compare_features(audit, name, window, features)
    for name, window in computed.items():
        if name not in recorded and begin <= window.entries[-1].time <= end:
            audit.add(name, "window", "not recorded", f"{len(window.entries)} pairs, closed by {window.closed_by}")
    return audit


def _recorded(settings: Settings, audit: Audit) -> Iterator[DriftReport]:
    """Reports on the topic. One that came twice must have said the same."""
    seen: dict[str, DriftReport] = {}
    for message in read_from(settings, DRIFT.name, whole(settings, DRIFT.name)):
        try:
            report = DriftReport.model_validate_json(message.value() or b"")
        except ValidationError:
            audit.notes.append(f"{DRIFT.name} [{message.partition()}] {message.offset()} is no drift report")
            continue
        known = seen.setdefault(report.window_id, report)
        if known is report:
            yield report
        else:
            hidden = {"reported_at"}
            audit.compare(
                report.window_id, "report", known.model_dump(exclude=hidden), report.model_dump(exclude=hidden)
            )


def _whole(settings: Settings, audit: Audit, recorded: Mapping[str, DriftReport]) -> dict[str, DriftReport]:
    """The reports whose windows can be computed again: all of their features are still kept."""
    kept: dict[str, DriftReport] = {}
    begins = beginnings(settings, FEATURES.name)
    topic_id = kafka.topic_ids(kafka.admin(settings), [FEATURES.name]).get(FEATURES.name)
    for name, report in recorded.items():
        start = report.start
        if start is None:
            audit.leave_out(name, "recorded without the place where it begins")
        elif start.features_id not in (None, topic_id) or start.partition not in begins:
            audit.leave_out(name, f"{FEATURES.name} was made anew since")
        elif start.offset < begins[start.partition]:
            audit.leave_out(name, f"features before offset {begins[start.partition]} are no longer kept")
        else:
            kept[name] = report
    return kept


def _chain(settings: Settings, specs: Mapping[str, ModelSpec], kept: Mapping[str, DriftReport]) -> Iterator[Window]:
    """All windows of each model, version and set of detectors from its first whole one on."""
    first: dict[tuple[str, Identity], DriftReport] = {}
    for report in sorted(kept.values(), key=_offset_of):
        if report.start is not None:
            first.setdefault((report.model, Identity.of(report.start)), report)
    by_model: dict[str, list[DriftReport]] = defaultdict(list)
    for (model, _), report in first.items():
        by_model[model].append(report)
    models = {model: _resumed(specs[model], own) for model, own in by_model.items()}
    listed = set(first)
    for window in _windows(settings, models, {model: own[0] for model, own in by_model.items()}):
        if (window.start.model, window.identity) in listed:
            yield window


def _alone(settings: Settings, specs: Mapping[str, ModelSpec], report: DriftReport, audit: Audit) -> Window | None:
    """A window computed from its own start, which does not follow the one before it: pairs between are in none."""
    windows = _windows(settings, {report.model: _resumed(specs[report.model], [report])}, {report.model: report})
    found = next((window for window in windows if window_id(window) == report.window_id), None)
    if found is not None:
        audit.notes.append(f"{report.window_id} does not begin where the recorded window before it ended")
    return found


def _resumed(spec: ModelSpec, reports: list[DriftReport]) -> ModelWindows:
    """The windows of a model as they stood when these began, the first of each stream."""
    starts = [report.start for report in reports if report.start is not None]
    earliest = starts[0]
    state = DriftState(
        model=spec.name,
        partition=earliest.partition,
        features_id=earliest.features_id,
        seen=earliest.offset if earliest.seen is None else earliest.seen,
        marks=earliest.marks,
        streams=tuple(DriftStream(start=start) for start in starts),
    )
    return ModelWindows(spec.window, state)


def _windows(
    settings: Settings, models: Mapping[str, ModelWindows], first: Mapping[str, DriftReport]
) -> Iterator[Window]:
    """The windows that the log of features gives these models, each from where its first report begins."""
    begins: dict[int, int] = {}
    for report in first.values():
        if report.start is not None:
            begins[report.start.partition] = min(_offset_of(report), begins.get(report.start.partition, 1 << 62))
    for message in map(consumed, read_from(settings, FEATURES.name, begins)):
        model = (message.key or b"").decode(errors="replace")
        if model not in models or message.offset < _offset_of(first[model]):
            continue
        if not message.value:
            yield from models[model].tick(message.timestamp, message.offset + 1)
            continue
        try:
            name, entry = entry_of(message, settings.max_ahead_seconds, time.time())
        except Refusal:
            continue  # in the dead letters
        if name in models:
            yield from models[name].add(entry)


def _offset_of(report: DriftReport) -> int:
    return report.start.offset if report.start else -1


def _compare(audit: Audit, report: DriftReport, window: Window, smallest: int, known: Sequence[Detectors]) -> None:
    again: Any = report_of(window, {}, smallest)
    audit.compared += 1
    for name in ("model_version", "first", "last", "size", "closed_by", "request_ids", "start"):
        audit.compare(report.window_id, name, getattr(report, name), getattr(again, name))
    for name, recorded in report.detectors.items():
        _compare_test(audit, report, window, name, recorded, known)


def _compare_test(
    audit: Audit, report: DriftReport, window: Window, name: str, recorded: DriftTest, known: Sequence[Detectors]
) -> None:
    at, own = report.window_id, [one.get(report.model, {}).get(name) for one in known]
    detector = next((one for one in own if one is not None and one.identity == recorded.detector), None)
    if detector is None:
        audit.leave_test_out(
            at, f"the detector {name} of that time ({recorded.detector.sha256[:12]}…) is not here any more"
        )
        return
    rows = [content_of(entry).features.get(name, b"") for entry in window.entries]
    if {len(row) for row in rows} != {4 * detector.feature_count}:
        audit.add(at, f"{name}: features", f"{detector.feature_count} a pair", "another number")
        return
    computed = detector.test(stacked(rows))
    margin = min(abs(p_value - computed.threshold) for p_value in computed.p_values) / TOLERANCE
    audit.compare_verdicts(at, f"{name}: verdict", recorded.is_drift, computed.is_drift, margin)
    audit.compare_numbers(at, f"{name}: p-values", recorded.p_values, computed.p_values, TOLERANCE)
    audit.compare_numbers(at, f"{name}: distances", recorded.distances, computed.distances, TOLERANCE)
    audit.compare_numbers(at, f"{name}: threshold", (recorded.threshold,), (computed.threshold,), TOLERANCE)
