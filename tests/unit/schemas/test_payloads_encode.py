"""Encoding: what a producer writes is what the model sees."""

import numpy as np
import orjson
import pytest

from schemas.payloads import FORMATS, encode_jpeg, encode_json, encode_npy, encode_png, encode_v1, encode_v2
from tests.payloads import JPEG, JSON, SHAPE, decode, images, spec_of

RNG = np.random.default_rng(11)
BATCH = images(RNG, 5, *SHAPE)
EXACT = ("npy", "json", "v2")


@pytest.mark.parametrize("name", ["png", *EXACT])
def test_one_uint8_image_comes_back_exactly(name: str) -> None:
    payload = FORMATS[name]
    assert np.array_equal(decode(payload.encode(BATCH[0]), payload.content_type).images, BATCH[:1])
    assert np.array_equal(decode(payload.encode(BATCH[:1]), payload.content_type).images, BATCH[:1])


@pytest.mark.parametrize("name", EXACT)
def test_a_uint8_batch_comes_back_exactly(name: str) -> None:
    payload = FORMATS[name]
    assert np.array_equal(decode(payload.encode(BATCH), payload.content_type).images, BATCH)


@pytest.mark.parametrize("name", [*EXACT, "v1"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_come_back_as_the_nearest_float32(name: str, dtype: type) -> None:
    payload, pixels = FORMATS[name], RNG.random((2, *SHAPE)).astype(dtype)
    found = decode(payload.encode(pixels), payload.content_type).images
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels.astype(np.float32))


def test_v1_divides_uint8_by_255_and_reading_it_finds_the_bytes_again() -> None:
    sent = np.array(orjson.loads(encode_v1(BATCH))["instances"], np.float32)
    assert np.array_equal(sent, BATCH.astype(np.float32) / np.float32(255))
    found = decode(encode_v1(BATCH), JSON).images
    assert found.dtype == np.uint8
    assert np.array_equal(found, BATCH)


@pytest.mark.parametrize("pixels", [BATCH, BATCH[0], BATCH / 256], ids=["batch", "one", "floats"])
def test_v2_numbers_come_back_exactly(pixels: np.ndarray) -> None:
    expected = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    found = decode(encode_v2(pixels, binary=False), JSON).images
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected.reshape(-1, *SHAPE))


def test_jpeg_comes_back_nearly_and_nearer_with_more_quality() -> None:
    slope = np.linspace(0, 255, 32)
    image = np.stack([slope[:, None] + slope * 0, slope + slope[:, None] * 0, np.full((32, 32), 90.0)], -1).astype(
        "uint8"
    )
    errors = [
        np.abs(decode(encode_jpeg(image, quality), JPEG).images[0].astype(int) - image).mean() for quality in (95, 20)
    ]
    assert errors[0] < 1.5 < errors[1]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_one_three_or_four_channels(channels: int) -> None:
    image = images(RNG, 20, 30, channels)
    assert np.array_equal(decode(encode_png(image), "image/png", spec=spec_of(20, 30, channels)).images[0], image)


def test_facts_written_into_our_json_are_read_from_it() -> None:
    body = encode_json(BATCH[0], request_id="truck-1", model="reference", attributes={"site": "north"})
    found = decode(body, JSON, key=None)
    assert (found.request_ids, found.model, found.attributes) == (["truck-1"], "reference", {"site": "north"})
    assert decode(encode_v2(BATCH[0], request_id="truck-2"), JSON, key=None).request_ids == ["truck-2"]


@pytest.mark.parametrize("encode", [encode_png, encode_jpeg])
@pytest.mark.parametrize(
    "pixels", [BATCH / 255, BATCH, BATCH[0, :, :, :2], BATCH[0, 0]], ids=["floats", "batch", "two channels", "flat"]
)
def test_a_picture_holds_one_uint8_image_and_nothing_else(encode: object, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"(PNG|JPEG) holds"):
        encode(pixels)  # type: ignore[operator]


def test_jpeg_has_no_alpha_channel() -> None:
    with pytest.raises(ValueError, match="no alpha channel"):
        encode_jpeg(images(RNG, 32, 32, 4))


@pytest.mark.parametrize("encode", [encode_npy, encode_json, encode_v2, encode_v1])
def test_integers_other_than_uint8_are_ambiguous_and_not_written(encode: object) -> None:
    with pytest.raises(ValueError, match="int64"):
        encode(BATCH.astype(np.int64))  # type: ignore[operator]
