"""Figures are those of scikit-learn; what is undefined is absent."""

from dataclasses import replace

import numpy as np
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
)

from agents.confusion.entries import PairHalf, Truth
from agents.confusion.figures import figures
from agents.confusion.sums import BINS, SCALE, Sums, add, contribution

LABELS = ("a", "b", "c", "d")


def told(truth: float | None) -> Truth | None:
    return None if truth is None else Truth(0.0, 0, 0, truth)


def sums_of(probabilities: NDArray[np.float32], truths: list[int | None], temperature: float = 1.0) -> Sums:
    total = Sums()
    for row, truth in zip(probabilities, truths, strict=True):
        text = pybase64.b64encode_as_string(row.astype("<f4").tobytes())
        half = PairHalf(0, 0, "m", "1", 0.0, 0.0, int(row.argmax()), text)
        add(total, contribution(replace(half, told=told(truth)), {"m": temperature}))
    return total


@settings(max_examples=150)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_each_figure_is_scikit_learns(truths: list[int], seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(4), len(truths)).astype(np.float32)
    predicted = probabilities.argmax(1)
    ours = figures(sums_of(probabilities, list(truths)), LABELS)
    assert ours["confusion"] == tuple(map(tuple, confusion_matrix(truths, predicted, labels=range(4)).tolist()))
    assert ours["accuracy"] == pytest.approx(accuracy_score(truths, predicted), abs=1e-12)
    theirs = precision_recall_fscore_support(truths, predicted, labels=range(4), zero_division=np.nan)
    for index, label in enumerate(LABELS):
        one = ours["by_class"].get(label)
        if one is None:
            assert index not in truths and index not in predicted
            continue
        for name, values in zip(("precision", "recall", "f1"), theirs, strict=False):
            value = getattr(one, name)
            assert np.isnan(values[index]) if value is None else value == pytest.approx(values[index], abs=1e-12)
    rows = probabilities.astype(np.float64)
    assert ours["log_loss"] == pytest.approx(
        log_loss(truths, rows / rows.sum(1, keepdims=True), labels=range(4)), abs=1e-6
    )
    brier = ((rows - np.eye(4)[truths]) ** 2).sum(1).mean()
    assert ours["brier"] == pytest.approx(brier, abs=1e-12)
    assert ours["label_coverage"] == 1.0


def test_macro_and_micro_are_means_over_classes_and_over_counts() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 2, 3]]
    truths = [0, 1, 1, 2, 0, 3]
    ours = figures(sums_of(probabilities, list(truths)), LABELS)
    predicted = probabilities.argmax(1)
    for average in ("macro", "micro"):
        precision, recall, f1, _ = precision_recall_fscore_support(truths, predicted, average=average)
        assert ours[average].precision == pytest.approx(precision, abs=1e-12)
        assert ours[average].recall == pytest.approx(recall, abs=1e-12)
        assert ours[average].f1 == pytest.approx(f1, abs=1e-12)


def test_what_is_undefined_is_absent() -> None:
    ours = figures(sums_of(np.eye(4, dtype=np.float32)[[0]], [1]), LABELS)
    assert ours["by_class"]["a"].recall is None and ours["by_class"]["b"].precision is None
    assert "c" not in ours["by_class"]
    assert ours["kl_divergence"] is None
    empty = figures(Sums(), LABELS)
    assert all(
        empty[name] is None for name in ("accuracy", "log_loss", "estimated_accuracy", "macro", "label_coverage")
    )


def test_the_estimate_needs_no_label_and_coverage_says_how_many_there_are() -> None:
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1]], np.float32)
    ours = figures(sums_of(probabilities, [None, 0]), LABELS)
    assert ours["estimated_accuracy"] == pytest.approx(0.6, abs=1e-6)
    assert (ours["label_coverage"], ours["accuracy"]) == (0.5, 1.0)
    cooler = figures(sums_of(probabilities, [None, None], temperature=0.5), LABELS)
    assert cooler["estimated_accuracy"] > 0.6


def test_estimates_of_two_calibrations_are_not_added_up() -> None:
    row = np.array([[0.7, 0.1, 0.1, 0.1]], np.float32)
    total = sums_of(np.repeat(row, 3, axis=0), [None, None, 1], temperature=2.0)
    add(total, sums_of(row, [None], temperature=0.5))
    before, after = (figures(sums_of(row, [None], one), LABELS, one)["estimated_accuracy"] for one in (2.0, 0.5))
    assert before < 0.6 < after
    assert figures(total, LABELS, 0.5)["estimated_accuracy"] == after
    assert figures(total, LABELS, 2.0)["estimated_accuracy"] == before
    assert figures(total, LABELS, 3.0)["estimated_accuracy"] == before
    add(total, Sums(pairs=9, confidence=9 * SCALE))
    assert figures(total, LABELS, 0.5)["estimated_accuracy"] == after
    assert figures(total, LABELS, 3.0)["estimated_accuracy"] == 1.0


