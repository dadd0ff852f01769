"""JPEG: size and kind are known before decoding, and a file that was cut off is never half a picture."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from schemas.payloads import encode_jpeg
from schemas.payloads.jpeg import MAX_SCANS, MAX_SEGMENTS
from schemas.refusal import Reason
from tests.payloads import JPEG, decode, images, refusal_of, spec_of

IMAGE = images(np.random.default_rng(5))
GOOD = encode_jpeg(IMAGE)
FRAME = GOOD.index(b"\xff\xc0")
SCAN = GOOD.index(b"\xff\xda")


def saved(mode: str = "RGB", **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(IMAGE).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def changed(at: int, *values: int) -> bytes:
    return GOOD[:at] + bytes(values) + GOOD[at + len(values) :]


def test_every_truncation_is_seen() -> None:
    for length in range(1, len(GOOD)):
        assert refusal_of(GOOD[:length], JPEG).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"optimize": True}, {"keep_rgb": True}]
)
def test_every_kind_that_cameras_and_tools_write_is_read(options: dict[str, object]) -> None:
    data = saved(**options)
    assert np.array_equal(decode(data, JPEG).images[0], pixels(data))


def test_grey_files_become_rgb_and_colour_files_grey_as_the_model_needs() -> None:
    grey = saved("L")
    assert np.array_equal(decode(grey, JPEG).images[0], pixels(grey))
    assert decode(GOOD, JPEG, spec=spec_of(32, 32, 1)).images.shape == (1, 32, 32, 1)


def test_segments_beside_the_pixels_change_nothing() -> None:
    exif = Image.Exif()
    exif[0x0131] = "a camera"
    data = saved(exif=exif, comment="x" * 500, icc_profile=b"nonsense" * 20_000)
    assert np.array_equal(decode(data, JPEG).images[0], pixels(saved()))


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_as_its_exif_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(exif=exif)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(data, JPEG).images[0], expected)


def test_a_picture_that_lies_on_its_side_has_the_size_that_it_has_upright() -> None:
    exif, stream = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.fromarray(IMAGE[:, :24]).save(stream, "JPEG", exif=exif)
    assert decode(stream.getvalue(), JPEG, spec=spec_of(24, 32, 3)).images.shape == (1, 24, 32, 3)
    assert refusal_of(stream.getvalue(), JPEG, spec=spec_of(32, 24, 3)).reason is Reason.WRONG_SHAPE


def test_damaged_exif_leaves_the_picture_as_it_is_stored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(exif=exif)
    at = data.index(b"Exif\0\0") + 6
    for damage in (b"\xff" * 8, b"MM\0*\xff\xff\xff\xff"):
        assert np.array_equal(decode(data[:at] + damage + data[at + 8 :], JPEG).images[0], pixels(saved()))


def test_bytes_behind_the_end_of_the_picture_are_left_out() -> None:
    for junk in (b"\0", b"\r\n", b"x" * 1000):
        assert np.array_equal(decode(GOOD + junk, JPEG).images[0], pixels(GOOD))


def test_the_other_spelling_of_the_content_type_is_read() -> None:
    assert np.array_equal(decode(GOOD, "image/jpg").images[0], pixels(GOOD))


def test_damage_beside_the_pixels_does_not_matter() -> None:
    profile = b"\xff\xe2\x00\x0eICC_PROFILE\0"
    assert np.array_equal(decode(GOOD[:FRAME] + profile + GOOD[FRAME:], JPEG).images[0], pixels(GOOD))


def test_adobe_s_statement_that_the_components_are_rgb_is_obeyed() -> None:
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    jfif_end = 2 + 2 + int.from_bytes(GOOD[4:6], "big")
    data = GOOD[:2] + adobe + GOOD[jfif_end:]
    assert np.array_equal(decode(data, JPEG).images[0], pixels(data))
    assert not np.array_equal(pixels(data), pixels(GOOD))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xd8", "end"),
        (b"\xff\xd8\xff\xd9", "before the first scan"),
        (GOOD[1:], "starts with"),
        (changed(2, 0), "no segment"),
        (changed(4, 255, 255), "claims"),
        (changed(4, 0, 1), "claims"),
        (changed(FRAME + 1, 0xC3), "lossless"),
        (changed(FRAME + 1, 0xC9), "arithmetic"),
        (GOOD[:FRAME] + GOOD[FRAME : FRAME + 19] * 2 + GOOD[FRAME + 19 :], "two frame headers"),
        (GOOD[:FRAME] + GOOD[FRAME + 19 :], "no frame header"),
        (GOOD[:FRAME] + b"\xff\xc0\x00\x02" + GOOD[FRAME + 19 :], "short"),
        (GOOD[:2] + b"\xff" * (MAX_SEGMENTS + 1) + GOOD[2:], "segments"),
        (GOOD[:-2] + GOOD[SCAN:-2] * (MAX_SCANS + 1) + GOOD[-2:], "scans"),
        (GOOD[:20] + GOOD[SCAN:], "no frame header"),
        (GOOD[:SCAN] + b"\xff\xda\x00\x02\xff\xd9", "cannot be decoded"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(data: bytes, said: str) -> None:
    refusal = refusal_of(data, JPEG)
    assert refusal.reason is Reason.UNREADABLE_IMAGE
    assert said in refusal.detail


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    data = GOOD[:2] + b"\xff\xff" + GOOD[2:]
    assert np.array_equal(decode(data, JPEG).images[0], pixels(GOOD))


def test_size_and_depth_are_judged_from_the_header_alone() -> None:
    assert refusal_of(changed(FRAME + 5, 0xFF, 0xFF, 0xFF, 0xFF), JPEG).reason is Reason.TOO_MANY_PIXELS
    assert refusal_of(changed(FRAME + 5, 0, 31), JPEG).reason is Reason.WRONG_SHAPE
    assert refusal_of(changed(FRAME + 4, 12), JPEG).reason is Reason.WRONG_DTYPE


def test_colours_for_print_are_refused_and_never_guessed() -> None:
    refusal = refusal_of(saved("CMYK"), JPEG)
    assert (refusal.reason, "CMYK" in refusal.detail) == (Reason.WRONG_SHAPE, True)
