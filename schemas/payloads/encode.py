"""Writing every accepted payload, for producers, tests and the benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class PayloadFormat:
    """One accepted format.

    Attributes:
        content_type: for the header `content-type`.
        encode: from images, `(h, w, c)` or `(n, h, w, c)`, to a message's value; a picture holds one image.
    """

    content_type: str
    encode: Callable[[NDArray[Any]], bytes]


def encode_png(image: NDArray[Any]) -> bytes:
    """PNG of one image, `(h, w, c)` or `(1, h, w, c)` uint8 of 1, 3 or 4 channels; `ValueError` for any other."""
    return _encode_picture(image, "PNG")


def encode_jpeg(image: NDArray[Any], quality: int = 95) -> bytes:
    """JPEG of one image, `(h, w, c)` or `(1, h, w, c)` uint8 of 1 or 3 channels, without chroma subsampling.

    JPEG loses detail: the model sees other pixels than were given.

    Raises:
        ValueError: the array is no such image.
    """
    if image.shape[-1] == 4:
        raise ValueError("JPEG has no alpha channel; use png, npy, json, v2 or v1")
    return _encode_picture(image, "JPEG", quality=quality, subsampling=0)


def encode_npy(images: NDArray[Any]) -> bytes:
    """NumPy's file format: uint8 as it is, floats (in 0..1) as float32."""
    stream = BytesIO()
    np.save(stream, _pixels(images), allow_pickle=False)
    return stream.getvalue()


def encode_json(
    images: NDArray[Any],
    request_id: str | None = None,
    model: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> bytes:
    """Our own JSON: the tensor in base64, and facts about the request, absent where None."""
    pixels = _pixels(images)
    document: dict[str, Any] = {
        "image": {"dtype": pixels.dtype.name, "shape": pixels.shape, "data": _base64(pixels)},
        "request_id": request_id,
        "model": model,
        "attributes": None if attributes is None else dict(attributes),
    }
    return orjson.dumps({name: value for name, value in document.items() if value is not None})


def encode_v2(images: NDArray[Any], request_id: str | None = None, binary: bool = True) -> bytes:
    """Open Inference Protocol V2: data as one base64 string, or with `binary` false as flat numbers."""
    pixels = _pixels(images)
    tensor = {
        "name": "image" if pixels.ndim > 2 else "row",
        "shape": pixels.shape,
        "datatype": "UINT8" if pixels.dtype == np.uint8 else "FP32",
        "data": _base64(pixels) if binary else pixels.reshape(-1),
    }
    document = {"inputs": [tensor]} if request_id is None else {"id": request_id, "inputs": [tensor]}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_v1(images: NDArray[Any]) -> bytes:
    """TensorFlow Serving's JSON: nested numbers in 0..1 (uint8 is divided by 255), fifteen times the size of base64."""
    pixels = _pixels(images)
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / np.float32(255)
    batch = pixels if pixels.ndim == 4 else pixels[np.newaxis]
    return orjson.dumps({"instances": batch}, option=orjson.OPT_SERIALIZE_NUMPY)


FORMATS: dict[str, PayloadFormat] = {
    "png": PayloadFormat("image/png", encode_png),
    "jpeg": PayloadFormat("image/jpeg", encode_jpeg),
    "npy": PayloadFormat("application/x-npy", encode_npy),
    "json": PayloadFormat("application/json", encode_json),
    "v2": PayloadFormat("application/json", encode_v2),
    "v1": PayloadFormat("application/json", encode_v1),
}
"""By the name that `modelwatch produce --format` takes."""


def _pixels(images: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous uint8 or float32, or `ValueError`."""
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images have dtype {images.dtype}; send uint8 in 0..255 or floats in 0..1")
    return np.ascontiguousarray(images, dtype=np.float32)


def _encode_picture(image: NDArray[Any], name: str, **options: Any) -> bytes:
    one = image[0] if image.ndim == 4 and len(image) == 1 else image
    if one.dtype != np.uint8:
        raise ValueError(f"{name} holds uint8; this image is {one.dtype}: use npy, json, v2 or v1")
    if one.ndim != 3 or one.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} holds one image (h, w, 1, 3 or 4); found shape {image.shape}")
    stream = BytesIO()
    Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one).save(stream, name, **options)
    return stream.getvalue()


def _base64(pixels: NDArray[Any]) -> str:
    return pybase64.b64encode_as_string(pixels.tobytes())
