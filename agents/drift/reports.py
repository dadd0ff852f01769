"""A closed window as what people see of it: the report on `monitoring.drift`, and the records in Elasticsearch."""

from collections.abc import Mapping
from typing import Any

from agents.drift.detectors import DriftDetector
from agents.drift.features import stacked
from agents.drift.windows import Entry, Window
from runtime.elasticsearch_sink import Record
from runtime.record_indices import DRIFT, INFERENCES, index_of_day
from schemas.base import utc_now
from schemas.messages import DriftReport, DriftTest, FeatureVector


def report_of(window: Window, detectors: Mapping[str, DriftDetector]) -> DriftReport:
    """Test a window with each detector.

    Its id is made from the place of its first pair, so that one log gives one id, whoever reads it from wherever.
    """
    vectors = [_content(entry) for entry in window.entries]
    return DriftReport(
        window_id=window_id(window),
        model=window.start.model,
        first=vectors[0].position,
        last=vectors[-1].position,
        size=len(window.entries),
        closed_by=window.closed_by,
        request_ids=tuple(vector.request_id for vector in vectors),
        start=window.start,
        detectors={name: test for name, one in detectors.items() if (test := _test(name, one, vectors)) is not None},
        reported_at=utc_now(),
    )


def window_id(window: Window) -> str:
    """`<model>-<partition>-<offset>` of the window's first pair."""
    first = window.entries[0]
    return f"{window.start.model}-{first.pair_partition}-{first.pair_offset}"


def _test(name: str, detector: DriftDetector, vectors: list[FeatureVector]) -> DriftTest | None:
    """None if a pair has no features of this detector: it was added to the model in the middle of the window."""
    tensors = [vector.features.get(name) for vector in vectors]
    found = [tensor for tensor in tensors if tensor is not None]
    return detector.test(stacked(found)) if len(found) == len(tensors) else None


def records_of(window: Window, report: DriftReport) -> list[Record]:
    """The window's record, and on the record of each of its pairs the window's id.

    The window's index is that of the day of its last pair, so that computing it again names the same one.
    """
    document = {"@timestamp": report.last.time.isoformat(), **report.model_dump(mode="json")}
    document["is_drift"] = any(test.is_drift for test in report.detectors.values())
    document["detectors"] = [
        {"name": name, **test.model_dump(mode="json")} for name, test in sorted(report.detectors.items())
    ]
    own = Record(index_of_day(DRIFT, report.last.time), report.window_id, document, DRIFT, "index")
    return [own, *(_link(entry, report.window_id) for entry in window.entries)]


def _link(entry: Entry, window: str) -> Record:
    vector = _content(entry)
    index = index_of_day(INFERENCES, vector.answered_at or vector.position.time)
    return Record(index, vector.request_id, {"drift": {"window_id": window}}, INFERENCES)


def _content(entry: Entry) -> FeatureVector:
    content: Any = entry.content
    vector: FeatureVector = content
    return vector
