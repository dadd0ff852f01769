"""The three JSON bodies, told apart by their fields: `image` (ours), `inputs` (Open Inference V2, or V1 in columns),
`instances` (TensorFlow Serving V1 in rows).

Sources: Open Inference Protocol V2, "Inference Request JSON Object"; TensorFlow Serving's RESTful API, predict.
"""

from typing import Any

from schemas.payloads.body import AnswerOptions, Body, brief
from schemas.payloads.json_fields import base64_of, object_of, required, shape_of
from schemas.payloads.numbers import NumberText, load_json
from schemas.payloads.tensors import checked_dtype, from_bytes
from schemas.payloads.v1_body import v1_columns, v1_rows
from schemas.payloads.v2_body import v2_body
from schemas.refusal import Reason, Refusal


def json_body(payload: bytes) -> Body:
    """Read a JSON message.

    Raises:
        Refusal: INVALID_JSON, NOT_FINITE, MISSING_FIELD, INVALID_FIELD, WRONG_DTYPE.
    """
    document = load_json(payload)
    if not isinstance(document, dict):
        raise Refusal(Reason.INVALID_JSON, f"expected a JSON object; found {type(document).__name__}")
    found = [field for field in _READERS if field in document]
    if not found:
        raise Refusal(Reason.MISSING_FIELD, f"none of the fields {', '.join(_READERS)}; found {brief(list(document))}")
    if len(found) > 1:
        raise Refusal(Reason.INVALID_FIELD, f"the fields {' and '.join(found)} belong to different formats; send one")
    return _READERS[found[0]](document)


def _our_body(document: dict[str, Any]) -> Body:
    image = object_of(document["image"], "image")
    dtype, shape = checked_dtype(required(image, "dtype", "image")), shape_of(required(image, "shape", "image"))
    data = base64_of(required(image, "data", "image"), "image.data")
    return Body(
        images=lambda spec: from_bytes(data, dtype, shape, spec),
        request_id=document.get("request_id"),
        model=document.get("model"),
        attributes=document.get("attributes"),
        sent_at=document.get("sent_at"),
        deadline=document.get("deadline"),
        options=AnswerOptions(parameters=document.get("parameters")),
    )


def _inputs(document: dict[str, Any]) -> Body:
    """V2's list of tensors, or V1's columns: an object of named values, or the value of the only input."""
    inputs = document["inputs"]
    first = inputs[0] if isinstance(inputs, list) and inputs else None
    columns = isinstance(inputs, dict | NumberText) or isinstance(first, list | int | float)
    if columns or (isinstance(first, dict) and "b64" in first):
        return v1_columns(document)
    return v2_body(document)


_READERS = {"image": _our_body, "inputs": _inputs, "instances": v1_rows}
