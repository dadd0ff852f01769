"""NumPy's own file format, without pickles: a small text header, cached by its bytes, before the raw tensor.

Source: numpy.lib.format, versions 1.0 and 2.0 of the format.
"""

from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.tensors import DTYPES, count_items, to_images
from schemas.refusal import Reason, Refusal

MAX_HEADER_BYTES = 4096
"""NumPy writes 128 for a plain tensor."""
_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}
_READERS: dict[int, Any] = {2: npy_format.read_array_header_1_0, 4: npy_format.read_array_header_2_0}


def decode_npy(data: bytes, spec: InputSpec) -> NDArray[Any]:
    """Images of an npy file, `(n, *spec.shape)`: a view on `data` for uint8 in row-major order.

    Raises:
        Refusal: UNREADABLE_IMAGE, WRONG_DTYPE, WRONG_SHAPE, TOO_MANY_IMAGES, NOT_FINITE, OUT_OF_RANGE.
    """
    header, width = _header_bytes(data)
    shape, fortran, dtype = _parse_header(header, width)
    if dtype.hasobject or dtype.newbyteorder("<") not in DTYPES.values():
        raise Refusal(Reason.WRONG_DTYPE, f"found dtype {str(dtype)[:80]}; expected one of {', '.join(DTYPES)}")
    count = count_items(shape, spec.shape)
    expected = count * prod(spec.shape) * dtype.itemsize
    if len(data) - len(header) != expected:
        found = f"{len(data) - len(header)} bytes after the header"
        raise _unreadable(f"{found}; shape {shape} of {dtype} has {expected} (truncated?)")
    values = np.frombuffer(data, dtype, offset=len(header))
    return to_images(values.reshape(shape, order="F" if fortran else "C"), count, spec)


def _unreadable(text: str) -> Refusal:
    return Refusal(Reason.UNREADABLE_IMAGE, f"not a whole npy file: {text}")


def _header_bytes(data: bytes) -> tuple[bytes, int]:
    """Everything before the tensor, and how many bytes hold the header's length."""
    width = _LENGTH_BYTES.get(data[6:8])
    if not data.startswith(_MAGIC) or width is None:
        raise _unreadable(f"it starts with {data[:8]!r}; versions 1.0 and 2.0 are read")
    length = int.from_bytes(data[8 : 8 + width], "little")
    end = 8 + width + length
    if length > MAX_HEADER_BYTES or end > len(data):
        raise _unreadable(f"its header claims {length} bytes; {len(data)} are there and {MAX_HEADER_BYTES} allowed")
    return data[:end], width


@lru_cache(maxsize=64)
def _parse_header(header: bytes, width: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in column-major order, and dtype."""
    stream = BytesIO(header)
    stream.seek(len(_MAGIC) + 2)
    try:
        shape, fortran, dtype = _READERS[width](stream, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # NumPy evaluates a literal here, whose parser raises what it likes
        raise _unreadable(f"its header cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    return shape, fortran, dtype
