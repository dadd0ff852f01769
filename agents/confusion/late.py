"""Feedback that comes after its pair has left the state: the pair is made again from its record."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agents.confusion.entries import FEEDBACK_LANE, UNLABELLED, Entry, PairHalf, Truth, answer_of, number_of
from agents.confusion.merging import MAX_ANSWERS
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from runtime.logging import get_logger
from runtime.record_indices import INFERENCES, all_of
from schemas.model_spec import ModelSpec

log = get_logger(__name__)

FIELDS = ["request_id", "model", "pair", "request.attributes", "response", "feedback", "uncounted"]
SAME_SECONDS = 1e-5
"""Moments that differ by less are of one answer: rounding of a microsecond."""
PAGE = 100
"""Requests in one search; each may have several records."""


async def find_records(store: AsyncElasticsearch, request_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]] | None:
    """The records of the answers to these requests, by request id; None if the store does not answer now. Their days
    and models are not known."""
    found = defaultdict[str, list[dict[str, Any]]](list)
    try:
        for start in range(0, len(request_ids), PAGE):
            query = {"terms": {"request_id": list(request_ids[start : start + PAGE])}}
            answer = await store.search(
                index=all_of(INFERENCES), query=query, size=PAGE * MAX_ANSWERS, source_includes=FIELDS
            )
            for hit in answer["hits"]["hits"]:
                found[hit["_source"]["request_id"]].append(hit["_source"])
    except (ApiError, TransportError) as error:
        log.warning("late feedback waits: the record store does not answer", error=str(error))
        return None
    return found


def late_part(record: Mapping[str, Any], waiting: Entry, specs: Mapping[str, ModelSpec]) -> Entry | None:
    """The entry of an answer that is counted already, from its record; None if that holds none, or one of another kind
    than its model gives, or one that was not counted.

    It says under which truth it was counted, so that a further truth moves the count.
    """
    response = record.get("response") or {}
    if not response.get("model") or not response.get("model_version"):
        return None
    spec, outputs = specs.get(response["model"]), response.get("probabilities") or ()
    is_classifier = bool(outputs)
    if spec is not None and bool(spec.classes) != is_classifier:
        return None
    if not is_classifier and response.get("value") is None:
        return None
    if is_classifier and response.get("predicted") is None:
        return None
    predicted, probabilities = answer_of(outputs if is_classifier else (response["value"],), is_classifier)
    feedback, answered_at = record.get("feedback"), _seconds(response["answered_at"])
    judged = answered_at if feedback is None else _seconds(feedback.get("answered_at") or response["answered_at"])
    if judged > answered_at + SAME_SECONDS:
        return None  # the record of the answer that was judged is on its way
    if record.get("uncounted") and abs(_seconds(record["uncounted"]["answered_at"]) - answered_at) < SAME_SECONDS:
        return None
    told = None if feedback is None or judged < answered_at - SAME_SECONDS else _told(feedback)
    half = PairHalf(
        FEEDBACK_LANE,
        min(truth.offset for truth in waiting.truths),
        response["model"],
        response["model_version"],
        answered_at,
        waiting.since,
        int(response["predicted"]) if is_classifier else predicted,
        probabilities,
        counted=UNLABELLED if told is None else told.form,  # type: ignore[arg-type]
        value=None if spec is None else spec.value_of((record.get("request") or {}).get("attributes") or {}),
        primary=response.get("primary", True),
        told=told,
        labels=response.get("labels_id") if is_classifier else None,
    )
    return Entry((half,))


def _told(feedback: Mapping[str, Any]) -> Truth:
    """The truth under which the answer is counted."""
    form = int(feedback["truth"]) if feedback.get("truth") is not None else number_of(feedback["value"])
    return Truth(_seconds(feedback["given_at"]), feedback["offset"], feedback["item"], form, feedback["source"])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
