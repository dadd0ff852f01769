"""A picture of an explanation that a person can read: the image, and beside it what holds the answer."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agents.explanations.explainer import Answer, Pixels

SIDE = 256
"""Least pixels of the image's shorter side in the picture."""
GAP = 8
LINE = 18
MARGIN = 6
DIMMED = 0.3
ANCHOR_COLOUR = (0, 215, 255)
LINE_COLOUR = (150, 150, 150)
TEXT_COLOUR = (30, 30, 30)
"""All of OpenCV's order blue, green, red."""
FONT_SCALE = 0.42
COMPRESSION = 6
"""A quarter of the bytes that OpenCV makes by default, for some milliseconds; a picture lies in a record for good."""


def overlay_png(image: Pixels, answer: Answer, label: str) -> bytes:
    """The image, the explanation beside it, and a caption, as PNG.

    Anchors: segments outside are dimmed and grey, the anchor keeps its colours within a yellow border. Occlusion: red
    where covering takes the answer away, blue where it makes it surer.

    Args:
        image: (h, w, c) float32 in 0..1.
        label: of the answer that is explained.
    """
    factor = max(1, -(-SIDE // min(image.shape[:2])))
    picture = _colours(image)
    large = _enlarged(picture, factor)
    panel = _panel(picture, answer, factor)
    height = large.shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    both = np.hstack([large, gap, panel])
    caption = _caption(_lines(answer, label), both.shape[1])
    done, png = cv2.imencode(".png", np.vstack([both, caption]), [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return bytes(png.tobytes())


def _colours(image: Pixels) -> NDArray[np.uint8]:
    """Blue, green, red, one byte each; a single channel is repeated, an alpha channel is left out."""
    shown = np.repeat(image, 3, axis=2) if image.shape[2] < 3 else image[:, :, :3]
    return np.ascontiguousarray(np.rint(shown[:, :, ::-1] * 255).astype(np.uint8))


def _enlarged(picture: NDArray[Any], factor: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    return np.asarray(cv2.resize(picture, (width * factor, height * factor), interpolation=cv2.INTER_NEAREST), np.uint8)


def _panel(picture: NDArray[np.uint8], answer: Answer, factor: int) -> NDArray[np.uint8]:
    if answer.importance is not None:
        return _heat(picture, answer.importance, factor)
    large = _enlarged(picture, factor)
    if answer.segments is None:
        return large
    segments = _enlarged(answer.segments, factor)
    held = np.isin(segments, answer.anchor or ()).astype(np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(large, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    dimmed = np.rint(255 - (255 - grey.astype(np.float32)) * DIMMED).astype(np.uint8)
    panel = np.where(held[..., None] == 1, large, dimmed)
    for number in np.unique(segments):
        _outline(panel, (segments == number).astype(np.uint8), LINE_COLOUR, 1)
    _outline(panel, held, ANCHOR_COLOUR, 3)
    return panel


def _outline(panel: NDArray[np.uint8], mask: NDArray[np.uint8], colour: Sequence[int], width: int) -> None:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, contours, -1, colour, width)


def _heat(picture: NDArray[np.uint8], importance: NDArray[np.float32], factor: int) -> NDArray[np.uint8]:
    highest = float(np.abs(importance).max()) or 1.0
    scaled = np.rint(127.5 + 127.5 * importance / highest).astype(np.uint8)
    height, width = importance.shape
    smooth = cv2.resize(scaled, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    colours = cv2.applyColorMap(smooth, cv2.COLORMAP_JET)
    return np.asarray(cv2.addWeighted(_enlarged(picture, factor), 0.45, colours, 0.55, 0), np.uint8)


def _lines(answer: Answer, label: str) -> list[str]:
    """The caption; in ASCII, which is all that OpenCV's fonts have."""
    lines = [f"{label}: {answer.outcome}"]
    if answer.anchor is not None and answer.segments is not None:
        lines.append(f"{len(answer.anchor)} of {int(answer.segments.max()) + 1} segments hold the answer")
        lines.append(f"precision {answer.precision:.3f}, coverage {answer.coverage:.3f}")
    if answer.importance is not None:
        lines.append(f"covering takes away at most {float(answer.importance.max()):.3f} (red)")
    if answer.reason:
        lines.append(answer.reason)
    return [line.encode("ascii", "replace").decode() for line in lines]


def _caption(lines: Sequence[str], width: int) -> NDArray[np.uint8]:
    most = max(10, int((width - 2 * MARGIN) / (19 * FONT_SCALE)))
    wrapped = [line[start : start + most] for line in lines for start in range(0, len(line), most)]
    strip = np.full((LINE * len(wrapped) + 2 * MARGIN, width, 3), 255, np.uint8)
    for number, line in enumerate(wrapped, 1):
        at = (MARGIN, MARGIN + LINE * number - 5)
        cv2.putText(strip, line, at, cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, TEXT_COLOUR, 1, cv2.LINE_AA)
    return strip
