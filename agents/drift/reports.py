"""A closed window as what people see of it: the report on `monitoring.drift`, and the records in Elasticsearch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.drift.detectors import DriftDetector
from agents.drift.features import PairFeatures
from agents.drift.windows import Entry, Window
from runtime.elasticsearch_sink import Record
from runtime.record_indices import DRIFT, INFERENCES, index_of_day
from schemas import topics
from schemas.base import utc_now
from schemas.letters import Source
from schemas.messages import DriftReport, DriftTest, LogPosition, Untested

MAX_IDS_BYTES = 256 << 10
"""Of the request ids in a report. Those of more are found by their records, which name the window."""


def report_of(window: Window, detectors: Mapping[str, DriftDetector], smallest: int) -> DriftReport:
    """Test a window with each detector whose features it holds.

    Its id is made from the place of its first pair, so that one log gives one id, whoever reads it from wherever.

    Args:
        detectors: those at hand.
        smallest: pairs of the smallest window that is tested.
    """
    start, entries = window.start, window.entries
    outcomes = outcomes_of(window, detectors, smallest)
    return DriftReport(
        window_id=window_id(window),
        model=start.model,
        model_version=start.model_version,
        first=_position(entries[0]),
        last=_position(entries[-1]),
        size=len(entries),
        closed_by=window.closed_by,
        request_ids=_request_ids(entries),
        start=start,
        detectors={name: one for name, one in outcomes.items() if isinstance(one, DriftTest)},
        untested={name: one for name, one in outcomes.items() if not isinstance(one, DriftTest)},
        reported_at=utc_now(),
    )


def window_id(window: Window) -> str:
    """`<model>-<partition>-<offset>` of the window's first pair, and the id of its topic where that has one: in a topic
    that was made anew, offsets come again."""
    first = window.entries[0]
    place = f"{window.start.model}-{first.pair_partition}-{first.pair_offset}"
    return place if first.pair_topic is None else f"{place}-{first.pair_topic}"


def outcomes_of(
    window: Window, detectors: Mapping[str, DriftDetector], smallest: int
) -> dict[str, DriftTest | Untested]:
    """By detector, its test of a window, or why there is none.

    Messages of earlier versions say of no detector's files that features are theirs: they are taken for those of the
    detector of that name that is here, if it has as many.
    """
    hashes = dict(window.identity.detectors)
    return {name: _outcome(name, window, hashes, detectors.get(name), smallest) for name in hashes or detectors}


def _outcome(
    name: str, window: Window, hashes: Mapping[str, str], detector: DriftDetector | None, smallest: int
) -> DriftTest | Untested:
    if detector is None or hashes.get(name, detector.identity.sha256) != detector.identity.sha256:
        return "no_detector"
    rows = [content_of(entry).features.get(name) for entry in window.entries]
    found = [row for row in rows if row is not None]
    if len(found) != len(rows):
        return "no_features"
    if {len(row) for row in found} != {4 * detector.feature_count}:
        return "no_detector"
    return "too_small" if len(rows) < smallest else detector.test(stacked(found))


def stacked(rows: list[bytes]) -> NDArray[np.float32]:
    """Feature vectors (n, d) of equal width."""
    return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), len(rows[0]) // 4)


def records_of(window: Window, report: DriftReport) -> list[Record]:
    """The window's record, and on the record of each of its pairs the window's id.

    The window's index is that of the day of its last pair, so that computing it again names the same one.
    """
    document = {"@timestamp": report.last.time.isoformat(), **report.model_dump(mode="json")}
    if document["start"] is not None:
        del document["start"]["detector_sha256"]  # names of detectors are no fields of the mapping
    if report.detectors:  # else nobody knows
        document["is_drift"] = any(test.is_drift for test in report.detectors.values())
    document["detectors"] = [
        {"name": name, **test.model_dump(mode="json")} for name, test in sorted(report.detectors.items())
    ]
    hashes = dict(window.identity.detectors)
    document["untested"] = [
        {"name": name, "reason": reason, "sha256": hashes.get(name)} for name, reason in sorted(report.untested.items())
    ]
    source = Source(report.model.encode(), report.model_dump_json().encode(), topics.DRIFT.name)
    own = Record(index_of_day(DRIFT, report.last.time), report.window_id, document, DRIFT, "index", source)
    return [own, *(_link(entry, report.window_id) for entry in window.entries)]


def _link(entry: Entry, window: str) -> Record:
    content = content_of(entry)
    index = index_of_day(INFERENCES, content.answered_at)
    source = Source(content.request_id.encode(), None, topics.PAIRS.name, entry.pair_partition, entry.pair_offset)
    return Record(index, content.record_id, {"drift": {"window_id": window}}, INFERENCES, source=source)


def _position(entry: Entry) -> LogPosition:
    return LogPosition(partition=entry.pair_partition, offset=entry.pair_offset, time=content_of(entry).time)


def _request_ids(entries: list[Entry]) -> tuple[str, ...] | None:
    ids = tuple(content_of(entry).request_id for entry in entries)
    return ids if sum(len(one.encode()) + 3 for one in ids) <= MAX_IDS_BYTES else None


def content_of(entry: Entry) -> PairFeatures:
    """What a window keeps of a pair."""
    content: Any = entry.content
    features: PairFeatures = content
    return features
