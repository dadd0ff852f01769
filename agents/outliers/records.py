"""The record of a pair in Elasticsearch, as the agent that sees every pair writes it first."""

from typing import Any

import orjson

from agents.pairs import ReadPair
from runtime.record_indices import INFERENCES, index_of_day
from schemas.headers import traceparent_in
from schemas.messages import InferenceRequest, InferenceResponse, OutlierVerdict

REQUEST_FIELDS = frozenset(InferenceRequest.model_fields)
RESPONSE_FIELDS = frozenset(InferenceResponse.model_fields)


def index_of(read: ReadPair) -> str:
    """The index of a pair's record: every writer finds the same, from the pair alone."""
    return index_of_day(INFERENCES, read.pair.response.answered_at)


def document_of(read: ReadPair, verdict: OutlierVerdict | None) -> dict[str, Any]:
    """The fields that the outliers agent knows; others are set by others, in the same document.

    They are the pair's own JSON, which costs less than writing it anew from the model. Fields of a later schema are
    left out, because the mapping is strict.
    """
    try:
        raw = orjson.loads(read.message.value)
    except orjson.JSONDecodeError:  # pydantic also reads NaN, which a field unknown to us may have
        raw = read.pair.model_dump(mode="json")
    request = {name: value for name, value in raw["request"].items() if name in REQUEST_FIELDS}
    response = {name: value for name, value in raw["response"].items() if name in RESPONSE_FIELDS}
    document: dict[str, Any] = {
        "@timestamp": response["answered_at"],
        "request_id": request["request_id"],
        "model": request["model"],
        "model_version": response["model_version"],
        "pair": {"partition": read.message.partition, "offset": read.message.offset},
        "request": request,
        "response": response,
    }
    if verdict is not None:
        document["outlier"] = verdict.model_dump(
            mode="json", exclude={"schema_version", "request_id", "model", "model_version"}
        )
    return document


def traceparent_of(read: ReadPair) -> bytes | None:
    """The caller's, carried on."""
    return traceparent_in(read.message.headers)
