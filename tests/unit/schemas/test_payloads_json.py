"""The three JSON bodies: what tells them apart, what each may hold, and what each refuses."""

from typing import Any

import numpy as np
import orjson
import pybase64
import pytest

from schemas.payloads import encode_jpeg, encode_json, encode_npy, encode_png, encode_v1, encode_v2
from schemas.refusal import Reason
from tests.payloads import JSON, SHAPE, decode, images, refusal_of, spec_of

RNG = np.random.default_rng(13)
IMAGE = images(RNG)
UNIT = RNG.random(SHAPE, np.float32)
BAD_SHAPES = ([], "32", [32.0, 32, 3], [True, 32, 32, 3], [-1, 32, 32, 3], None, [[32, 32, 3]], {"a": 1})


def base64(data: bytes) -> str:
    return pybase64.b64encode_as_string(data)


def ours(**image: object) -> bytes:
    tensor = {"dtype": "uint8", "shape": SHAPE, "data": base64(IMAGE.tobytes()), **image}
    return orjson.dumps({"image": tensor})


def v2(**tensor: object) -> bytes:
    plain = {"name": "x", "datatype": "UINT8", "shape": [1, *SHAPE], "data": IMAGE.ravel().tolist()}
    return orjson.dumps({"inputs": [{**plain, **tensor}]})


def v1(instances: object) -> bytes:
    return orjson.dumps({"instances": instances})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_raw_floats_are_little_endian(dtype: str) -> None:
    data = UNIT.astype(f"<{np.dtype(dtype).str[1:]}")
    found = decode(ours(dtype=dtype, data=base64(data.tobytes())), JSON).images[0]
    assert np.array_equal(found, data.astype(np.float32))


@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"), ("UINT8", "u1")])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: [data]], ids=["string", "list of one"])
def test_v2_takes_raw_bytes_in_base64(datatype: str, dtype: str, wrap: Any) -> None:
    pixels = IMAGE if datatype == "UINT8" else UNIT.astype(dtype)
    found = decode(v2(datatype=datatype, data=wrap(base64(pixels.tobytes()))), JSON).images[0]
    assert np.array_equal(found, pixels if datatype == "UINT8" else pixels.astype(np.float32))


@pytest.mark.parametrize("nested", [IMAGE.tolist(), [IMAGE.tolist()], IMAGE.ravel().tolist()])
def test_v2_numbers_may_be_flat_or_nested_as_declared(nested: list[object]) -> None:
    shape = list(SHAPE) if len(nested) == 32 else [1, *SHAPE]
    assert np.array_equal(decode(v2(data=nested, shape=shape), JSON).images[0], IMAGE)


def test_v2_numbers_nested_in_another_way_than_declared_are_refused() -> None:
    for nested in (IMAGE.reshape(-1, 3).tolist(), IMAGE.reshape(3, 32, 32).tolist(), IMAGE.ravel()[:-1].tolist(), []):
        assert refusal_of(v2(data=nested), JSON).reason is Reason.WRONG_SHAPE


def test_v2_and_v1_take_base64_pictures_told_by_their_first_bytes() -> None:
    files = [encode_png(IMAGE), encode_jpeg(IMAGE)]
    texts = [base64(data) for data in files]
    expected = np.concatenate(
        [decode(files[0], "image/png").images, decode(files[1], "image/jpeg").images],
    )
    for shape in ([2], [2, 1]):
        assert np.array_equal(decode(v2(datatype="BYTES", shape=shape, data=texts), JSON).images, expected)
    assert np.array_equal(decode(v1([{"b64": text} for text in texts]), JSON).images, expected)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({"shape": [2], "data": [base64(encode_png(IMAGE))]}, Reason.WRONG_SHAPE),
        ({"shape": [1], "data": base64(encode_png(IMAGE))}, Reason.INVALID_FIELD),
        ({"shape": [1], "data": [7]}, Reason.INVALID_FIELD),
        ({"shape": [1], "data": ["*"]}, Reason.INVALID_FIELD),
        ({"shape": [1], "data": [base64(b"GIF89a")]}, Reason.UNREADABLE_IMAGE),
        ({"shape": [1], "data": [base64(encode_png(IMAGE)[:-9])]}, Reason.UNREADABLE_IMAGE),
        ({"shape": [1], "data": [base64(encode_png(images(RNG, 8, 8, 3)))]}, Reason.WRONG_SHAPE),
        ({"shape": [0], "data": []}, Reason.WRONG_SHAPE),
        ({"shape": [65], "data": [""] * 65}, Reason.TOO_MANY_IMAGES),
        ({"shape": [3072], "data": list(range(3072))}, Reason.INVALID_FIELD),
    ],
)
def test_v2_pictures_are_judged_one_by_one(tensor: dict[str, object], reason: Reason) -> None:
    assert refusal_of(v2(datatype="BYTES", **tensor), JSON).reason is reason


