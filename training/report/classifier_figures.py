"""Figures of the classifier: how often it is right, and how well it knows that."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.calibration import scale_temperature
from training.report.statistics import interval_95

CALIBRATION_BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""
FIRST = 2_000
"""A first part of the test images with figures of its own, so that a quick test can check them."""
Probabilities = NDArray[np.float32]
Labels = NDArray[np.uint8]


def accuracy_figures(probabilities: Probabilities, labels: Labels, names: tuple[str, ...]) -> dict[str, Any]:
    """Figures over all test images, from the model's answers (n, classes) and the labels (n,)."""
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    return {
        "test_images": len(labels),
        "test_accuracy": round(float(right.mean()), 4),
        "test_accuracy_interval": interval_95(int(right.sum()), len(right)),
        "first_2000_accuracy": round(float(right[:FIRST].mean()), 4),
        "mean_confidence": round(float(confidence.mean()), 4),
        "expected_calibration_error": round(calibration_error(confidence, right), 4),
        "accuracy_by_class": {name: round(float(right[labels == i].mean()), 3) for i, name in enumerate(names)},
    }


def calibration_figures(probabilities: Probabilities, labels: Labels, temperature: float) -> dict[str, Any]:
    """Calibration before and after scaling, on images that the temperature was not fitted to."""
    scaled = scale_temperature(probabilities, temperature)
    right = probabilities.argmax(axis=1) == labels
    rows = np.arange(len(labels))
    return {
        "temperature": temperature,
        "calibration_images": len(labels),
        "calibration_error_before": round(calibration_error(probabilities.max(axis=1), right), 4),
        "calibration_error_after": round(calibration_error(scaled.max(axis=1), right), 4),
        "log_loss_before": round(float(-np.log(np.maximum(probabilities[rows, labels], 1e-30)).mean()), 4),
        "log_loss_after": round(float(-np.log(scaled[rows, labels]).mean()), 4),
    }


def corrupted_figures(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """Accuracy and mean confidence on the first 2,000 test images, corrupted."""
    first, truth = probabilities[:FIRST], labels[:FIRST]
    return {
        "accuracy": round(float((first.argmax(axis=1) == truth).mean()), 3),
        "mean_confidence": round(float(first.max(axis=1).mean()), 3),
    }


def calibration_error(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |accuracy - mean confidence| by bin of confidence, weighted by the bin's share.

    Source: Guo et al. 2017, equation 3, with `CALIBRATION_BINS` bins of equal width, each open at its lower end.
    """
    bins = np.ceil(confidence.astype(np.float64) * CALIBRATION_BINS).astype(int)
    surplus = right.astype(np.float64) - confidence
    return float(sum(abs(surplus[bins == i].sum()) for i in np.unique(bins)) / len(confidence))
