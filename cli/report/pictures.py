"""Pictures that lie within the page: pixels to PNG, PNG to a data URI."""

import base64

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

COLOURS = "inferno"
"""Of score maps: even in lightness, readable without colour vision."""


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """The content itself as an address, so that nothing is fetched."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def picture_uri(image: NDArray[np.uint8]) -> str:
    """An image (h, w, 1, 3 or 4) of 0..255, in its own size: the page enlarges it without smoothing."""
    channels = image.shape[2]
    shown = np.repeat(image, 3, axis=2) if channels < 3 else image[:, :, :3]
    done, png = cv2.imencode(".png", np.ascontiguousarray(shown[:, :, ::-1]))
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return data_uri(bytes(png.tobytes()))


def score_map_uri(score_map: NDArray[np.uint8]) -> str:
    """A map (h, w) of 0..255 in colours: dark where the image is as expected, bright where it is strange."""
    table = matplotlib.colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    return picture_uri(np.asarray(table, np.uint8)[score_map])
