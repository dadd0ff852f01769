"""V2's datatypes and binary extension, and V1's columns and names: one reader for Kafka and HTTP."""

import struct
from typing import Any

import numpy as np
import orjson
import pybase64
import pytest
from numpy.typing import NDArray

from schemas.payloads import DecodedRequest, encode_png
from schemas.payloads.numbers import MAX_LISTS
from schemas.refusal import Reason, Refusal
from tests.payloads import JSON, SHAPE, decode, images, refusal_of, spec_of

RNG = np.random.default_rng(29)
IMAGE = images(RNG)
UNIT = RNG.random(SHAPE, np.float32)
LENGTH = "inference-header-content-length"
PNG = encode_png(IMAGE)
WIDTHS = [("INT8", "i1"), ("UINT16", "<u2"), ("INT16", "<i2"), ("UINT32", "<u4"), ("INT32", "<i4"), ("UINT64", "<u8")]
WIDTHS += [("INT64", "<i8")]


def v2(data: Any, datatype: str, shape: list[int] | None = None, **tensor: object) -> bytes:
    plain = {"name": "image", "datatype": datatype, "shape": shape or [1, *SHAPE]}
    return orjson.dumps({"inputs": [plain | ({} if data is None else {"data": data}) | tensor]})


def binary(raw: bytes, datatype: str = "UINT8", shape: list[int] | None = None, **tensor: object) -> tuple[bytes, int]:
    """A request of the extension, and the length of its JSON."""
    plain = {"name": "image", "datatype": datatype, "shape": shape or [1, *SHAPE]}
    text = orjson.dumps({"inputs": [plain | {"parameters": {"binary_data_size": len(raw)}} | tensor]})
    return text + raw, len(text)


def decode_binary(value: bytes, length: object, content_type: str = "application/octet-stream") -> DecodedRequest:
    return decode(value, content_type, (LENGTH, str(length).encode()))


def elements(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


@pytest.mark.parametrize(("datatype", "dtype"), WIDTHS)
@pytest.mark.parametrize("form", ["numbers", "base64", "binary"])
def test_integers_of_every_width_are_values_before_scaling(datatype: str, dtype: str, form: str) -> None:
    wide: NDArray[Any] = (IMAGE % 128).astype(dtype)
    if form == "binary":
        found = decode_binary(*binary(wide.tobytes(), datatype))
    else:
        data = wide.ravel().tolist() if form == "numbers" else pybase64.b64encode_as_string(wide.tobytes())
        found = decode(v2(data, datatype), JSON)
    assert found.images.dtype == np.uint8
    assert np.array_equal(found.images[0], IMAGE % 128)


@pytest.mark.parametrize(("datatype", "dtype", "number"), [("INT16", "<i2", -1), ("INT64", "<i8", 256)])
def test_an_integer_that_is_no_value_before_scaling_is_refused_by_its_datatype(
    datatype: str, dtype: str, number: int
) -> None:
    wide = IMAGE.astype(dtype)
    wide[3, 4, 1] = number
    for refusal in (
        refusal_of(v2(wide.ravel().tolist(), datatype), JSON),
        refusal_of(v2(pybase64.b64encode_as_string(wide.tobytes()), datatype), JSON),
    ):
        assert (refusal.reason, datatype in refusal.detail, str(number) in refusal.detail) == (
            Reason.OUT_OF_RANGE,
            True,
            True,
        )


def test_bools_are_zero_and_one_whatever_they_are_written_as() -> None:
    mask = RNG.random(SHAPE) < 0.5
    expected = decode(v2(mask.astype(float).ravel().tolist(), "FP32"), JSON).images
    for data in (mask.tolist(), [mask.tolist()], mask.astype(int).ravel().tolist()):
        assert np.array_equal(decode(v2(data, "BOOL", list(SHAPE) if len(data) == 32 else None), JSON).images, expected)
    assert np.array_equal(decode_binary(*binary(mask.tobytes(), "BOOL")).images, expected)
    assert refusal_of(v2(IMAGE.ravel().tolist(), "BOOL"), JSON).reason is Reason.OUT_OF_RANGE
    assert refusal_of(v2(mask.ravel().tolist(), "UINT8"), JSON).reason is Reason.INVALID_FIELD


def test_floats_and_pictures_may_follow_the_json() -> None:
    assert np.array_equal(decode_binary(*binary(UNIT.tobytes(), "FP32")).images[0], UNIT)
    assert np.array_equal(decode_binary(*binary(elements(PNG, PNG), "BYTES", [2])).images, np.stack([IMAGE, IMAGE]))
    assert np.array_equal(decode_binary(*binary(elements(PNG), "BYTES", [1, 1])).images[0], IMAGE)


def test_json_alone_may_come_with_the_length_of_the_json() -> None:
    text = v2(IMAGE.ravel().tolist(), "UINT8")
    assert np.array_equal(decode_binary(text, len(text), JSON).images[0], IMAGE)


def test_a_tensor_without_json_has_as_many_images_as_its_bytes_make() -> None:
    two = np.stack([IMAGE, images(RNG)])
    assert np.array_equal(decode_binary(two.tobytes(), 0).images, two)
    row = np.array([[0.5, 0.25, 1, 0]], "<f4")
    found = decode(row.tobytes(), "", (LENGTH, b"0"), spec=spec_of(4, kind="tabular"))
    assert np.array_equal(found.images, row)
    for wrong in (two.tobytes()[:-1], b"x"):
        assert refusal_of(wrong, "", (LENGTH, b"0")).reason is Reason.INVALID_FIELD
    assert refusal_of(bytes(65 * IMAGE.size), "", (LENGTH, b"0")).reason is Reason.TOO_MANY_IMAGES


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.5", "9999999", "9" * 5000, "0x10", "\xb2"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    value, _ = binary(IMAGE.tobytes())
    assert refusal_of(value, JSON, (LENGTH, length.encode())).reason is Reason.INVALID_HEADER


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (binary(IMAGE.tobytes(), parameters={"binary_data_size": 7}), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), parameters={"binary_data_size": "3072"}), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), parameters={"binary_data_size": True}), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), parameters={}), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), parameters=[]), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), parameters=[1]), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), data=[1]), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes()[:-1]), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), "INT16"), Reason.INVALID_FIELD),
        (binary(IMAGE.tobytes(), "FP8"), Reason.WRONG_DTYPE),
        (binary(IMAGE.tobytes(), shape=[10**12, *SHAPE]), Reason.TOO_MANY_IMAGES),
        (binary(b"\2" * IMAGE.size, "BOOL"), Reason.OUT_OF_RANGE),
        (binary(np.full(SHAPE, np.nan, "<f4").tobytes(), "FP32"), Reason.NOT_FINITE),
        (binary(elements(PNG), "BYTES", [2]), Reason.WRONG_SHAPE),
        (binary(elements(PNG, PNG), "BYTES", [1]), Reason.INVALID_FIELD),
        (binary(elements(PNG)[:-1], "BYTES", [1]), Reason.INVALID_FIELD),
        (binary(b"\xff\xff\xff\xff", "BYTES", [1]), Reason.INVALID_FIELD),
        (binary(b"\1\0", "BYTES", [1]), Reason.INVALID_FIELD),
        (binary(b"", "BYTES", [0]), Reason.WRONG_SHAPE),
        (binary(elements(*[b""] * 65), "BYTES", [65]), Reason.TOO_MANY_IMAGES),
        (binary(elements(b"GIF89a"), "BYTES", [1]), Reason.UNREADABLE_IMAGE),
        ((b"[]" + IMAGE.tobytes(), 2), Reason.INVALID_FIELD),
        ((b"{}" + IMAGE.tobytes(), 2), Reason.INVALID_FIELD),
        ((b"{" + IMAGE.tobytes(), 1), Reason.INVALID_JSON),
        ((b"[" * (MAX_LISTS + 1) + b"x", MAX_LISTS + 1), Reason.INVALID_JSON),
    ],
)
def test_binary_data_that_is_not_as_declared_is_refused(built: tuple[bytes, int], reason: Reason) -> None:
    value, length = built
    with pytest.raises(Refusal) as refused:
        decode_binary(value, length)
    assert refused.value.reason is reason, refused.value.detail


