"""What a perturbed image shows where segments of the image are absent."""

import cv2
import numpy as np
from numpy.typing import NDArray

from agents.explanations.explainer import Pixels
from schemas.explanation_options import AnchorOptions
from schemas.refusal import Reason, Refusal

BLUR_SHARE = 8
"""The blur's standard deviation is the image's shorter side divided by this."""


def segment(image: Pixels, options: AnchorOptions) -> NDArray[np.uint8]:
    """Superpixels (h, w) of an image, numbered from 0.

    scikit-image numbers from 1 unless told otherwise; alibi takes the number of a segment for its place, and would then
    never perturb the last one.
    """
    from skimage.segmentation import slic

    colours = np.repeat(image, 3, axis=2) if image.shape[-1] == 1 else image
    segments = slic(
        colours,
        n_segments=options.n_segments,
        compactness=options.compactness,
        sigma=options.sigma,
        start_label=0,
    )
    return np.asarray(np.unique(segments, return_inverse=True)[1].reshape(segments.shape), np.uint8)


def backgrounds(
    image: Pixels, segments: NDArray[np.uint8], options: AnchorOptions, others: NDArray[np.generic] | None
) -> Pixels:
    """What absent segments may show, (m, h, w, c) float32 in 0..1; one of the m is drawn for each perturbed image.

    Args:
        others: (k, h, w, c) uint8 or float32 in 0..1, the images that perturbation `backgrounds` takes from.

    Raises:
        Refusal: perturbation `backgrounds` for a model without such images.
    """
    if options.perturbation == "mean":
        return segment_means(image, segments)[None]
    if options.perturbation == "blur":
        sigma = min(image.shape[:2]) / BLUR_SHARE
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32).reshape(1, *image.shape)
    if options.perturbation == "noise":
        rng = np.random.default_rng(options.seed)
        return rng.random((options.backgrounds, *image.shape), np.float32)
    if others is None or not len(others):
        raise Refusal(
            Reason.INVALID_FIELD,
            "perturbation `backgrounds` needs images, and this model has none; name a file of them as "
            "`explanations.backgrounds` in its model.yaml, or take noise, blur or mean",
        )
    chosen = others[: options.backgrounds]
    return chosen.astype(np.float32) / np.float32(255) if chosen.dtype == np.uint8 else chosen.astype(np.float32)


def segment_means(image: Pixels, segments: NDArray[np.uint8]) -> Pixels:
    """The image with each segment in its mean colour, computed as alibi does, to the bit."""
    flat = image.copy()
    for number in np.unique(segments):
        inside = image[segments == number]
        flat[segments == number] = [np.mean(inside[:, channel]) for channel in range(image.shape[-1])]
    return flat
