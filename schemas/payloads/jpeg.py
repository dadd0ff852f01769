"""JPEG: the segments are walked first, so that size and kind are known before anything is decompressed.

Source: ITU-T T.81, annex B (compressed data formats).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
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


_APP1, _EXIF = 0xE1, b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
# EXIF 2.32, section 4.6.4, tag Orientation: where row 0 and column 0 of the stored picture belong.
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: lambda pixels: np.rot90(pixels),
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(slots=True)
class _Walk:
    """What the segments before the first scan say, and the bytes of those that bear on the pixels."""

    kept: list[bytes]
    frame: tuple[int, int, int, int] | None = None
    orientation: int = 1


def decode_jpeg(data: bytes, spec: InputSpec) -> NDArray[Any]:
    """Pixels of a JPEG file in the model's channels, turned as EXIF says: `(1, *spec.shape)` uint8.

    As browsers do: a phone's picture stands upright, and bytes behind the end of the picture are left out.
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
    turn = _TURNS.get(walk.orientation)
    if walk.orientation in _SIDEWAYS:
        width, height = height, width
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
    return np.ascontiguousarray(pixels if turn is None else turn(pixels)).reshape(1, *spec.shape)


def _unreadable(text: str) -> Refusal:
    return Refusal(Reason.UNREADABLE_IMAGE, f"not a whole JPEG: {text}")


def _walk(data: bytes) -> _Walk:
    if not data.startswith(START):
        raise _unreadable(f"it starts with {data[:2]!r}")
    end = data.rfind(END)
    if end < len(START):
        raise _unreadable("the marker FFD9, which ends a picture, is not there (truncated?)")
    data = data[: end + len(END)]
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
    if marker == _APP1 and segment.startswith(_EXIF, 4):
        walk.orientation = _orientation(segment[4:])
    if marker not in _DROPPED:
        walk.kept.append(segment)


def _orientation(exif: bytes) -> int:
    """Of an EXIF segment, from its first directory; 1, as stored, where it says nothing that can be read.

    Not by Pillow, which warns of each damaged one anew: strangers could fill the log.
    """
    tiff = exif[len(_EXIF) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for number in range(min(count, MAX_SEGMENTS)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * number)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return int(value)
    except struct.error:  # it leads out of the segment
        return 1
    return 1


def _with_scans(walk: _Walk, data: bytes, at: int) -> _Walk:
    scans = data.count(bytes((0xFF, _SOS)), at)
    if scans > MAX_SCANS:
        raise _unreadable(f"{scans} scans; at most {MAX_SCANS} are decoded")
    walk.kept.append(data[at:])
    return walk
