"""What the agent writes to Elasticsearch: the truth into a pair's record, and a report a window."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import orjson

from agents.confusion.entries import FEEDBACK_LANE, Answer, PairHalf, Truth
from agents.pairs import ReadPair, record_id_of
from runtime.elasticsearch_sink import Record
from runtime.record_indices import INFERENCES, PERFORMANCE, index_of_day
from schemas import topics
from schemas.identity import record_id
from schemas.letters import Source
from schemas.messages import PerformanceReport
from schemas.model_spec import ModelSpec


def truth_record(partition: int, request_id: str, pair: PairHalf, specs: Mapping[str, ModelSpec]) -> Record:
    """The field `feedback` of a judged answer's record. Offset and item are what tells an older truth from a newer, and
    `answered_at` which answer was judged: the record may hold a later one, to the same request asked again.

    Args:
        partition: of `inference.feedback`, where the truth was read.
    """
    told, truth = pair.told, pair.truth
    if told is None or truth is None:
        raise ValueError(f"the truth about {request_id} is not known")
    moment = datetime.fromtimestamp(pair.time, timezone.utc)
    document: dict[str, Any] = {
        "feedback": {
            **_judged(pair, truth, specs.get(pair.model)),
            "source": told.source,
            "answered_at": moment.isoformat(),
            "given_at": datetime.fromtimestamp(told.given_at, timezone.utc).isoformat(),
            "offset": told.offset,
            "item": told.item,
        }
    }
    if pair.lane == FEEDBACK_LANE and pair.counted is None:
        document |= {"@timestamp": moment.isoformat(), "request_id": request_id, "model": pair.model}
    name = record_id(request_id, pair.model, pair.version, pair.primary)
    said = _said(request_id, pair, told, truth)
    source = Source(request_id.encode(), said, topics.FEEDBACK.name, partition, told.offset)
    return Record(index_of_day(INFERENCES, moment), name, document, INFERENCES, source=source)


def _said(request_id: str, pair: PairHalf, told: Truth, truth: Answer) -> bytes | None:
    """Feedback that says the same of this answer, for a dead letter; None where it brought its answer along."""
    if pair.lane == FEEDBACK_LANE and pair.counted is None:
        return None
    form = "truth_value" if isinstance(truth, float) else "truth_index"
    given_at = datetime.fromtimestamp(told.given_at, timezone.utc)
    return orjson.dumps(
        {"request_id": request_id, "model": pair.model, form: truth, "source": told.source, "given_at": given_at}
    )


def uncounted_record(read: ReadPair) -> Record:
    """The field `uncounted` of an answer's record. When its model is here again, or for the first time, feedback about
    it must not be joined as if it had been counted."""
    moment = read.pair.response.answered_at
    document = {"uncounted": {"reason": read.unwatched, "answered_at": moment.isoformat()}}
    return Record(index_of_day(INFERENCES, moment), record_id_of(read.pair), document, INFERENCES, source=read.message)


def _judged(pair: PairHalf, truth: Answer, spec: ModelSpec | None) -> dict[str, Any]:
    """The label is left out where it is not known any more: of a model that was removed, or has other labels now."""
    if isinstance(truth, float):
        return {"value": truth, "error": pair.predicted - truth}
    labels = spec.classes if spec is not None and pair.has_labels_of(spec) else ()
    label = {"label": labels[truth]} if truth < len(labels) else {}
    return {"truth": truth, **label, "correct": truth == pair.predicted}


def report_record(report: PerformanceReport) -> Record:
    """A window's report; classes as a list, since their labels are no field names."""
    moment = report.begin or report.reported_at
    fields = report.model_dump(
        mode="json", exclude_none=True, exclude={"confusion", "mistakes", "by_class", "by_value", "first", "last"}
    )
    # Only models of many classes leave something out; an index that was made before these fields takes the others.
    fields = {name: value for name, value in fields.items() if value or not name.endswith("_left_out")}
    by_class = [
        {"label": label, **figures.model_dump(mode="json", exclude_none=True)}
        for label, figures in sorted(report.by_class.items())
    ]
    by_value = [
        {"value": value, **figures.model_dump(mode="json", exclude_none=True)}
        for value, figures in sorted(report.by_value.items())
    ]
    cells = [
        {"truth": truth, "predicted": predicted, "count": count}
        for truth, row in enumerate(report.confusion)
        for predicted, count in enumerate(row)
        if count
    ] + [mistake.model_dump() for mistake in report.mistakes]
    document = {
        "@timestamp": moment.isoformat(),
        **fields,
        "by_class": by_class,
        "by_value": by_value,
        "confusion": cells,
    }
    source = Source(report.model.encode(), report.model_dump_json().encode(), topics.PERFORMANCE.name)
    return Record(index_of_day(PERFORMANCE, moment), report.window_id, document, PERFORMANCE, "index", source)
