"""The checks that every tensor passes, whatever it came in: shape, number of images, dtype, range."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.body import brief
from schemas.refusal import Reason, Refusal

MAX_IMAGES = 64
"""Images that one message may hold."""
TOLERANCE = 1e-6
"""How far outside the model's range rounding may carry a float, as a share of that range."""
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "float16", "float32", "float64")}
"""What pixels may be stored as; little endian where a payload does not say."""


def count_items(shape: Sequence[int], item: tuple[int, ...]) -> int:
    """Number of images in a tensor of `shape`, which must be `item` or `(n, *item)`.

    Raises:
        Refusal: WRONG_SHAPE, TOO_MANY_IMAGES.
    """
    shape = tuple(shape)
    if shape == item:
        return 1
    if len(shape) != len(item) + 1 or shape[1:] != item or shape[0] < 1:
        expected = ", ".join(map(str, item))
        raise Refusal(
            Reason.WRONG_SHAPE, f"found shape {brief(shape)}; expected ({expected}) or (n, {expected}), n >= 1"
        )
    check_count(shape[0])
    return shape[0]


def check_count(count: int) -> None:
    """Refuse with TOO_MANY_IMAGES if `count` is more than a message may hold."""
    if count > MAX_IMAGES:
        raise Refusal(Reason.TOO_MANY_IMAGES, f"found {count} images; a message may hold {MAX_IMAGES}: send several")


def checked_dtype(name: object) -> np.dtype[Any]:
    """The little-endian dtype called `name`, or `Refusal` with WRONG_DTYPE."""
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise Refusal(Reason.WRONG_DTYPE, f"found dtype {brief(name)}; expected one of {', '.join(DTYPES)}")
    return dtype


def to_images(values: NDArray[Any], count: int, spec: InputSpec) -> NDArray[Any]:
    """`(count, *spec.shape)` C-contiguous: uint8 as it is, without a copy where it can be; floats as float32.

    Floats that are all what bytes are to the model, as of a picture that the caller scaled, become bytes again: the
    model sees the same numbers to the last bit, and the pair and its record are a quarter of the size.

    Raises:
        Refusal: NOT_FINITE, OUT_OF_RANGE.
    """
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values).reshape(count, *spec.shape)
    check_range(values.min(), values.max(), spec)  # NaN if there is one
    floats = np.ascontiguousarray(values, dtype=np.float32)
    nearest = np.rint((floats - np.float32(spec.offset)) * np.float32(spec.scale)).clip(0, 255).astype(np.uint8)
    same = bool((spec.byte_values[nearest] == floats).all())
    return (nearest if same else floats).reshape(count, *spec.shape)


def check_range(low: Any, high: Any, spec: InputSpec) -> None:
    """Refuse floats that are not where bytes are to the model, or not finite.

    Raises:
        Refusal: NOT_FINITE, OUT_OF_RANGE.
    """
    least, most = float(spec.byte_values[0]), float(spec.byte_values[-1])
    slack = TOLERANCE * (most - least)
    if low >= least - slack and high <= most + slack:
        return
    if not np.isfinite(low) or not np.isfinite(high):
        raise Refusal(Reason.NOT_FINITE, "found NaN or infinity; every number must be finite")
    raise Refusal(
        Reason.OUT_OF_RANGE,
        f"floats must be in {least:g}..{most:g}, as the model takes them; found {low:g} to {high:g}; or send uint8",
    )


def to_uint8(numbers: NDArray[Any], datatype: str = "UINT8") -> NDArray[Any]:
    """Whole numbers in 0..255, given as integers or float64, as uint8.

    Args:
        datatype: what the sender calls them.

    Raises:
        Refusal: OUT_OF_RANGE.
    """
    low, high = numbers.min(), numbers.max()
    if not (low >= 0 and high <= 255):
        raise Refusal(Reason.OUT_OF_RANGE, f"{datatype} numbers must be in 0..255; found {low:g} to {high:g}")
    whole = numbers.astype(np.uint8)
    if not np.array_equal(whole, numbers):
        fraction = numbers[whole != numbers].flat[0]
        raise Refusal(Reason.OUT_OF_RANGE, f"{datatype} numbers must be whole; found {fraction:g}")
    return whole


def from_bytes(data: bytes, dtype: np.dtype[Any], shape: Sequence[int], spec: InputSpec) -> NDArray[Any]:
    """Images of the raw row-major bytes of a tensor, `(n, *spec.shape)`.

    Raises:
        Refusal: as `count_items` and `to_images`; INVALID_FIELD where the length of the data is another.
    """
    count = count_items(shape, spec.shape)
    expected = count * spec.size * dtype.itemsize
    if len(data) != expected:
        found = f"data has {len(data)} bytes"
        raise Refusal(Reason.INVALID_FIELD, f"{found}; shape {tuple(shape)} of {dtype.name} has {expected}")
    return to_images(np.frombuffer(data, dtype), count, spec)