@pytest.mark.parametrize("instance", [{"b64": 7}, {"image": [[0.5]]}, {}, {"b64": None}])
def test_v1_objects_other_than_base64_are_refused(instance: object) -> None:
    assert refusal_of(v1([{"b64": base64(encode_png(IMAGE))}, instance]), JSON).reason is Reason.INVALID_FIELD


def test_v1_numbers_are_model_inputs_and_never_pixels() -> None:
    assert np.array_equal(decode(v1([UNIT.tolist()]), JSON).images[0], UNIT)
    assert np.array_equal(decode(v1([np.ones(SHAPE, int).tolist()]), JSON).images[0], np.full(SHAPE, 255))
    refusal = refusal_of(v1([IMAGE.tolist()]), JSON)
    assert (refusal.reason, "uint8" in refusal.detail) == (Reason.OUT_OF_RANGE, True)


def test_fields_beside_those_of_the_protocols_are_ignored() -> None:
    served = {"signature_name": "serving_default", "instances": [UNIT.tolist()], "extra": {"data": [1, 2]}}
    assert np.array_equal(decode(orjson.dumps(served), JSON).images[0], UNIT)
    asked = {"outputs": [{"name": "y"}], **orjson.loads(v2()), "parameters": {"data": [1]}}
    assert np.array_equal(decode(orjson.dumps(asked), JSON).images[0], IMAGE)


@pytest.mark.parametrize("body", [b"{}", b'{"data": [1]}', b'{"Image": 1, "input": 2}'])
def test_a_body_of_no_known_kind_is_refused_with_the_fields_looked_for(body: bytes) -> None:
    refusal = refusal_of(body, JSON)
    assert refusal.reason is Reason.MISSING_FIELD
    assert all(field in refusal.detail for field in ("image", "inputs", "instances"))