def test_what_a_name_stands_for_never_changes() -> None:
    """A term that is summed in another way, or in another unit, needs another name: old sums would be added to it."""
    rows = np.array([[0.5, 0.25, 0.125, 0.125]], np.float32)
    assert (SCALE, BINS) == (1 << 44, 15)
    assert sums_of(rows, [1]) == {
        "pairs": 1,
        "labelled": 1,
        "estimate:1:pairs": 1,
        "estimate:1:confidence": SCALE // 2,
        "cell:1:0": 1,
        "log_loss": round(np.log(4) * SCALE),
        "brier": round(0.84375 * SCALE),
        "bin:7:confidence": SCALE // 2,
        "bin:7:count": 1,
    }
    assert errors_of([(3.0, 1.0)]) == {"pairs": 1, "labelled": 1, "absolute": 2 * SCALE, "squared": 4 * SCALE * SCALE}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.75, 0.25, 0.0, 0.0]] * 4, np.float32)
    ours = figures(sums_of(probabilities, [0, 0, 1, 1]), LABELS)
    assert ours["calibration_error"] == pytest.approx(0.25, abs=1e-12)


def test_kl_divergence_is_of_the_predicted_from_the_true_classes() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    ours = figures(sums_of(probabilities, [0, 0, 1, 1]), LABELS)
    assert ours["kl_divergence"] == pytest.approx(0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5), abs=1e-12)


def test_a_values_accuracy_is_absent_until_one_of_its_pairs_has_a_label() -> None:
    half = PairHalf(0, 0, "m", "1", 0.0, 0.0, 1, pybase64.b64encode_as_string(np.eye(4, dtype="<f4")[1].tobytes()))
    total = Sums()
    for value, truth in (("north", 1), ("north", 2), ("none", None)):
        add(total, contribution(replace(half, value=value, told=told(truth)), {}))
    found = figures(total, LABELS)["by_value"]
    assert (found["north"].size, found["north"].labelled, found["north"].accuracy) == (2, 2, 0.5)
    assert (found["none"].size, found["none"].labelled, found["none"].accuracy) == (1, 0, None)


def test_a_pair_of_a_model_that_is_not_broken_down_has_no_value() -> None:
    assert figures(sums_of(np.eye(4, dtype=np.float32), [0, 1, 2, 3]), LABELS)["by_value"] == {}


def errors_of(known: list[tuple[float, float | None]], value: str | None = None) -> Sums:
    total = Sums()
    for predicted, truth in known:
        half = PairHalf(0, 0, "n", "1", 0.0, 0.0, float(predicted), "", value=value)
        add(total, contribution(replace(half, told=told(None if truth is None else float(truth))), {}))
    return total


NUMBERS = st.floats(-1e6, 1e6)


@settings(max_examples=300)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_errors_are_scikit_learns(told: list[tuple[float, float]]) -> None:
    ours = figures(errors_of([*told, (5.0, None)]), ())
    predicted, truths = zip(*told, strict=True)
    assert (ours["size"], ours["labelled"]) == (len(told) + 1, len(told))
    assert ours["rmse"] == pytest.approx(mean_squared_error(truths, predicted) ** 0.5, rel=1e-12, abs=1e-12)
    assert ours["mae"] == pytest.approx(mean_absolute_error(truths, predicted), rel=1e-12, abs=1e-12)


def test_figures_of_a_regression_model_have_nothing_of_classes_and_none_without_a_truth() -> None:
    ours = figures(errors_of([(1.5, None)], "north"), ())
    assert ours.keys() == {"size", "labelled", "label_coverage", "by_value", "rmse", "mae"}
    assert ours["rmse"] is ours["mae"] is ours["by_value"]["north"].rmse is ours["by_value"]["north"].accuracy is None
    assert ours["label_coverage"] == 0.0


def test_a_million_of_the_largest_errors_and_the_smallest_ones_have_figures() -> None:
    largest = errors_of([(3.4e38, -3.4e38)])
    total = Sums({name: number * 10**6 for name, number in largest.items()})
    assert figures(total, ())["rmse"] == pytest.approx(6.8e38, rel=1e-12)
    assert figures(total, ())["mae"] == pytest.approx(6.8e38, rel=1e-12)
    small = figures(errors_of([(1e-9, 0.0), (0.0, 3e-9)]), ())
    assert small["rmse"] == pytest.approx(5**0.5 * 1e-9, rel=1e-4)
