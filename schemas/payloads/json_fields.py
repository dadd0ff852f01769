"""Fields of a JSON body, each checked as it is read: objects, shapes, base64, and pictures in base64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.body import brief
from schemas.payloads.jpeg import START as JPEG_START
from schemas.payloads.jpeg import decode_jpeg
from schemas.payloads.pictures import check_bytes
from schemas.payloads.png import SIGNATURE as PNG_SIGNATURE
from schemas.payloads.png import decode_png
from schemas.payloads.tensors import check_count
from schemas.refusal import Reason, Refusal


def object_of(value: object, field: str) -> dict[str, Any]:
    """The value, if it is a JSON object; INVALID_FIELD otherwise."""
    if not isinstance(value, dict):
        raise Refusal(Reason.INVALID_FIELD, f"{field} must be an object; found {brief(value)}")
    return value


def required(fields: dict[str, Any], name: str, of: str) -> Any:
    """The field `name`; MISSING_FIELD if it is not there or null."""
    value = fields.get(name)
    if value is None:
        raise Refusal(Reason.MISSING_FIELD, f"{of}.{name} is missing; found {brief(list(fields))}")
    return value


def shape_of(value: object) -> tuple[int, ...]:
    """A tensor's shape; INVALID_FIELD if it is no list of whole numbers."""
    if not isinstance(value, list) or not value or any(type(size) is not int or size < 0 for size in value):
        raise Refusal(Reason.INVALID_FIELD, f"shape must be a list of whole numbers; found {brief(value)}")
    return tuple(value)


def base64_of(value: object, field: str) -> bytes:
    """The bytes of a base64 string; INVALID_FIELD if it is none."""
    if not isinstance(value, str):
        raise Refusal(Reason.INVALID_FIELD, f"{field} must be a base64 string; found {brief(value)}")
    try:
        return pybase64.b64decode(value, validate=True)
    except ValueError as error:
        raise Refusal(Reason.INVALID_FIELD, f"{field} is not base64: {error}; found {brief(value)}") from error


def base64_pictures(texts: Sequence[str], field: str, spec: InputSpec) -> NDArray[Any]:
    """Images of base64 PNG and JPEG files, `(n, *spec.shape)` uint8; refused as each decoder does."""
    _check_some(texts, field, spec)
    return np.concatenate([_picture(base64_of(text, field), spec) for text in texts])


def pictures(files: Sequence[bytes], field: str, spec: InputSpec) -> NDArray[Any]:
    """Images of PNG and JPEG files, `(n, *spec.shape)` uint8; refused as each decoder does."""
    _check_some(files, field, spec)
    return np.concatenate([_picture(file, spec) for file in files])


def _check_some(files: Sequence[object], field: str, spec: InputSpec) -> None:
    check_count(len(files))
    check_bytes(len(files), spec)
    if not files:
        raise Refusal(Reason.WRONG_SHAPE, f"{field} holds no picture")


def _picture(data: bytes, spec: InputSpec) -> NDArray[Any]:
    if data.startswith(PNG_SIGNATURE):
        return decode_png(data, spec)
    if data.startswith(JPEG_START):
        return decode_jpeg(data, spec)
    raise Refusal(Reason.UNREADABLE_IMAGE, f"neither PNG nor JPEG: it starts with {data[:8]!r}")