def test_binary_data_without_the_header_and_shared_memory_are_refused_with_the_remedy() -> None:
    value, _ = binary(b"")
    assert "send the header inference-header-content-length" in refusal_of(value, JSON).detail
    shared = v2(None, "UINT8", parameters={"shared_memory_region": "a", "shared_memory_byte_size": 3072})
    assert "shared memory" in refusal_of(shared, JSON).detail


@pytest.mark.parametrize("pad", [1, 40], ids=["short", "long"])
def test_columns_read_as_rows_do(pad: int) -> None:
    row = [0.5, 0.25, 1, 0]
    spec = spec_of(4, kind="tabular")
    table = [row] * pad
    expected = decode(orjson.dumps({"instances": table}), JSON, spec=spec).images
    for document in ({"inputs": table}, {"inputs": {"row": table}}, {"instances": [{"row": one} for one in table]}):
        assert np.array_equal(decode(orjson.dumps(document), JSON, spec=spec).images, expected)
    spaced = b'{"signature_name": "x", "inputs" :\n [ ' + b", ".join([orjson.dumps(row)] * pad) + b" ] }"
    assert np.array_equal(decode(spaced, JSON, spec=spec).images, expected)


@pytest.mark.parametrize("inputs", [[1], [[]], [[[]]], [1, [2]], {"image": []}])
def test_columns_of_another_shape_are_refused(inputs: object) -> None:
    assert refusal_of(orjson.dumps({"inputs": inputs}), JSON).reason is Reason.WRONG_SHAPE


def test_what_a_body_says_of_its_answer_is_kept_and_refuses_nothing_over_kafka() -> None:
    body = orjson.loads(v2(IMAGE.ravel().tolist(), "UINT8"))
    body |= {"id": "of-body", "outputs": 7, "parameters": {"binary_data_output": "yes"}}
    body["inputs"][0]["name"] = "pixels"
    options = decode(orjson.dumps(body), JSON, key=None).options
    assert (options.body_id, options.input_name, options.outputs) == ("of-body", "pixels", 7)
    assert options.parameters == {"binary_data_output": "yes"}
