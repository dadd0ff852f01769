"""npy: read without a copy where possible, exactly as long as it says, and never unpickled."""

import struct
from io import BytesIO

import numpy as np
import pytest

from schemas.payloads import encode_npy
from schemas.payloads.npy import MAX_HEADER_BYTES
from schemas.refusal import Reason
from tests.payloads import NPY, SHAPE, decode, images, refusal_of, spec_of

RNG = np.random.default_rng(9)
IMAGE = images(RNG)
GOOD = encode_npy(IMAGE)


def saved(array: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(text: bytes, content: bytes = IMAGE.tobytes()) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


class Trap:
    """Tells when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def test_uint8_in_row_major_order_is_a_view_on_the_payload() -> None:
    found = decode(GOOD, NPY).images
    payload = np.frombuffer(GOOD, np.uint8)
    assert np.shares_memory(found, payload)
    assert np.array_equal(found[0], IMAGE)


def test_column_major_order_is_the_same_image() -> None:
    for array in (IMAGE, IMAGE / 256):
        found = decode(saved(np.asfortranarray(array)), NPY).images
        assert np.array_equal(found[0], array.astype(found.dtype))
        assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_floats_are_bytes_again_if_every_one_is_a_byte_over_255(dtype: str) -> None:
    fractions = (IMAGE / 255).astype(dtype)
    found = decode(saved(fractions), NPY).images[0]
    assert found.dtype == np.uint8
    assert np.array_equal(found, IMAGE)
    fractions.flat[-1] = 0.5
    found = decode(saved(fractions), NPY).images[0]
    assert found.dtype == np.float32
    assert np.array_equal(found, fractions.astype(np.float32))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_of_every_width_and_byte_order_become_float32(dtype: str) -> None:
    pixels = RNG.random(SHAPE).astype(dtype)
    found = decode(saved(pixels), NPY).images
    assert found.dtype == np.float32
    assert np.array_equal(found[0], pixels.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i1", "<u2", "<i8", "?", "c8", "S1", "U1", "V1", "M8[s]", "m8[s]", "u1,u1"])
def test_every_other_dtype_is_refused(dtype: str) -> None:
    assert refusal_of(saved(np.zeros(SHAPE, dtype)), NPY).reason is Reason.WRONG_DTYPE


def test_a_pickle_is_never_loaded() -> None:
    stream = BytesIO()
    np.save(stream, np.array([Trap()], object), allow_pickle=True)
    assert refusal_of(stream.getvalue(), NPY).reason is Reason.WRONG_DTYPE


def test_every_truncation_and_every_extra_byte_is_seen() -> None:
    for length in range(1, len(GOOD)):
        assert refusal_of(GOOD[:length], NPY).reason is Reason.UNREADABLE_IMAGE
    assert refusal_of(GOOD + b"\0", NPY).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"nonsense",
        b"{'descr': 'u1', 'fortran_order': False}",
        b"{'descr': 'u1', 'fortran_order': 0, 'shape': (32, 32, 3)}",
        b"{'descr': 'what', 'fortran_order': False, 'shape': (32, 32, 3)}",
        b"{'descr': 'u1', 'fortran_order': False, 'shape': '32'}",
        b"{'descr': ['u1'], 'fortran_order': False, 'shape': (32, 32, 3)}",
        b"(" * 3000,
        b"-" * 3000 + b"1",
        b"\xff\x00\x80",
        b"__import__('os').abort()",
    ],
)
def test_a_header_that_describes_no_array_is_refused(header: bytes) -> None:
    assert refusal_of(with_header(header), NPY).reason is Reason.UNREADABLE_IMAGE


def test_the_header_is_bounded_and_of_a_known_version() -> None:
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (32, 32, 3)}"
    assert np.array_equal(decode(with_header(head), NPY).images[0], IMAGE)
    assert refusal_of(with_header(head.ljust(MAX_HEADER_BYTES + 1)), NPY).reason is Reason.UNREADABLE_IMAGE
    second = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(head)) + head + IMAGE.tobytes()
    assert np.array_equal(decode(second, NPY).images[0], IMAGE)
    assert refusal_of(second.replace(b"\x02\x00", b"\x04\x00", 1), NPY).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("shape", [(32, 32), (3, 32, 32), (1, 1, *SHAPE), (0, *SHAPE), (32, 32, 4), (), (3072,)])
def test_another_shape_is_refused_with_the_one_found_and_the_one_expected(shape: tuple[int, ...]) -> None:
    refusal = refusal_of(saved(np.zeros(shape, np.uint8)), NPY)
    assert refusal.reason is Reason.WRONG_SHAPE
    assert "32, 32, 3" in refusal.detail


def test_a_claim_of_a_huge_or_negative_shape_reserves_nothing() -> None:
    for shape in ("(64, 32, 32, 3)", "(-1, 32, 32, 3)", "(9223372036854775807, 32, 32, 3)", "(2, 32, 32, 3)"):
        head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode()
        reasons = (Reason.UNREADABLE_IMAGE, Reason.WRONG_SHAPE, Reason.TOO_MANY_IMAGES)
        assert refusal_of(with_header(head), NPY).reason in reasons


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, Reason.NOT_FINITE),
        (np.inf, Reason.NOT_FINITE),
        (-np.inf, Reason.NOT_FINITE),
        (1.01, Reason.OUT_OF_RANGE),
        (-0.01, Reason.OUT_OF_RANGE),
        (255.0, Reason.OUT_OF_RANGE),
    ],
)
def test_one_number_that_is_no_pixel_is_enough(dtype: type, value: float, reason: Reason) -> None:
    pixels = RNG.random(SHAPE).astype(dtype)
    pixels[17, 3, 1] = value
    assert refusal_of(saved(pixels), NPY).reason is reason


def test_rounding_beyond_the_range_is_allowed() -> None:
    pixels = np.full(SHAPE, 1 + 5e-7)
    pixels[0, 0, 0] = -5e-7
    assert np.array_equal(decode(saved(pixels), NPY).images[0], pixels.astype(np.float32))


def test_tabular_models_take_rows() -> None:
    spec, table = spec_of(4, kind="tabular"), RNG.random((3, 4), np.float32)
    assert np.array_equal(decode(saved(table), NPY, spec=spec).images, table)
    assert np.array_equal(decode(saved(table[0]), NPY, spec=spec).images, table[:1])
