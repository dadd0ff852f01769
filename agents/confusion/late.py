"""Feedback that comes after its pair has left the state: the pair is made again from its record."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agents.confusion.entries import (
    FEEDBACK_LANE,
    UNLABELLED,
    Answer,
    Entry,
    PairHalf,
    Truth,
    answer_of,
    number_of,
)
from elasticsearch import ApiError, AsyncElasticsearch, TransportError
from runtime.logging import get_logger
from runtime.record_indices import INFERENCES, all_of
from schemas.model_spec import ModelSpec

log = get_logger(__name__)

FIELDS = ["model", "pair", "request.attributes", "response", "feedback"]
PAGE = 500


async def find_records(store: AsyncElasticsearch, request_ids: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """The records of these requests, by id; None if the store does not answer now. Their day is not known."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for start in range(0, len(request_ids), PAGE):
            query = {"ids": {"values": list(request_ids[start : start + PAGE])}}
            answer = await store.search(index=all_of(INFERENCES), query=query, size=PAGE, source_includes=FIELDS)
            found |= {hit["_id"]: hit["_source"] for hit in answer["hits"]["hits"]}
    except (ApiError, TransportError) as error:
        log.warning("late feedback waits: the record store does not answer", error=str(error))
        return None
    return found


def late_part(record: Mapping[str, Any], waiting: Entry, specs: Mapping[str, ModelSpec]) -> Entry | None:
    """The entry of a pair that is counted already, from its record; None if that holds no answer of a known model.

    It says under which truth it was counted, so that a further truth moves the count.
    """
    response = record.get("response") or {}
    spec = specs.get(response.get("model", ""))
    if spec is None or len(outputs := _outputs(response, spec)) != len(spec.labels):
        return None
    predicted, probabilities = answer_of(outputs, spec)
    feedback = record.get("feedback")
    half = PairHalf(
        FEEDBACK_LANE,
        min(truth.offset for truth in waiting.truths),
        spec.name,
        response["model_version"],
        datetime.fromisoformat(response["answered_at"].replace("Z", "+00:00")).timestamp(),
        waiting.since,
        int(response["predicted"]) if spec.classes else predicted,
        probabilities,
        counted=UNLABELLED if feedback is None else _truth(feedback, spec),
        value=spec.value_of((record.get("request") or {}).get("attributes") or {}),
    )
    if feedback is None:
        return Entry(half)
    given_at = datetime.fromisoformat(feedback["given_at"].replace("Z", "+00:00")).timestamp()
    known = Truth(given_at, feedback["offset"], feedback["item"], _truth(feedback, spec), feedback["source"])
    return Entry(half, (known,))


def _outputs(response: Mapping[str, Any], spec: ModelSpec) -> Sequence[float]:
    """What the model answered; empty if nothing of its kind."""
    if spec.classes:
        return response.get("probabilities") or ()
    return () if response.get("value") is None else (response["value"],)


def _truth(feedback: Mapping[str, Any], spec: ModelSpec) -> Answer:
    return int(feedback["truth"]) if spec.classes else number_of(feedback["value"])
