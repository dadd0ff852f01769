"""Open Inference Protocol V2's body: one tensor, as JSON or as the binary that follows its JSON.

What a datatype means: an integer is a value before scaling, 0..255 like UINT8; a floating-point number is what the
model takes; BOOL is 0 or 1 as a floating-point number; BYTES are PNG or JPEG files, one an element.

Sources: Open Inference Protocol V2, "Inference Request JSON Object"; Triton, "Binary Tensor Data Extension".
"""

import struct
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.body import AnswerOptions, Body, brief, input_datatype
from schemas.payloads.json_fields import base64_of, base64_pictures, object_of, pictures, required, shape_of
from schemas.payloads.numbers import load_json, read_numbers
from schemas.payloads.tensors import check_count, count_items, to_images, to_uint8
from schemas.refusal import Reason, Refusal

PICTURES = "BYTES"
_BOOL = "BOOL"
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    _BOOL: np.dtype("u1"),
}
"""The numeric datatypes, and how each is stored in raw data: row-major, little endian."""
_SHARED_MEMORY = "shared_memory_region"
_BINARY_SIZE = "binary_data_size"
_FIRST = "inputs[0]"

Images = Callable[[InputSpec], NDArray[Any]]


def v2_body(document: dict[str, Any], binary: bytes | None = None) -> Body:
    """Read a V2 request.

    Args:
        binary: what follows the JSON in a request of the binary extension; None where the request is JSON alone.

    Raises:
        Refusal: INVALID_FIELD, MISSING_FIELD, WRONG_DTYPE.
    """
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"{len(inputs)} of them" if isinstance(inputs, list) else brief(inputs)
        raise Refusal(Reason.INVALID_FIELD, f"inputs must be a list of exactly one tensor; found {found}")
    tensor = object_of(inputs[0], _FIRST)
    parameters = object_of(document.get("parameters") or {}, "parameters")
    attributes = parameters.get("attributes")
    return Body(
        images=_images(tensor, binary),
        request_id=document.get("id"),
        attributes=attributes if _is_flat(attributes) else None,  # others' parameters may mean something else
        deadline=parameters.get("deadline"),
        options=AnswerOptions(
            body_id=document.get("id"),
            input_name=tensor.get("name"),
            outputs=document.get("outputs"),
            parameters=parameters,
        ),
    )


def binary_v2_body(payload: bytes, header_length: bytes) -> Body:
    """Read a V2 request of the binary extension.

    Args:
        header_length: of the header `inference-header-content-length`: the JSON's bytes; 0 says that there is none, and
            the value is the tensor of the only input.

    Raises:
        Refusal: INVALID_HEADER, INVALID_JSON, and as `v2_body`.
    """
    length = int(header_length) if header_length.isdigit() and len(header_length) < 12 else -1
    if not 0 <= length <= len(payload):
        raise Refusal(
            Reason.INVALID_HEADER,
            f"inference-header-content-length must be the length of the JSON, 0 to the {len(payload)} bytes of the "
            f"value; found {brief(header_length)}",
        )
    if length == 0:
        return Body(partial(_tensor_alone, payload), options=AnswerOptions(parameters={"binary_data_output": True}))
    return v2_body(object_of(load_json(payload[:length]), "the JSON of the request"), payload[length:])


