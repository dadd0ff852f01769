"""One rule for bytes and floats, whatever the model's scale: a byte is looked up, a float is passed on."""

from functools import partial
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.model_spec import InputSpec, ModelSpec
from schemas.payloads import decode_request
from schemas.payloads.encode import encode_npy, encode_png
from schemas.payloads.tensors import to_images
from schemas.refusal import Reason, Refusal

SCALES = [(255.0, 0.0), (127.5, -1.0), (1.0, 0.0), (0.7, 3.0)]
IMAGE = np.random.default_rng(5).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def spec_of(scale: float, offset: float) -> ModelSpec:
    shape = {"shape": [4, 4, 3], "scale": scale, "offset": offset}
    return ModelSpec.model_validate(
        {"name": "m", "version": "1", "input": shape, "labels": ["a"], "weights": {"framework": "null"}}
    )


def seen(images: NDArray[Any], spec: ModelSpec) -> NDArray[np.float32]:
    """What the model sees of a decoded request, as every graph computes it."""
    return spec.input.byte_values[images] if images.dtype == np.uint8 else images


def decoded(body: bytes, content_type: str, spec: ModelSpec) -> NDArray[np.float32]:
    headers: list[tuple[str, bytes | None]] = [("content-type", content_type.encode())]
    return seen(decode_request(body, b"id", headers, 1.7e9, specs={"m": spec}, default_model="m").images, spec)


def bodies(spec: ModelSpec) -> dict[str, tuple[bytes, str]]:
    """The image in every format: as bytes, and as the floats that the model takes."""
    floats = spec.input.byte_values[IMAGE]
    numbers, whole = floats[None].tolist(), IMAGE[None].tolist()
    make = partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY)
    v2 = {"name": "image", "shape": [1, 4, 4, 3]}
    return {
        "png": (encode_png(IMAGE), "image/png"),
        "npy of bytes": (encode_npy(IMAGE[None]), "application/x-npy"),
        "npy of floats": (encode_npy(floats[None]), "application/x-npy"),
        "v2 of bytes": (make({"inputs": [{**v2, "datatype": "UINT8", "data": whole}]}), "application/json"),
        "v2 of floats": (make({"inputs": [{**v2, "datatype": "FP32", "data": numbers}]}), "application/json"),
        "v1": (make({"instances": numbers}), "application/json"),
    }


@pytest.mark.parametrize(("scale", "offset"), SCALES)
@pytest.mark.parametrize("form", bodies(spec_of(255, 0)))
def test_a_picture_reaches_the_model_the_same_in_every_format(scale: float, offset: float, form: str) -> None:
    spec = spec_of(scale, offset)
    found = decoded(*bodies(spec)[form], spec)
    expected = IMAGE.astype(np.float32) / np.float32(scale) + np.float32(offset)
    assert np.array_equal(found, expected[None])


@pytest.mark.parametrize(("scale", "offset"), SCALES)
@given(data=st.data())
def test_a_float_reaches_the_model_as_it_is_in_whatever_company(scale: float, offset: float, data: Any) -> None:
    spec = InputSpec(shape=(2,), scale=scale, offset=offset)
    values = spec.byte_values
    number = st.one_of(st.sampled_from(values.tolist()), st.floats(float(values[0]), float(values[-1]), width=32))
    rows = np.array(data.draw(st.lists(st.tuples(number, number), min_size=1, max_size=4)), np.float32)
    images = to_images(rows, len(rows), spec)
    assert np.array_equal(values[images] if images.dtype == np.uint8 else images, rows)


@pytest.mark.parametrize(("scale", "offset"), SCALES)
def test_floats_outside_the_model_s_range_are_refused_with_it(scale: float, offset: float) -> None:
    spec = InputSpec(shape=(1,), scale=scale, offset=offset)
    beyond = np.array([[spec.byte_values[-1] * 1.1 + 1]], np.float32)
    with pytest.raises(Refusal, match=f"{spec.byte_values[0]:g}") as caught:
        to_images(beyond, 1, spec)
    assert caught.value.reason is Reason.OUT_OF_RANGE
