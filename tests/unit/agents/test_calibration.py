"""Temperature scaling changes how sure an answer is, never which class it names."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.calibration import scale_temperature


def answers() -> NDArray[np.float32]:
    logits = np.random.default_rng(0).normal(0, 4, (200, 10))
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def test_temperature_1_changes_nothing() -> None:
    assert np.allclose(scale_temperature(answers(), 1.0), answers(), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_it_is_the_softmax_of_divided_logits_and_keeps_the_order(temperature: float) -> None:
    logits = np.log(answers().astype(np.float64))
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=1, keepdims=True)
    scaled = scale_temperature(answers(), temperature)
    assert np.allclose(scaled, expected)
    assert np.array_equal(scaled.argmax(axis=1), answers().argmax(axis=1))
    sharper = scaled.max(axis=1) > answers().max(axis=1)
    assert sharper.all() == (temperature < 1)


def test_a_probability_of_zero_stays_finite() -> None:
    scaled = scale_temperature(np.array([[1.0, 0.0, 0.0]], np.float32), 2.0)
    assert np.isfinite(scaled).all()
    assert scaled.sum() == pytest.approx(1)
    assert scaled[0, 0] > 0.999
