"""Bad messages for `inference.requests`, each with the reasons for which it may rightly be refused.

Deterministic from the seed, so that a test which sends them knows exactly what must be in the dead letters. Made for a
model of 32 x 32 x 3 images; shared by the unit tests of the codecs and the tests that send them to a real worker.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import orjson
from PIL import Image

from schemas.payloads.encode import encode_jpeg, encode_json, encode_npy, encode_png, encode_v1, encode_v2
from schemas.refusal import Reason
from tests.payloads import JPEG, JSON, NPY, PNG, SHAPE, images, png_file

OVERSIZE_BYTES = 20 * (1 << 20)


@dataclass(frozen=True, slots=True)
class BadRequest:
    """One message that must be refused.

    Attributes:
        fault: what is wrong with it, as the name of the function that made it.
        reasons: any of these is right.
    """

    fault: str
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    reasons: frozenset[Reason]


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a fault says of its message; key and content type are good unless given."""

    value: bytes | None
    content_type: str | None
    reasons: tuple[Reason, ...]
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


_Fault = Callable[[np.random.Generator], _Draft]
FAULTS: list[_Fault] = []
"""In the order in which `bad_requests` goes round them."""


def bad_requests(count: int, seed: int, oversize: bool = False) -> Iterator[BadRequest]:
    """`count` bad messages, every fault in turn; with `oversize`, the first is a message of 20 MB.

    Args:
        count: at least `len(FAULTS)` to have every fault; 1 more with `oversize`.
        seed: of every random choice.
        oversize: whether to begin with the over-size one.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        fault = _oversize if oversize and index == 0 else FAULTS[(index - oversize) % len(FAULTS)]
        draft = fault(rng)
        content_type = [] if draft.content_type is None else [("content-type", draft.content_type.encode())]
        yield BadRequest(
            fault.__name__.strip("_"),
            draft.value,
            f"bad-{seed}-{index}".encode() if draft.key is None else draft.key,
            [*content_type, *draft.headers],
            frozenset(draft.reasons),
        )


def _fault(function: _Fault) -> _Fault:
    FAULTS.append(function)
    return function


def _cut(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def _oversize(rng: np.random.Generator) -> _Draft:
    return _Draft(rng.bytes(OVERSIZE_BYTES), PNG, (Reason.OVERSIZE,))


@_fault
def png_truncated(rng: np.random.Generator) -> _Draft:
    return _Draft(_cut(rng, encode_png(images(rng))), PNG, (Reason.UNREADABLE_IMAGE,))


@_fault
def png_with_a_flipped_bit(rng: np.random.Generator) -> _Draft:
    data = bytearray(encode_png(images(rng)))
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return _Draft(bytes(data), PNG, (Reason.UNREADABLE_IMAGE,))


@_fault
def png_whose_pixels_end_early(rng: np.random.Generator) -> _Draft:
    rows = b"".join(b"\0" + row.tobytes() for row in images(rng)[: int(rng.integers(32))])
    return _Draft(png_file(zlib.compress(rows)), PNG, (Reason.UNREADABLE_IMAGE,))


@_fault
def png_decompression_bomb(rng: np.random.Generator) -> _Draft:
    side = int(rng.integers(5_000, 60_000))
    return _Draft(png_file(zlib.compress(bytes(1 << 20)), (side, side)), PNG, (Reason.TOO_MANY_PIXELS,))


@_fault
def png_of_another_size(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_png(images(rng, int(rng.integers(33, 80)), 32, 3)), PNG, (Reason.WRONG_SHAPE,))


@_fault
def png_of_16_bits(rng: np.random.Generator) -> _Draft:
    stream = BytesIO()
    Image.fromarray(images(rng)[..., 0].astype(np.uint16) * 257).save(stream, "PNG")
    return _Draft(stream.getvalue(), PNG, (Reason.WRONG_DTYPE,))


@_fault
def png_with_transparent_pixels(rng: np.random.Generator) -> _Draft:
    alpha = rng.integers(0, 255, (32, 32, 1), dtype=np.uint8)
    return _Draft(encode_png(np.concatenate([images(rng), alpha], axis=2)), PNG, (Reason.WRONG_SHAPE,))


@_fault
def jpeg_truncated(rng: np.random.Generator) -> _Draft:
    return _Draft(_cut(rng, encode_jpeg(images(rng))), JPEG, (Reason.UNREADABLE_IMAGE,))


@_fault
def jpeg_with_a_damaged_first_segment(rng: np.random.Generator) -> _Draft:
    data = bytearray(encode_jpeg(images(rng)))
    data[int(rng.integers(3))] ^= 1 << int(rng.integers(8))
    return _Draft(bytes(data), JPEG, (Reason.UNREADABLE_IMAGE,))


@_fault
def jpeg_of_another_size(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_jpeg(images(rng, 32, int(rng.integers(33, 80)), 3)), JPEG, (Reason.WRONG_SHAPE,))


@_fault
def jpeg_in_cmyk(rng: np.random.Generator) -> _Draft:
    stream = BytesIO()
    Image.fromarray(images(rng)).convert("CMYK").save(stream, "JPEG")
    return _Draft(stream.getvalue(), JPEG, (Reason.WRONG_SHAPE,))


@_fault
def png_called_jpeg(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_png(images(rng)), JPEG, (Reason.UNREADABLE_IMAGE,))


@_fault
def npy_truncated(rng: np.random.Generator) -> _Draft:
    return _Draft(_cut(rng, encode_npy(images(rng))), NPY, (Reason.UNREADABLE_IMAGE,))


@_fault
def npy_of_another_shape(rng: np.random.Generator) -> _Draft:
    shapes = ((32, 32), (3, 32, 32), (1, 1, *SHAPE), (0, *SHAPE), (32, 32, 4))
    return _Draft(encode_npy(images(rng, *shapes[rng.integers(len(shapes))])), NPY, (Reason.WRONG_SHAPE,))


@_fault
def npy_of_another_dtype(rng: np.random.Generator) -> _Draft:
    stream = BytesIO()
    dtype = ("int32", "int64", "bool", "complex64", "U2", "M8[s]")[rng.integers(6)]
    np.save(stream, np.zeros(SHAPE, dtype))
    return _Draft(stream.getvalue(), NPY, (Reason.WRONG_DTYPE,))


@_fault
def npy_with_a_pickle(_: np.random.Generator) -> _Draft:
    stream = BytesIO()
    np.save(stream, np.full(SHAPE, None, object), allow_pickle=True)
    return _Draft(stream.getvalue(), NPY, (Reason.WRONG_DTYPE,))


@_fault
def npy_not_finite(rng: np.random.Generator) -> _Draft:
    pixels = rng.random(SHAPE, dtype=np.float32)
    pixels.flat[rng.integers(pixels.size)] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    return _Draft(encode_npy(pixels), NPY, (Reason.NOT_FINITE,))


@_fault
def npy_floats_in_0_to_255(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_npy(images(rng).astype(np.float32)), NPY, (Reason.OUT_OF_RANGE,))


@_fault
def npy_of_too_many_images(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_npy(images(rng, int(rng.integers(65, 80)), *SHAPE)), NPY, (Reason.TOO_MANY_IMAGES,))


@_fault
def json_cut_off(rng: np.random.Generator) -> _Draft:
    encode = (encode_json, encode_v1, encode_v2)[rng.integers(3)]
    return _Draft(_cut(rng, encode(images(rng))), JSON, (Reason.INVALID_JSON,))


@_fault
def json_nested_too_deep(rng: np.random.Generator) -> _Draft:
    depth = int(rng.integers(2_000, 200_000))
    return _Draft(b'{"instances":' + b"[" * depth + b"]" * depth + b"}", JSON, (Reason.INVALID_JSON,))


@_fault
def json_with_nan(rng: np.random.Generator) -> _Draft:
    literal = (b"NaN", b"Infinity", b"-Infinity", b"1e999")[rng.integers(4)]
    value = encode_v1(images(rng)).replace(b"[[[[", b"[[[[" + literal + b",", 1)
    return _Draft(value, JSON, (Reason.NOT_FINITE,))


@_fault
def json_without_a_field(rng: np.random.Generator) -> _Draft:
    if rng.integers(2):
        return _Draft(b'{"picture": [1, 2, 3]}', JSON, (Reason.MISSING_FIELD,))
    outer, inner = (("image", ("dtype", "shape", "data")), ("inputs", ("datatype", "shape", "data")))[rng.integers(2)]
    document = orjson.loads((encode_json if outer == "image" else encode_v2)(images(rng)))
    tensor = document[outer] if outer == "image" else document[outer][0]
    del tensor[inner[rng.integers(3)]]
    return _Draft(orjson.dumps(document), JSON, (Reason.MISSING_FIELD,))


@_fault
def json_claiming_another_shape(rng: np.random.Generator) -> _Draft:
    document = orjson.loads(encode_json(images(rng)))
    document["image"]["shape"] = ([10**9, *SHAPE], [3, 32, 32], [2, *SHAPE], [1])[rng.integers(4)]
    reasons = (Reason.TOO_MANY_IMAGES, Reason.WRONG_SHAPE, Reason.INVALID_FIELD)
    return _Draft(orjson.dumps(document), JSON, reasons)


@_fault
def json_with_a_wrong_dtype(rng: np.random.Generator) -> _Draft:
    document = orjson.loads(encode_v2(images(rng)))
    document["inputs"][0]["datatype"] = ("BF16", "STRING", 7)[rng.integers(3)]
    return _Draft(orjson.dumps(document), JSON, (Reason.WRONG_DTYPE,))


@_fault
def json_with_broken_base64(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_json(images(rng)).replace(b'"data":"', b'"data":"*'), JSON, (Reason.INVALID_FIELD,))


@_fault
def json_with_ragged_lists(rng: np.random.Generator) -> _Draft:
    rows = (images(rng) / 255).tolist()
    rows[int(rng.integers(32))][int(rng.integers(32))].pop()
    return _Draft(orjson.dumps({"instances": [rows]}), JSON, (Reason.WRONG_SHAPE,))


@_fault
def json_numbers_out_of_range(rng: np.random.Generator) -> _Draft:
    numbers = images(rng).astype(float).ravel()
    numbers[rng.integers(numbers.size)] = (256.0, -1.0, 0.5, 1e300)[rng.integers(4)]
    tensor = {"name": "x", "shape": SHAPE, "datatype": "UINT8", "data": numbers.tolist()}
    return _Draft(orjson.dumps({"inputs": [tensor]}), JSON, (Reason.OUT_OF_RANGE,))


@_fault
def json_of_too_many_images(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_json(images(rng, 65, *SHAPE)), JSON, (Reason.TOO_MANY_IMAGES,))


@_fault
def unknown_model(rng: np.random.Generator) -> _Draft:
    header = ("model", b"no-such-model-%d" % rng.integers(100))
    return _Draft(encode_png(images(rng)), PNG, (Reason.UNKNOWN_MODEL,), headers=(header,))


@_fault
def empty_value(_: np.random.Generator) -> _Draft:
    return _Draft(b"", PNG, (Reason.EMPTY_VALUE,))


@_fault
def no_value(_: np.random.Generator) -> _Draft:
    return _Draft(None, PNG, (Reason.EMPTY_VALUE,))


@_fault
def wrong_content_type(rng: np.random.Generator) -> _Draft:
    content_type = ("image/gif", "text/plain", "png", "")[rng.integers(4)]
    return _Draft(encode_png(images(rng)), content_type, (Reason.UNKNOWN_CONTENT_TYPE,))


@_fault
def no_content_type(rng: np.random.Generator) -> _Draft:
    return _Draft(encode_png(images(rng)), None, (Reason.UNKNOWN_CONTENT_TYPE,))


@_fault
def bad_id(rng: np.random.Generator) -> _Draft:
    key = (b"\xff\xfe", b"   ", b"line\nbreak", b"long" * 129)[rng.integers(4)]
    return _Draft(encode_npy(images(rng)), NPY, (Reason.INVALID_ID,), key=key)


@_fault
def bad_time(rng: np.random.Generator) -> _Draft:
    header = ("deadline", "ce_time")[rng.integers(2)]
    text = (b"soon", b"2026-13-01T00:00:00Z", b"2026-01-01T00:00:00", b"nan", b"\xff")[rng.integers(5)]
    return _Draft(encode_npy(images(rng)), NPY, (Reason.INVALID_HEADER,), headers=((header, text),))


@_fault
def bad_attribute(rng: np.random.Generator) -> _Draft:
    header = ("attribute-site", b"x" * 300) if rng.integers(2) else ("attribute-site", b"\xff")
    return _Draft(encode_npy(images(rng)), NPY, (Reason.INVALID_HEADER,), headers=(header,))
