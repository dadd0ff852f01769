"""JPEG: the segments are walked first, so that size and kind are known before anything is decompressed.

Source: ITU-T T.81, annex B (compressed data formats).
"""

import struct
from dataclasses import dataclass
from typing import Any

import simplejpeg
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.pictures import check_size, layout_of
from schemas.refusal import Reason, Refusal

START, END = b"\xff\xd8", b"\xff\xd9"
MAX_SCANS = 128
"""Encoders write about ten; each costs the decoder a pass over the picture."""

MAX_SEGMENTS = 1024
"""Segments and fill bytes before the first scan; encoders write about ten."""

_COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGBA"}
_SEGMENT = struct.Struct(">BBH")
_FRAME = struct.Struct(">BHHB")
_SOS = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential and progressive, all Huffman-coded
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset((0x01, *range(0xD0, 0xDA)))
_DROPPED = frozenset((0xFE, *range(0xE1, 0xF0))) - {0xEE}  # comments and applications' data, but for Adobe's


@dataclass(slots=True)
class _Walk:
    """What the segments before the first scan say, and the bytes of those that bear on the pixels."""

    kept: list[bytes]
    frame: tuple[int, int, int, int] | None = None


def decode_jpeg(data: bytes, spec: InputSpec) -> NDArray[Any]:
    """Pixels of a JPEG file in the model's channels, as stored (no EXIF rotation): `(1, *spec.shape)` uint8.

    Whatever libjpeg-turbo would only warn of is refused. Damage that the coding does not show decodes to something:
    JPEG has no checksums.

    Raises:
        Refusal: UNREADABLE_IMAGE, TOO_MANY_PIXELS, WRONG_SHAPE (also CMYK), WRONG_DTYPE (12 bits a sample).
    """
    walk = _walk(data)
    if walk.frame is None:
        raise _unreadable("there is no frame header before the first scan")
    precision, height, width, components = walk.frame
    layout = layout_of(spec)
    check_size(width, height, layout)
    if precision != 8:
        raise Refusal(Reason.WRONG_DTYPE, f"{precision} bits a sample; the model takes 8: convert before sending")
    if components not in (1, 3):
        text = f"{components} colour components (CMYK?); 1 or 3 are taken: convert to RGB before sending"
        raise Refusal(Reason.WRONG_SHAPE, text)
    try:
        pixels: NDArray[Any] = simplejpeg.decode_jpeg(b"".join(walk.kept), _COLOUR_SPACES[layout.mode], strict=True)
    except ValueError as error:
        raise Refusal(Reason.UNREADABLE_IMAGE, f"cannot be decoded: {str(error)[:200]}") from error
    return pixels.reshape(1, *spec.shape)


def _unreadable(text: str) -> Refusal:
    return Refusal(Reason.UNREADABLE_IMAGE, f"not a whole JPEG: {text}")


def _walk(data: bytes) -> _Walk:
    if not data.startswith(START):
        raise _unreadable(f"it starts with {data[:2]!r}")
    if not data.endswith(END) or len(data) < len(START) + len(END):
        raise _unreadable("it does not end with the marker FFD9 (truncated?)")
    walk, at, size = _Walk([START]), len(START), len(data) - len(END)
    for _ in range(MAX_SEGMENTS):
        if size - at < _SEGMENT.size:
            raise _unreadable("it ends before the first scan")
        prefix, marker, length = _SEGMENT.unpack_from(data, at)
        if prefix != 0xFF or marker == 0 or marker in _STANDALONE:
            raise _unreadable(f"no segment begins at byte {at}")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + length
        if length < 2 or end > size:
            raise _unreadable(f"segment {marker:02X} at byte {at} claims {length} bytes, {size - at - 2} are left")
        if marker == _SOS:
            return _with_scans(walk, data, at)
        _take_segment(walk, marker, data[at:end])
        at = end
    raise _unreadable(f"it has more than {MAX_SEGMENTS} segments before the first scan")


def _take_segment(walk: _Walk, marker: int, segment: bytes) -> None:
    if marker in _OTHER_FRAMES:
        raise _unreadable(
            f"lossless, hierarchical or arithmetic coding (frame {marker:02X}); send baseline or progressive"
        )
    if marker in _FRAMES:
        if walk.frame is not None or len(segment) < 4 + _FRAME.size:
            raise _unreadable("there are two frame headers, or a short one")
        walk.frame = _FRAME.unpack_from(segment, 4)
    if marker not in _DROPPED:
        walk.kept.append(segment)


def _with_scans(walk: _Walk, data: bytes, at: int) -> _Walk:
    scans = data.count(bytes((0xFF, _SOS)), at)
    if scans > MAX_SCANS:
        raise _unreadable(f"{scans} scans; at most {MAX_SCANS} are decoded")
    walk.kept.append(data[at:])
    return walk
