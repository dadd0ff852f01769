"""The three JSON bodies, told apart by their fields: `image` (ours), `inputs` (Open Inference V2), `instances` (V1).

Sources: Open Inference Protocol V2, "Inference Request JSON Object"; TensorFlow Serving's RESTful API, row format.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.body import Body, brief
from schemas.payloads.jpeg import START as JPEG_START
from schemas.payloads.jpeg import decode_jpeg
from schemas.payloads.numbers import NumberText, load_json, read_numbers
from schemas.payloads.png import SIGNATURE as PNG_SIGNATURE
from schemas.payloads.png import decode_png
from schemas.payloads.tensors import DTYPES, check_count, checked_dtype, count_items, from_bytes, to_images, to_uint8
from schemas.refusal import Reason, Refusal

_V2_DTYPES = {"UINT8": "uint8", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
_PICTURES = "BYTES"


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
    image = _object(document["image"], "image")
    dtype, shape = checked_dtype(_required(image, "dtype", "image")), _shape(_required(image, "shape", "image"))
    data = _base64(_required(image, "data", "image"), "image.data")
    return Body(
        images=lambda spec: from_bytes(data, dtype, shape, spec.shape),
        request_id=document.get("request_id"),
        model=document.get("model"),
        attributes=document.get("attributes"),
        sent_at=document.get("sent_at"),
        deadline=document.get("deadline"),
    )


def _v2_body(document: dict[str, Any]) -> Body:
    inputs = document["inputs"]
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"{len(inputs)} of them" if isinstance(inputs, list) else brief(inputs)
        raise Refusal(Reason.INVALID_FIELD, f"inputs must be a list of exactly one tensor; found {found}")
    tensor = _object(inputs[0], "inputs[0]")
    parameters = _object(document.get("parameters") or {}, "parameters")
    attributes = parameters.get("attributes")
    return Body(
        images=_v2_images(tensor),
        request_id=document.get("id"),
        attributes=attributes if _is_flat(attributes) else None,  # others' parameters may mean something else
        deadline=parameters.get("deadline"),
    )


def _v2_images(tensor: dict[str, Any]) -> Any:
    """How the images of one V2 tensor are read."""
    datatype, shape = _required(tensor, "datatype", "inputs[0]"), _shape(_required(tensor, "shape", "inputs[0]"))
    data = _required(tensor, "data", "inputs[0]")
    if datatype == _PICTURES:
        return partial(_v2_pictures, data, shape)
    name = _V2_DTYPES.get(datatype) if isinstance(datatype, str) else None
    if name is None:
        expected = ", ".join((*_V2_DTYPES, _PICTURES))
        raise Refusal(Reason.WRONG_DTYPE, f"found datatype {brief(datatype)}; expected one of {expected}")
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], str):
        data = data[0]
    if isinstance(data, str):
        raw, dtype = _base64(data, "inputs[0].data"), DTYPES[name]
        return lambda spec: from_bytes(raw, dtype, shape, spec.shape)
    return partial(_v2_numbers, data, shape, name == "uint8")


def _v2_numbers(data: object, shape: tuple[int, ...], whole: bool, spec: InputSpec) -> NDArray[Any]:
    count = count_items(shape, spec.shape)
    numbers, found = read_numbers(data, spec.shape)
    if found != shape and (len(found) > 1 or numbers.size != count * spec.size):
        raise Refusal(Reason.WRONG_SHAPE, f"data has shape {found}; expected {shape} as declared, or flat")
    return to_images(to_uint8(numbers) if whole else numbers, count, spec.shape)


def _v2_pictures(data: object, shape: tuple[int, ...], spec: InputSpec) -> NDArray[Any]:
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise Refusal(Reason.INVALID_FIELD, f"BYTES data must be a list of base64 strings; found {brief(data)}")
    if shape not in ((len(data),), (len(data), 1)):
        raise Refusal(Reason.WRONG_SHAPE, f"{len(data)} pictures with shape {brief(shape)}; expected ({len(data)},)")
    return _pictures(data, "inputs[0].data", spec)


def _v1_body(document: dict[str, Any]) -> Body:
    instances = document["instances"]
    if isinstance(instances, list) and any(isinstance(instance, dict) for instance in instances):
        return Body(images=partial(_v1_pictures, instances))
    if not isinstance(instances, list | NumberText):
        raise Refusal(Reason.INVALID_FIELD, f"instances must be a list; found {brief(instances)}")
    return Body(images=partial(_v1_numbers, instances))


def _v1_numbers(instances: object, spec: InputSpec) -> NDArray[Any]:
    numbers, shape = read_numbers(instances, spec.shape)
    return to_images(numbers, count_items(shape, spec.shape), spec.shape)


def _v1_pictures(instances: Sequence[object], spec: InputSpec) -> NDArray[Any]:
    for instance in instances:
        if not (isinstance(instance, dict) and isinstance(instance.get("b64"), str)):
            raise Refusal(
                Reason.INVALID_FIELD, f'instances must be nested numbers or {{"b64": "..."}}; found {brief(instance)}'
            )
    return _pictures([instance["b64"] for instance in instances], "instances", spec)  # type: ignore[index]


def _pictures(texts: Sequence[str], field: str, spec: InputSpec) -> NDArray[Any]:
    """Images of base64 PNG and JPEG files: `(n, *spec.shape)` uint8."""
    check_count(len(texts))
    if not texts:
        raise Refusal(Reason.WRONG_SHAPE, f"{field} holds no picture")
    return np.concatenate([_picture(_base64(text, field), spec) for text in texts])


def _picture(data: bytes, spec: InputSpec) -> NDArray[Any]:
    if data.startswith(PNG_SIGNATURE):
        return decode_png(data, spec)
    if data.startswith(JPEG_START):
        return decode_jpeg(data, spec)
    raise Refusal(Reason.UNREADABLE_IMAGE, f"neither PNG nor JPEG: it starts with {data[:8]!r}")


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(Reason.INVALID_FIELD, f"{field} must be an object; found {brief(value)}")
    return value


def _required(fields: dict[str, Any], name: str, of: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise Refusal(Reason.MISSING_FIELD, f"{of}.{name} is missing; found {brief(list(fields))}")
    return value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or any(type(size) is not int or size < 0 for size in value):
        raise Refusal(Reason.INVALID_FIELD, f"shape must be a list of whole numbers; found {brief(value)}")
    return tuple(value)


def _base64(value: object, field: str) -> bytes:
    if not isinstance(value, str):
        raise Refusal(Reason.INVALID_FIELD, f"{field} must be a base64 string; found {brief(value)}")
    try:
        return pybase64.b64decode(value, validate=True)
    except ValueError as error:
        raise Refusal(Reason.INVALID_FIELD, f"{field} is not base64: {error}; found {brief(value)}") from error


def _is_flat(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_READERS = {"image": _our_body, "inputs": _v2_body, "instances": _v1_body}
