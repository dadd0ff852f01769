"""What may be put on `inference.requests`, as JSON Schemas and examples; `schemas.payloads` decodes exactly these.

Sources: Open Inference Protocol V2, inference request JSON object; TensorFlow Serving REST API, predict.
"""

from dataclasses import dataclass
from typing import Any

from schemas.base import MAX_ATTRIBUTES
from schemas.identity import MAX_ID_BYTES
from schemas.json_schema import Schema
from schemas.payloads.v2_body import DATATYPES, PICTURES

JSON = "application/json"
BINARY: Schema = {"type": "string", "format": "binary"}
BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
MOMENT: Schema = {
    "description": "RFC 3339, or seconds since the epoch",
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}],
}
REQUEST_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}
ATTRIBUTES: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "maxProperties": MAX_ATTRIBUTES,
    "description": "Caller's metadata, for breakdowns of metrics",
}
EXAMPLE_DATA = "++8Af4D/QCAQCAT+"
"""Twelve pixels' values of a picture of 2 by 2 in three colours, as base64."""


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """One way to send images.

    Attributes:
        schema: of the value; binary formats have one that says no more than that.
        example: a value for a model that takes `(2, 2, 3)`; None for binary formats.
    """

    name: str
    content_type: str
    summary: str
    schema: Schema
    example: dict[str, Any] | None = None


OURS: Schema = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {
            "type": "object",
            "required": ["dtype", "shape", "data"],
            "properties": {
                "dtype": {"enum": ["uint8", "float16", "float32", "float64"]},
                "shape": SHAPE | {"description": "The model's own, or that with the number of images before it"},
                "data": BASE64 | {"description": "Row-major, little endian"},
            },
        },
        "request_id": REQUEST_ID,
        "model": {"type": "string"},
        "attributes": ATTRIBUTES,
        "sent_at": MOMENT,
        "deadline": MOMENT,
    },
}
V2: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": REQUEST_ID,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["datatype", "shape", "data"],
                "properties": {
                    "name": {"type": "string", "description": "Over HTTP: the model's own, `image` or `row`"},
                    "datatype": {
                        "enum": [*DATATYPES, PICTURES],
                        "description": "Integers: values before scaling, 0..255; FP: what the model takes; "
                        "BOOL: 0 or 1; BYTES: base64 PNG or JPEG files, one a picture",
                    },
                    "shape": SHAPE,
                    "data": {
                        "description": "Numbers, nested or flat; or the raw tensor as one base64 string",
                        "anyOf": [{"type": "array"}, BASE64],
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            "description": "Over HTTP: which tensors of the answer are wanted; all of them if there are none",
        },
        "parameters": {
            "type": "object",
            "properties": {
                "attributes": ATTRIBUTES,
                "deadline": MOMENT,
                "record": {"type": "boolean", "default": True, "description": "Over HTTP: false publishes no pair"},
                "binary_data_output": {"type": "boolean", "default": False, "description": "Over HTTP"},
            },
        },
    },
}
_V1_VALUE: Schema = {
    "anyOf": [
        {"type": "array", "description": "Nested numbers, as the model takes them"},
        {"type": "number"},
        {"type": "object", "required": ["b64"], "properties": {"b64": BASE64}},
    ],
}
_V1_NAMED: Schema = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "description": "The model's one input, `image` or `row`, by its name",
}
V1: Schema = {
    "type": "object",
    "required": ["instances"],
    "properties": {
        "signature_name": {"type": "string", "description": "Over HTTP: `serving_default`, or none"},
        "instances": {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [*_V1_VALUE["anyOf"], _V1_NAMED]},
        },
    },
}
V1_COLUMNS: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "signature_name": V1["properties"]["signature_name"],
        "inputs": {"anyOf": [*_V1_VALUE["anyOf"], _V1_NAMED]},
    },
}

_PICTURE = [[[0.98, 0.94, 0.0], [0.5, 0.5, 1.0]], [[0.25, 0.125, 0.0625], [0.03, 0.02, 1.0]]]

REQUEST_FORMATS: tuple[RequestFormat, ...] = (
    RequestFormat("ImagePng", "image/png", "A PNG file", BINARY),
    RequestFormat("ImageJpeg", "image/jpeg", "A JPEG file", BINARY),
    RequestFormat("NumpyArray", "application/x-npy", "A NumPy file of one or more images", BINARY),
    RequestFormat(
        "TensorJson",
        JSON,
        "Our JSON: a base64 tensor and the caller's facts beside it",
        OURS,
        {
            "request_id": "truck-1",
            "image": {"dtype": "uint8", "shape": [2, 2, 3], "data": EXAMPLE_DATA},
            "attributes": {"camera": "north-gate"},
        },
    ),
    RequestFormat(
        "OpenInferenceV2",
        JSON,
        "Open Inference Protocol V2, numbers or base64",
        V2,
        {
            "id": "truck-2",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [EXAMPLE_DATA]}],
            "parameters": {"attributes": {"camera": "north-gate"}},
        },
    ),
    RequestFormat(
        "TensorFlowServingV1",
        JSON,
        "TensorFlow Serving V1, row format",
        V1,
        {"instances": [_PICTURE]},
    ),
    RequestFormat(
        "TensorFlowServingV1Columns",
        JSON,
        "TensorFlow Serving V1, column format",
        V1_COLUMNS,
        {"inputs": {"image": [_PICTURE]}},
    ),
)
