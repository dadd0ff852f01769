"""What PNG and JPEG have in common: which pictures a model takes, and the step from Pillow's image to an array."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from schemas.model_spec import InputSpec
from schemas.refusal import Reason, Refusal

MAX_PIXELS = 16_000_000
"""A picture that claims more is refused as such, whatever the model takes."""
MAX_PICTURE_BYTES = 64 << 20
"""Of all pictures of one message, decoded. A picture of one colour is a thousand times larger than its file."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model takes, in Pillow's terms."""

    height: int
    width: int
    mode: str


def layout_of(spec: InputSpec) -> Layout:
    """The picture that fits `spec`; `Refusal` with WRONG_SHAPE where no picture does (tabular models)."""
    height, width, channels = (*spec.shape, 1) if len(spec.shape) == 2 else (*spec.shape, 0, 0)[:3]
    mode = _MODES.get(channels)
    if spec.kind != "image" or mode is None:
        raise Refusal(Reason.WRONG_SHAPE, f"this model takes {spec.kind} of shape {spec.shape}, not pictures: send npy")
    return Layout(height, width, mode)


def check_bytes(count: int, spec: InputSpec) -> None:
    """Refuse pictures that are too many for their size, before any is decompressed.

    Raises:
        Refusal: OVERSIZE.
    """
    if count * spec.size > MAX_PICTURE_BYTES:
        most = max(1, MAX_PICTURE_BYTES // spec.size)
        raise Refusal(
            Reason.OVERSIZE,
            f"{count} pictures have {count * spec.size} bytes when decoded; {MAX_PICTURE_BYTES} are taken of one "
            f"message: send at most {most} at once",
        )


def check_size(width: int, height: int, layout: Layout) -> None:
    """Refuse a picture of another size, before anything is decompressed.

    Raises:
        Refusal: TOO_MANY_PIXELS, WRONG_SHAPE.
    """
    if width * height > MAX_PIXELS:
        raise Refusal(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels; at most {MAX_PIXELS} are looked at")
    if (height, width) != (layout.height, layout.width):
        found, expected = f"{height}x{width}", f"{layout.height}x{layout.width}"
        raise Refusal(Reason.WRONG_SHAPE, f"found height x width {found}; expected {expected}: resize before sending")


def to_array(
    open_image: Callable[[BytesIO], ImageFile.ImageFile], data: bytes, alpha: bool, spec: InputSpec
) -> NDArray[Any]:
    """Decode with Pillow and bring to the model's channels: `(1, *spec.shape)` uint8.

    Raises:
        Refusal: UNREADABLE_IMAGE, with what Pillow said; WRONG_SHAPE for pixels that are not opaque.
    """
    mode = layout_of(spec).mode
    try:
        with open_image(BytesIO(data)) as image:
            image.load()
            pixels = _converted(image, mode, alpha)
            array = np.frombuffer(pixels.tobytes(), np.uint8)
    except Refusal:
        raise
    except Exception as error:  # decoders of foreign bytes raise what they like, and no picture may stop the worker
        raise Refusal(Reason.UNREADABLE_IMAGE, f"cannot be decoded: {type(error).__name__}: {error}") from error
    return array.reshape(1, *spec.shape)


def _converted(image: Image.Image, mode: str, alpha: bool) -> Image.Image:
    if alpha and mode != "RGBA":
        image = image.convert("RGBA")
        least = image.getchannel("A").getextrema()[0]
        if least != 255:
            text = (
                f"has pixels with alpha {least}; the model takes opaque {mode}: put it on a background before sending"
            )
            raise Refusal(Reason.WRONG_SHAPE, text)
    return image if image.mode == mode else image.convert(mode)