def _tensor_alone(payload: bytes, spec: InputSpec) -> NDArray[Any]:
    """A request without JSON: as many images as its bytes make, of the datatype that the model's metadata names."""
    datatype = input_datatype(spec)
    item = spec.size * DATATYPES[datatype].itemsize
    return _raw_numbers(payload, datatype, (max(1, len(payload) // item), *spec.shape), spec)


def _images(tensor: dict[str, Any], binary: bytes | None) -> Images:
    """How the images of the tensor are read."""
    datatype, shape = required(tensor, "datatype", _FIRST), shape_of(required(tensor, "shape", _FIRST))
    if not isinstance(datatype, str) or (datatype not in DATATYPES and datatype != PICTURES):
        expected = ", ".join((*DATATYPES, PICTURES))
        raise Refusal(Reason.WRONG_DTYPE, f"found datatype {brief(datatype)}; expected one of {expected}")
    own = object_of(tensor.get("parameters") or {}, f"{_FIRST}.parameters")
    if _SHARED_MEMORY in own:
        raise Refusal(Reason.INVALID_FIELD, f"{_FIRST} is in shared memory, which is not read here; send its data")
    if binary or _BINARY_SIZE in own:
        return _binary_images(tensor, own.get(_BINARY_SIZE), binary, datatype, shape)
    data = required(tensor, "data", _FIRST)
    if datatype == PICTURES:
        return partial(_text_pictures, data, shape)
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], str):
        data = data[0]
    if isinstance(data, str):
        return partial(_raw_numbers, base64_of(data, f"{_FIRST}.data"), datatype, shape)
    return partial(_numbers, data, datatype, shape)


def _binary_images(
    tensor: dict[str, Any], size: object, binary: bytes | None, datatype: str, shape: tuple[int, ...]
) -> Images:
    if binary is None:
        raise Refusal(
            Reason.INVALID_FIELD,
            f"{_FIRST}.parameters.{_BINARY_SIZE} is given, but the value is JSON alone; send the header "
            "inference-header-content-length with the length of the JSON, and the data behind it",
        )
    if "data" in tensor:
        raise Refusal(Reason.INVALID_FIELD, f"{_FIRST} has both data and {_BINARY_SIZE}; send one")
    if type(size) is not int or size != len(binary):
        raise Refusal(
            Reason.INVALID_FIELD,
            f"{len(binary)} bytes follow the JSON; {_FIRST}.parameters.{_BINARY_SIZE} must say so; found {brief(size)}",
        )
    if datatype == PICTURES:
        return partial(_binary_pictures, binary, shape)
    return partial(_raw_numbers, binary, datatype, shape)


def _raw_numbers(data: bytes, datatype: str, shape: tuple[int, ...], spec: InputSpec) -> NDArray[Any]:
    """Images of raw row-major little-endian data."""
    count, dtype = count_items(shape, spec.shape), DATATYPES[datatype]
    expected = count * spec.size * dtype.itemsize
    if len(data) != expected:
        raise Refusal(
            Reason.INVALID_FIELD, f"data has {len(data)} bytes; shape {brief(shape)} of {datatype} has {expected}"
        )
    return _of_datatype(np.frombuffer(data, dtype), datatype, count, spec)


def _numbers(data: object, datatype: str, shape: tuple[int, ...], spec: InputSpec) -> NDArray[Any]:
    """Images of numbers in JSON, nested as the shape says, or flat."""
    count = count_items(shape, spec.shape)
    numbers, found = read_numbers(data, spec.shape, frozenset((bool, int)) if datatype == _BOOL else None)
    if found != shape and (len(found) > 1 or numbers.size != count * spec.size):
        raise Refusal(Reason.WRONG_SHAPE, f"data has shape {found}; expected {shape} as declared, or flat")
    return _of_datatype(numbers, datatype, count, spec)


def _of_datatype(numbers: NDArray[Any], datatype: str, count: int, spec: InputSpec) -> NDArray[Any]:
    """What the datatype says that the numbers mean, as images."""
    if datatype == _BOOL:
        if numbers.max() > 1 or numbers.min() < 0:
            found = numbers[(numbers > 1) | (numbers < 0)][0]
            raise Refusal(Reason.OUT_OF_RANGE, f"BOOL is 0 or 1; found {found:g}")
        numbers = numbers.astype(np.float32)
    elif not datatype.startswith("FP") and numbers.dtype != np.uint8:
        numbers = to_uint8(numbers, datatype)
    return to_images(numbers, count, spec)


def _text_pictures(data: object, shape: tuple[int, ...], spec: InputSpec) -> NDArray[Any]:
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise Refusal(Reason.INVALID_FIELD, f"BYTES data must be a list of base64 strings; found {brief(data)}")
    _check_pictures(len(data), shape)
    return base64_pictures(data, f"{_FIRST}.data", spec)


def _binary_pictures(data: bytes, shape: tuple[int, ...], spec: InputSpec) -> NDArray[Any]:
    """Images of files, each behind its length in four bytes, little endian."""
    check_count(prod(shape))
    files: list[bytes] = []
    start = 0
    while start + 4 <= len(data) and len(files) < prod(shape):
        [size] = struct.unpack_from("<I", data, start)
        files.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    if start != len(data):
        raise Refusal(Reason.INVALID_FIELD, f"{len(data)} bytes are not {prod(shape)} elements, each behind its length")
    _check_pictures(len(files), shape)
    return pictures(files, _FIRST, spec)


def _check_pictures(count: int, shape: tuple[int, ...]) -> None:
    if shape not in ((count,), (count, 1)):
        raise Refusal(Reason.WRONG_SHAPE, f"{count} pictures with shape {brief(shape)}; expected ({count},)")


def _is_flat(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
