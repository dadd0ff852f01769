"""The temperature that is fitted is the one that made the answers over-confident."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.calibration import scale_temperature
from runtime.errors import ConfigurationError
from training.report.classifier_figures import calibration_error, calibration_figures
from training.temperature import fit_temperature


def answers(count: int = 20_000) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Probabilities, and labels drawn from them: calibrated."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return probabilities.astype(np.float32), labels.astype(np.uint8)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_it_undoes_the_sharpening_of_calibrated_answers(factor: float) -> None:
    probabilities, labels = answers()
    sharpened = scale_temperature(probabilities, 1 / factor).astype(np.float32)
    assert fit_temperature(sharpened, labels) == pytest.approx(factor, rel=0.03)


def test_calibration_error_and_log_loss_fall() -> None:
    probabilities, labels = answers()
    sharpened = scale_temperature(probabilities, 0.5).astype(np.float32)
    figures = calibration_figures(
        sharpened[10_000:], labels[10_000:], fit_temperature(sharpened[:10_000], labels[:10_000])
    )
    assert figures["calibration_error_before"] > 0.1
    assert figures["calibration_error_after"] < 0.02
    assert figures["log_loss_after"] < figures["log_loss_before"]


def test_answers_that_are_always_right_have_no_temperature() -> None:
    probabilities, _ = answers(100)
    with pytest.raises(ConfigurationError, match="no temperature between"):
        fit_temperature(probabilities, probabilities.argmax(axis=1).astype(np.uint8))


def test_calibration_error_is_the_weighted_gap_between_accuracy_and_confidence() -> None:
    # Two bins of 15: (11/15, 12/15] with confidences 0.75, 0.77 and one right; (14/15, 1] with 0.95 right.
    confidence = np.array([0.75, 0.77, 0.95], np.float32)
    right = np.array([True, False, True])
    assert calibration_error(confidence, right) == pytest.approx((abs(1 - 0.75 - 0.77) + 0.05) / 3, abs=1e-6)


def test_calibration_error_is_0_for_a_calibrated_model_and_1_for_one_surely_wrong() -> None:
    sure = np.ones(8, np.float32)
    assert calibration_error(sure, np.ones(8, bool)) == 0
    assert calibration_error(sure, np.zeros(8, bool)) == 1
    assert calibration_error(np.full(8, 0.5, np.float32), np.arange(8) < 4) == 0
