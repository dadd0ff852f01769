"""Figures from sums: accuracy, precision and the like; what has an empty denominator is absent, not 0."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.confusion.sums import BINS, SCALE, Sums
from schemas.messages import ClassFigures, Rates, ValueFigures

ERRORS = ("absolute", "squared")
RATES = ("precision", "recall", "specificity", "f1")


def confusion_of(sums: Sums, classes: int) -> NDArray[np.int64]:
    """Counts (truth, predicted)."""
    matrix = np.zeros((classes, classes), np.int64)
    for name, count in sums.items():
        if name.startswith("cell:"):
            _, truth, predicted = name.split(":")
            matrix[int(truth), int(predicted)] = count
    return matrix


def fits(sums: Sums, classes: Sequence[str]) -> bool:
    """Whether the sums are of a model with these classes; an earlier version may have had others, or none."""
    cells = [map(int, name.split(":")[1:]) for name in sums if name.startswith("cell:")]
    is_classifier = sums["confidence"] > 0 or not sums["pairs"]
    return is_classifier and max(map(max, cells), default=0) < len(classes) if classes else not sums["confidence"]


def figures(sums: Sums, classes: Sequence[str]) -> dict[str, Any]:
    """Fields of a `PerformanceReport`; an undefined one is None.

    Args:
        classes: labels; none of a regression model, whose figures are of its errors.
    """
    return {
        "size": sums["pairs"],
        "labelled": sums["labelled"],
        "label_coverage": _ratio(sums["labelled"], sums["pairs"]),
        "by_value": _by_value(sums, bool(classes)),
        **(_class_figures(sums, classes) if classes else _error_figures(sums)),
    }


def _error_figures(sums: Mapping[str, int]) -> dict[str, float | None]:
    """Root mean squared and mean absolute error."""
    mean_square = _mean(sums["squared"], sums["labelled"] * SCALE)
    return {
        "rmse": None if mean_square is None else math.sqrt(mean_square),
        "mae": _mean(sums["absolute"], sums["labelled"]),
    }


def _class_figures(sums: Sums, labels: Sequence[str]) -> dict[str, Any]:
    """Figures of a classifier; a class without any sample is left out.

    Expected calibration error: Guo et al. 2017. Estimated accuracy: mean calibrated confidence of all pairs, labelled
    or not (average confidence; Guillory et al., "Predicting with Confidence on Unseen Distributions", ICCV 2021).
    """
    matrix = confusion_of(sums, len(labels))
    pairs, labelled = sums["pairs"], sums["labelled"]
    by_class = {label: _class(matrix, index) for index, label in enumerate(labels)}
    seen = matrix.sum(0) + matrix.sum(1) > 0
    present = {label: one for (label, one), there in zip(by_class.items(), seen, strict=True) if there}
    return {
        "confusion": tuple(tuple(row) for row in matrix.tolist()),
        "accuracy": _ratio(int(np.trace(matrix)), labelled),
        "by_class": present,
        "macro": _macro(present),
        "micro": _micro(present),
        "log_loss": _mean(sums["log_loss"], labelled),
        "brier": _mean(sums["brier"], labelled),
        "calibration_error": _calibration_error(sums),
        "kl_divergence": _kl_divergence(matrix),
        "estimated_accuracy": None if not pairs else min(1.0, sums["confidence"] / SCALE / pairs),
    }


def _by_value(sums: Sums, has_classes: bool) -> dict[str, ValueFigures]:
    """For each value of the attribute broken down by that any pair has."""
    prefix = "value:pairs:"
    values = sorted(name.removeprefix(prefix) for name in sums if name.startswith(prefix))
    return {value: _value(sums, value, has_classes) for value in values}


def _value(sums: Sums, value: str, has_classes: bool) -> ValueFigures:
    # Where the spec's values changed, a late correction may take away what was counted under another value.
    counts = {name: max(0, sums[f"value:{name}:{value}"]) for name in ("pairs", "labelled", "correct", *ERRORS)}
    pairs, labelled = counts["pairs"], counts["labelled"]
    if not has_classes:
        return ValueFigures(size=pairs, labelled=labelled, **_error_figures(counts))
    correct = min(counts["correct"], labelled)
    return ValueFigures(size=pairs, labelled=labelled, correct=correct, accuracy=_ratio(correct, labelled))


def _class(matrix: NDArray[np.int64], index: int) -> ClassFigures:
    hits = int(matrix[index, index])
    false_positives, false_negatives = int(matrix[:, index].sum()) - hits, int(matrix[index].sum()) - hits
    negatives = int(matrix.sum()) - hits - false_positives - false_negatives
    return ClassFigures(
        true_positives=hits,
        true_negatives=negatives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        precision=_ratio(hits, hits + false_positives),
        recall=_ratio(hits, hits + false_negatives),
        specificity=_ratio(negatives, negatives + false_positives),
        f1=_ratio(2 * hits, 2 * hits + false_positives + false_negatives),
    )


def _macro(by_class: Mapping[str, ClassFigures]) -> Rates | None:
    """Means over the classes for which a rate is defined."""
    if not by_class:
        return None
    means = {}
    for rate in RATES:
        defined = [value for one in by_class.values() if (value := getattr(one, rate)) is not None]
        means[rate] = sum(defined) / len(defined) if defined else None
    return Rates(**means)


def _micro(by_class: Mapping[str, ClassFigures]) -> Rates | None:
    """Rates of the counts summed over classes; precision, recall and F1 are then equal to the accuracy."""
    if not by_class:
        return None
    names = ("true_positives", "true_negatives", "false_positives", "false_negatives")
    hits, negatives, positives, misses = (sum(getattr(one, name) for one in by_class.values()) for name in names)
    return Rates(
        precision=_ratio(hits, hits + positives),
        recall=_ratio(hits, hits + misses),
        specificity=_ratio(negatives, negatives + positives),
        f1=_ratio(2 * hits, 2 * hits + positives + misses),
    )


def _calibration_error(sums: Sums) -> float | None:
    if not sums["labelled"]:
        return None
    gaps = [abs(sums[f"bin:{number}:confidence"] / SCALE - sums[f"bin:{number}:correct"]) for number in range(BINS)]
    return min(1.0, sum(gaps) / sums["labelled"])


def _kl_divergence(matrix: NDArray[np.int64]) -> float | None:
    """Of the predicted from the true class distribution, nats; None where a class was predicted that never was true."""
    predicted, true = matrix.sum(0), matrix.sum(1)
    total = int(matrix.sum())
    used = predicted > 0
    if not total or (true[used] == 0).any():
        return None
    share = predicted[used] / total
    return max(0.0, float((share * np.log(predicted[used] / true[used])).sum()))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(fixed: int, count: int) -> float | None:
    return fixed / SCALE / count if count else None
