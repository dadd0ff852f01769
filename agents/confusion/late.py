"""Feedback that comes after its pair has left the state: the pair is made again from its record."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pybase64

from agents.confusion.entries import FEEDBACK_LANE, UNLABELLED, Entry, PairHalf, Truth
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
    spec, probabilities = specs.get(response.get("model", "")), response.get("probabilities")
    if spec is None or probabilities is None or len(probabilities) != len(spec.labels):
        return None
    vector, feedback = np.asarray(probabilities, "<f4"), record.get("feedback")
    half = PairHalf(
        FEEDBACK_LANE,
        min(truth.offset for truth in waiting.truths),
        spec.name,
        response["model_version"],
        datetime.fromisoformat(response["answered_at"].replace("Z", "+00:00")).timestamp(),
        waiting.since,
        int(response["predicted"]),
        pybase64.b64encode_as_string(vector.tobytes()),
        counted=UNLABELLED if feedback is None else int(feedback["truth"]),
        value=spec.value_of((record.get("request") or {}).get("attributes") or {}),
    )
    if feedback is None:
        return Entry(half)
    given_at = datetime.fromisoformat(feedback["given_at"].replace("Z", "+00:00")).timestamp()
    known = Truth(given_at, feedback["offset"], feedback["item"], int(feedback["truth"]), feedback["source"])
    return Entry(half, (known,))
