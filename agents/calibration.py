"""Confidence that means what it says: temperature scaling of a classifier's probabilities."""

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-30
"""Probabilities below it count as this much, so that their logarithm is finite."""


def scale_temperature(probabilities: NDArray[np.generic], temperature: float) -> NDArray[np.float64]:
    """softmax(log(p) / temperature) of probabilities (n, classes): less sure above 1, surer below, the order unchanged.

    The logarithm of a softmax's output is its input up to a constant, so this is the scaling of logits in Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised
