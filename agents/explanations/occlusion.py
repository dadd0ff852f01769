"""Method `occlusion`: by how much the answer's probability falls when a patch of the image is covered."""

import numpy as np
from numpy.typing import NDArray

from agents.explanations.explainer import Answer, AskedModel, DeadlinePassed, Pixels
from schemas.explanation_options import OcclusionOptions, Options
from schemas.refusal import Reason, Refusal

MAX_PATCHES = 4096


class OcclusionExplainer:
    """Occlusion sensitivity: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, 4.2.

    The patch shows the image's mean colour. All patches are one batch to the model, which needs no gradient, so this
    works with whatever stands behind the V2 endpoint.
    """

    def explain(self, image: Pixels, options: Options, model: AskedModel) -> Answer:
        """See `Explainer`.

        Raises:
            Refusal: a patch larger than the image, or too many of them.
            ModelUnavailable: the model does not answer.
        """
        if not isinstance(options, OcclusionOptions):
            raise TypeError(f"options of another method: {type(options).__name__}")
        corners = _corners(image.shape[:2], options)
        covered = np.repeat(image[None], len(corners) + 1, axis=0)
        mean = image.mean(axis=(0, 1))
        for one, (top, left) in zip(covered[1:], corners, strict=True):
            one[top : top + options.patch, left : left + options.patch] = mean
        try:
            probabilities = model(covered)
        except DeadlinePassed as passed:
            return Answer("timeout", str(passed))
        predicted = int(probabilities[0].argmax())
        falls = probabilities[0, predicted] - probabilities[1:, predicted]
        importance = _spread(falls, corners, image.shape[:2], options.patch)
        return Answer("ok", predicted=predicted, importance=importance, samples=len(covered))


def _corners(shape: tuple[int, ...], options: OcclusionOptions) -> list[tuple[int, int]]:
    """Upper left corners of patches that cover every pixel."""
    if options.patch > min(shape):
        raise Refusal(
            Reason.INVALID_FIELD,
            f"option patch of method occlusion is {options.patch}; the image is only {shape[0]} by {shape[1]}",
        )
    if options.stride > options.patch:
        raise Refusal(
            Reason.INVALID_FIELD,
            f"option stride of method occlusion is {options.stride}, larger than patch {options.patch}: pixels would "
            "be left out",
        )
    rows, columns = ([*range(0, side - options.patch, options.stride), side - options.patch] for side in shape)
    if len(rows) * len(columns) > MAX_PATCHES:
        raise Refusal(
            Reason.INVALID_FIELD,
            f"stride {options.stride} makes {len(rows) * len(columns)} patches; at most {MAX_PATCHES} may be",
        )
    return [(top, left) for top in rows for left in columns]


def _spread(
    falls: NDArray[np.float32], corners: list[tuple[int, int]], shape: tuple[int, ...], patch: int
) -> NDArray[np.float32]:
    """By pixel, the mean over the patches that cover it."""
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for fall, (top, left) in zip(falls, corners, strict=True):
        total[top : top + patch, left : left + patch] += fall
        count[top : top + patch, left : left + patch] += 1
    return total / count
