"""PNG: every damage is seen, every kind of PNG that has an exact meaning is converted, and nothing else is guessed."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from schemas.payloads import encode_png
from schemas.payloads.png import MAX_CHUNKS
from schemas.refusal import Reason
from tests.payloads import PNG, SHAPE, decode, images, png_chunk, png_file, refusal_of, spec_of

RNG = np.random.default_rng(5)
IMAGE = images(RNG)
GOOD = encode_png(IMAGE)
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def saved(image: Image.Image, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def rows(image: np.ndarray) -> bytes:
    """The pixel stream without filters."""
    return b"".join(b"\0" + row.tobytes() for row in image)


def test_every_flipped_bit_is_seen() -> None:
    for position in range(len(GOOD)):
        damaged = bytearray(GOOD)
        damaged[position] ^= 1 << (position % 8)
        assert refusal_of(bytes(damaged), PNG).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("height", [1, 339, 340, 1100])
def test_pictures_of_any_size_are_decoded_exactly(height: int) -> None:
    # A row of the stream has 193 bytes: 339 rows just fit into one stored block, 340 do not.
    image = RNG.integers(0, 255, (height, 64, 3), dtype=np.uint8)
    tall = spec_of(height, 64, 3)
    assert np.array_equal(decode(encode_png(image), PNG, spec=tall).images[0], image)
    smooth = np.repeat(np.arange(height, dtype=np.uint8)[:, None, None], 64, axis=1).repeat(3, axis=2)
    assert np.array_equal(decode(encode_png(smooth), PNG, spec=tall).images[0], smooth)


def test_every_truncation_is_seen() -> None:
    for length in range(1, len(GOOD)):
        assert refusal_of(GOOD[:length], PNG).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (zlib.compress(rows(IMAGE))[:-4], "without an end"),
        (zlib.compress(rows(IMAGE)[:-1]), "3103"),
        (zlib.compress(rows(IMAGE) + b"x"), "3105"),
        (zlib.compress(rows(IMAGE)) + b"xyz", "then 3 bytes"),
        (zlib.compress(b""), "found 0"),
        (b"", "found 0"),
        (b"nonsense", "damaged"),
        (zlib.compress(rows(IMAGE))[:-1] + b"x", "damaged"),
        (zlib.compress(b"\x09" + rows(IMAGE)[1:]), "row filter 9"),
    ],
    ids=[
        "no checksum",
        "short",
        "long",
        "followed",
        "empty",
        "no stream",
        "not zlib",
        "wrong checksum",
        "unknown filter",
    ],
)
def test_a_pixel_stream_that_is_not_whole_is_refused_though_all_chunks_are(stream: bytes, said: str) -> None:
    refusal = refusal_of(png_file(stream), PNG)
    assert refusal.reason is Reason.UNREADABLE_IMAGE
    assert said in refusal.detail


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD + b"x", "follow"),
        (GOOD[:-12] + png_chunk(b"ABCD", b"") + GOOD[-12:], "unknown"),
        (GOOD[:33] + GOOD[8:33] + GOOD[33:], "2 times"),
        (GOOD[:8] + GOOD[33:], "first chunk"),
        (GOOD[:8] + png_chunk(b"IHDR", GOOD[16:28]) + GOOD[33:], "12 bytes"),
        (GOOD[:-12], "last"),
        (png_file(zlib.compress(rows(IMAGE)), depth=3), "not allow"),
        (png_file(zlib.compress(rows(IMAGE)), colour=5), "not allow"),
        (png_file(zlib.compress(rows(IMAGE)), interlace=2), "not allow"),
        (png_file(zlib.compress(rows(IMAGE)), size=(0, 32)), "not allow"),
        (png_file(zlib.compress(rows(IMAGE[..., 0])), colour=3), "PLTE"),
        (png_file(zlib.compress(rows(IMAGE)), extra=png_chunk(b"teXt", b"") * MAX_CHUNKS), "more than"),
    ],
)
def test_a_file_that_the_standard_does_not_allow_is_refused_with_the_reason(data: bytes, said: str) -> None:
    refusal = refusal_of(data, PNG)
    assert refusal.reason is Reason.UNREADABLE_IMAGE
    assert said in refusal.detail


def test_palettes_greys_and_opaque_alpha_become_rgb() -> None:
    picture = Image.fromarray(IMAGE)
    grey = picture.convert("L")
    for converted in (picture.quantize(200), picture.quantize(3), grey, picture.convert("1")):
        expected = np.asarray(converted.convert("RGB"))
        assert np.array_equal(decode(saved(converted), PNG).images[0], expected)
    assert np.array_equal(decode(saved(picture.convert("RGBA")), PNG).images[0], IMAGE)
    assert np.array_equal(decode(saved(grey.convert("LA")), PNG).images[0], np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_greys_of_few_bits_are_spread_over_the_whole_range(depth: int) -> None:
    levels = RNG.integers(0, 1 << depth, (32, 32))
    bits = (levels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    packed = np.packbits(bits.reshape(32, -1).astype(np.uint8), axis=1)
    found = decode(png_file(zlib.compress(rows(packed)), depth=depth, colour=0), PNG).images[0]
    assert np.array_equal(found, np.repeat((levels * (255 // ((1 << depth) - 1)))[..., None], 3, axis=2))


def test_a_model_of_one_channel_sees_the_luma() -> None:
    expected = np.asarray(Image.fromarray(IMAGE).convert("L"))
    assert np.array_equal(decode(GOOD, PNG, spec=spec_of(32, 32, 1)).images[0, ..., 0], expected)
    assert np.array_equal(decode(GOOD, PNG, spec=spec_of(32, 32)).images[0], expected)


def test_an_interlaced_file_is_the_same_picture() -> None:
    stream = b"".join(rows(IMAGE[top::down, left::right]) for top, down, left, right in ADAM7)
    assert np.array_equal(decode(png_file(zlib.compress(stream), interlace=1), PNG).images[0], IMAGE)
    cut = png_file(zlib.compress(stream[:-1]), interlace=1)
    assert refusal_of(cut, PNG).reason is Reason.UNREADABLE_IMAGE


def test_an_interlaced_file_smaller_than_a_pass_is_the_same_picture() -> None:
    tiny = images(RNG, 2, 3, 3)
    passes = [tiny[top::down, left::right] for top, down, left, right in ADAM7]
    stream = b"".join(rows(each) for each in passes if each.size)
    data = png_file(zlib.compress(stream), size=(3, 2), interlace=1)
    assert np.array_equal(decode(data, PNG, spec=spec_of(2, 3, 3)).images[0], tiny)


def test_pixels_that_are_not_opaque_are_refused_and_never_guessed() -> None:
    for picture in (Image.fromarray(IMAGE), Image.fromarray(IMAGE).convert("L")):
        picture.putalpha(254)
        assert refusal_of(saved(picture), PNG).reason is Reason.WRONG_SHAPE
    key = tuple(map(int, IMAGE[4, 5]))
    assert refusal_of(saved(Image.fromarray(IMAGE), transparency=key), PNG).reason is Reason.WRONG_SHAPE
    assert refusal_of(saved(Image.fromarray(IMAGE).quantize(8), transparency=0), PNG).reason is Reason.WRONG_SHAPE


def test_a_transparent_colour_that_no_pixel_has_changes_nothing() -> None:
    flat = np.full(SHAPE, 9, np.uint8)
    assert np.array_equal(decode(saved(Image.fromarray(flat), transparency=(1, 2, 3)), PNG).images[0], flat)


def test_the_pixel_stream_may_be_spread_over_many_chunks() -> None:
    stream = zlib.compress(rows(IMAGE))
    pieces = b"".join(png_chunk(b"IDAT", stream[start : start + 100]) for start in range(0, len(stream), 100))
    assert np.array_equal(decode(GOOD[:33] + pieces + GOOD[-12:], PNG).images[0], IMAGE)


def test_chunks_beside_the_pixels_change_nothing() -> None:
    extra = (
        png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"nonsense"))
        + png_chunk(b"eXIf", b"II*\0")
        + png_chunk(b"gAMA", b"")
    )
    assert np.array_equal(decode(png_file(zlib.compress(rows(IMAGE)), extra=extra), PNG).images[0], IMAGE)


@pytest.mark.parametrize("length", [0, 1, 30, 771])
def test_a_palette_suggested_for_a_colour_picture_changes_nothing(
    length: int, capfd: pytest.CaptureFixture[str]
) -> None:
    extra = png_chunk(b"PLTE", bytes(length))
    assert np.array_equal(decode(png_file(zlib.compress(rows(IMAGE)), extra=extra), PNG).images[0], IMAGE)
    assert capfd.readouterr().err == ""  # the decoder's own complaints would bypass the log


def test_size_is_judged_from_the_header_alone() -> None:
    assert refusal_of(png_file(b"", size=(30_000, 30_000)), PNG).reason is Reason.TOO_MANY_PIXELS
    assert refusal_of(png_file(b"", size=(2**31 - 1, 2**31 - 1)), PNG).reason is Reason.TOO_MANY_PIXELS
    refusal = refusal_of(png_file(b"", size=(31, 32)), PNG)
    assert (refusal.reason, "32x31" in refusal.detail, "32x32" in refusal.detail) == (Reason.WRONG_SHAPE, True, True)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_sixteen_bits_a_sample_are_refused(colour: int) -> None:
    assert refusal_of(png_file(b"", depth=16, colour=colour), PNG).reason is Reason.WRONG_DTYPE


@pytest.mark.parametrize("spec", [spec_of(3072), spec_of(32, 32, 2), spec_of(32, 32, 3, kind="tabular")])
def test_a_model_that_takes_no_pictures_refuses_them(spec: object) -> None:
    refusal = refusal_of(GOOD, PNG, spec=spec)  # type: ignore[arg-type]
    assert (refusal.reason, "npy" in refusal.detail) == (Reason.WRONG_SHAPE, True)


def test_a_malformed_transparency_chunk_is_refused() -> None:
    data = png_file(zlib.compress(rows(IMAGE)), extra=png_chunk(b"tRNS", struct.pack(">H", 1)))
    assert refusal_of(data, PNG).reason is Reason.UNREADABLE_IMAGE
