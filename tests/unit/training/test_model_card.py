"""The card's figures are what their definitions say, and come back from the page as they went in."""

import numpy as np
import pytest

from training.model_card import calibration_error, measure, read_front_matter, render_card


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


def test_figures_survive_the_page() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(4000, dtype=np.uint8) % 10
    answers = np.full((4000, 10), 0.02, np.float32)
    answers[np.arange(4000), np.where(rng.random(4000) < 0.25, (labels + 1) % 10, labels)] = 0.82
    figures = measure(answers, labels, answers[9], {"fog": np.roll(answers[:2000], 1, axis=1)})
    assert figures.test_accuracy == pytest.approx(0.75, abs=0.03)
    assert figures.mean_confidence == pytest.approx(0.82)
    assert figures.corrupted["fog"] == (0.0, pytest.approx(0.82))
    card = render_card(figures, "ab" * 32, 469_690)
    front = read_front_matter(card)
    assert front["weights_sha256"] == "ab" * 32
    assert front["test_accuracy"] == pytest.approx(figures.test_accuracy, abs=1e-4)
    assert front["truck_probability"] == pytest.approx(figures.truck_probability, abs=1e-4)
    assert front["accuracy_by_class"]["frog"] == pytest.approx(figures.accuracy_by_class["frog"], abs=1e-3)
    assert "| fog | 0.000 | 0.820 |" in card
    assert "{" not in card