def test_a_body_of_two_kinds_is_refused() -> None:
    body = {**orjson.loads(encode_v1(IMAGE)), **orjson.loads(encode_v2(IMAGE))}
    assert refusal_of(orjson.dumps(body), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("body", [b"null", b"[]", b"7", b'"x"', b"[{}]", b"{", b"\xff", b"{'a': 1}", b"\xef\xbb\xbf{}"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal_of(body, JSON).reason is Reason.INVALID_JSON


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_said_to_be_that(literal: str) -> None:
    for body in (encode_v1(IMAGE), encode_v2(UNIT, binary=False), b'{"instances": [[0.5, 0.5]]}'):
        first = body.index(b"0.")
        after = body.index(b",", first)
        assert refusal_of(body[:first] + literal.encode() + body[after:], JSON).reason is Reason.NOT_FINITE


def test_nan_as_text_is_no_number() -> None:
    rows = UNIT.tolist()
    rows[0][0][0] = "NaN"
    assert refusal_of(v1([rows]), JSON).reason is Reason.INVALID_FIELD
    assert refusal_of(b'{"instances": "NaN"', JSON).reason is Reason.INVALID_JSON


@pytest.mark.parametrize("dtype", ["int64", "uint16", "object", "U8", "", 7, ["uint8"], {"a": 1}])
def test_another_dtype_is_refused(dtype: object) -> None:
    assert refusal_of(ours(dtype=dtype), JSON).reason is Reason.WRONG_DTYPE
    assert refusal_of(v2(datatype=dtype), JSON).reason is Reason.WRONG_DTYPE


@pytest.mark.parametrize("shape", BAD_SHAPES)
def test_a_shape_that_is_no_list_of_sizes_is_refused(shape: object) -> None:
    for body in (ours(shape=shape), v2(shape=shape)):
        assert refusal_of(body, JSON).reason in (Reason.INVALID_FIELD, Reason.MISSING_FIELD)


@pytest.mark.parametrize(
    "shape", [[3, 32, 32], [32, 32], [1], [0, *SHAPE], [1, 1, *SHAPE], [10**18], [10**9, 10**9, 3]]
)
def test_a_claim_of_another_shape_is_refused_before_the_data_is_looked_at(shape: list[int]) -> None:
    for body in (ours(shape=shape), v2(shape=shape), v2(shape=shape, data=base64(IMAGE.tobytes()))):
        assert refusal_of(body, JSON).reason is Reason.WRONG_SHAPE


def test_a_claim_of_too_many_images_is_refused_before_the_data_is_looked_at() -> None:
    for count in (65, 10**18):
        for body in (ours(shape=[count, *SHAPE]), v2(shape=[count, *SHAPE])):
            assert refusal_of(body, JSON).reason is Reason.TOO_MANY_IMAGES


@pytest.mark.parametrize("data", ["*", "AAA", "A A=", "ÄÄÄÄ", 7, [7], {"a": 1}, base64(IMAGE.tobytes()[:-1]), ""])
def test_data_that_is_not_the_base64_of_the_tensor_is_refused(data: object) -> None:
    assert refusal_of(ours(data=data), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("field", ["dtype", "shape", "data"])
def test_a_missing_field_is_named(field: str) -> None:
    refusal = refusal_of(ours(**{field: None}), JSON)
    assert (refusal.reason, f"image.{field}" in refusal.detail) == (Reason.MISSING_FIELD, True)
    of_v2 = "datatype" if field == "dtype" else field
    refusal = refusal_of(v2(**{of_v2: None}), JSON)
    assert (refusal.reason, f"inputs[0].{of_v2}" in refusal.detail) == (Reason.MISSING_FIELD, True)


@pytest.mark.parametrize("inputs", [[], None, {}, "x", [None], [{}, {}]])
def test_v2_has_exactly_one_input_tensor(inputs: object) -> None:
    refusal = refusal_of(orjson.dumps({"inputs": inputs}), JSON)
    assert refusal.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("instances", [None, 7, "x", {}, {"b64": "AAAA"}, True])
def test_v1_instances_are_a_list(instances: object) -> None:
    assert refusal_of(v1(instances), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("image", [None, 7, "x", []])
def test_our_image_is_an_object(image: object) -> None:
    assert refusal_of(orjson.dumps({"image": image}), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("number", [256, -1, 0.5, 1e300, -1e-9, 255.00001])
def test_uint8_numbers_are_whole_and_in_range(number: float) -> None:
    data = IMAGE.ravel().tolist()
    data[1000] = number
    assert refusal_of(v2(data=data), JSON).reason is Reason.OUT_OF_RANGE


def test_uint8_numbers_may_be_written_with_a_point() -> None:
    assert np.array_equal(decode(v2(data=IMAGE.astype(float).ravel().tolist()), JSON).images[0], IMAGE)


def test_raw_floats_are_checked_like_all_others() -> None:
    for value, reason in ((np.nan, Reason.NOT_FINITE), (255.0, Reason.OUT_OF_RANGE)):
        pixels = UNIT.copy()
        pixels[1, 2, 0] = value
        assert refusal_of(encode_json(pixels), JSON).reason is reason
        assert refusal_of(encode_v2(pixels), JSON).reason is reason


def test_tabular_models_take_rows_in_every_json_form() -> None:
    spec, table = spec_of(4, kind="tabular"), RNG.random((3, 4), np.float32)
    bodies = [encode_json(table), encode_v2(table), encode_v2(table, binary=False), v1(table.tolist())]
    for body in bodies:
        assert np.array_equal(decode(body, JSON, spec=spec).images, table)


def test_an_npy_file_is_not_json() -> None:
    assert refusal_of(encode_npy(IMAGE), JSON).reason is Reason.INVALID_JSON
