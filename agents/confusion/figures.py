"""Figures from sums: accuracy, precision and the like; what has an empty denominator is absent, not 0."""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.confusion.counts import Counts, counts_of
from agents.confusion.sums import BINS, DENSE_CLASSES, SCALE, Sums, estimate_name
from schemas.messages import ClassFigures, Rates, ValueFigures

ERRORS = ("absolute", "squared")
MAX_VALUES = 100
"""Values of the attribute broken down by in one report: the spec's, and those that it had before."""


def figures(sums: Sums, classes: Sequence[str], temperature: float = 1.0) -> dict[str, Any]:
    """Fields of a `PerformanceReport`; an undefined one is None.

    Args:
        classes: labels; none of a regression model, whose figures are of its errors.
        temperature: of the model's present calibration.
    """
    return {
        "size": sums["pairs"],
        "labelled": sums["labelled"],
        "label_coverage": _ratio(sums["labelled"], sums["pairs"]),
        "by_value": _by_value(sums, bool(classes)),
        **(_class_figures(sums, classes, temperature) if classes else _error_figures(sums)),
    }


def _error_figures(sums: Mapping[str, int]) -> dict[str, float | None]:
    """Root mean squared and mean absolute error."""
    mean_square = _mean(sums["squared"], sums["labelled"] * SCALE)
    return {
        "rmse": None if mean_square is None else math.sqrt(mean_square),
        "mae": _mean(sums["absolute"], sums["labelled"]),
    }


def _class_figures(sums: Sums, labels: Sequence[str], temperature: float) -> dict[str, Any]:
    """Figures of a classifier; a class without any sample is left out.

    Expected calibration error: Guo et al. 2017. Estimated accuracy: mean calibrated confidence of all pairs, labelled
    or not (average confidence; Guillory et al., "Predicting with Confidence on Unseen Distributions", ICCV 2021).
    """
    counts = counts_of(sums, len(labels))
    present = np.flatnonzero(counts.hits + counts.missed + counts.false)
    mistakes = () if counts.dense else counts.mistakes()
    left_out = 0 if counts.dense else int(counts.missed.sum()) - sum(one.count for one in mistakes)
    listed = _listed(counts, present)
    rates = _rates(counts)
    labelled = sums["labelled"]
    return {
        "confusion": tuple(map(tuple, counts.matrix.tolist())) if counts.dense else (),
        "mistakes": mistakes,
        "mistakes_left_out": left_out,
        "accuracy": _ratio(int(counts.hits.sum()), labelled),
        "by_class": {labels[index]: _class(counts, rates, index) for index in listed},
        "classes_left_out": len(present) - len(listed),
        "macro": _macro(rates, present) if len(present) else None,
        "micro": _micro(counts, len(present)) if len(present) else None,
        "log_loss": _mean(sums["log_loss"], labelled),
        "brier": _mean(sums["brier"], labelled),
        "calibration_error": _calibration_error(sums),
        "kl_divergence": _kl_divergence(counts),
        "estimated_accuracy": _estimate(sums, temperature),
    }


def _listed(counts: Counts, present: NDArray[np.int64]) -> list[int]:
    """Which classes have figures of their own: of many, those with the most wrong answers, then the most right ones."""
    wrong = counts.missed + counts.false
    most = sorted(present.tolist(), key=lambda index: (-wrong[index], -counts.hits[index], index))
    return sorted(most[:DENSE_CLASSES])


def _by_value(sums: Sums, has_classes: bool) -> dict[str, ValueFigures]:
    """For each value of the attribute broken down by that any pair has, at most `MAX_VALUES`."""
    prefix = "value:pairs:"
    names = heapq.nlargest(MAX_VALUES, (name for name in sums if name.startswith(prefix)), key=lambda name: sums[name])
    values = sorted(name.removeprefix(prefix) for name in names)
    return {value: _value(sums, value, has_classes) for value in values}


def _value(sums: Sums, value: str, has_classes: bool) -> ValueFigures:
    # Where the spec's values changed, a late correction may take away what was counted under another value.
    counts = {name: max(0, sums[f"value:{name}:{value}"]) for name in ("pairs", "labelled", "correct", *ERRORS)}
    pairs, labelled = counts["pairs"], counts["labelled"]
    if not has_classes:
        return ValueFigures(size=pairs, labelled=labelled, **_error_figures(counts))
    correct = min(counts["correct"], labelled)
    return ValueFigures(size=pairs, labelled=labelled, correct=correct, accuracy=_ratio(correct, labelled))


def _rates(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """By class; NaN where the denominator is 0."""
    hits, false, missed = counts.hits, counts.false, counts.missed
    negatives = counts.total - hits - false - missed
    with np.errstate(invalid="ignore"):
        return {
            "precision": hits / (hits + false),
            "recall": hits / (hits + missed),
            "specificity": negatives / (negatives + false),
            "f1": 2 * hits / (2 * hits + false + missed),
        }


def _class(counts: Counts, rates: Mapping[str, NDArray[np.float64]], index: int) -> ClassFigures:
    hits, false, missed = (int(one[index]) for one in (counts.hits, counts.false, counts.missed))
    return ClassFigures(
        true_positives=hits,
        true_negatives=counts.total - hits - false - missed,
        false_positives=false,
        false_negatives=missed,
        **{name: None if np.isnan(values[index]) else float(values[index]) for name, values in rates.items()},
    )


def _macro(rates: Mapping[str, NDArray[np.float64]], present: NDArray[np.int64]) -> Rates:
    """Means over the classes for which a rate is defined."""
    defined = {name: values[present][~np.isnan(values[present])] for name, values in rates.items()}
    return Rates(**{name: float(values.mean()) if len(values) else None for name, values in defined.items()})


def _micro(counts: Counts, classes: int) -> Rates:
    """Rates of the counts summed over classes; precision, recall and F1 are then equal to the accuracy."""
    hits, false, missed = (int(one.sum()) for one in (counts.hits, counts.false, counts.missed))
    negatives = classes * counts.total - hits - false - missed
    return Rates(
        precision=_ratio(hits, hits + false),
        recall=_ratio(hits, hits + missed),
        specificity=_ratio(negatives, negatives + false),
        f1=_ratio(2 * hits, 2 * hits + false + missed),
    )


def _estimate(sums: Sums, temperature: float) -> float | None:
    """Of the pairs that were counted under this temperature; if there are none, under the one of most pairs."""
    named = [name.removesuffix(":pairs") for name in sums if name.startswith("estimate:") and name.endswith(":pairs")]
    found = {name: (sums[f"{name}:pairs"], sums[f"{name}:confidence"]) for name in named}
    found["confidence"] = (sums["pairs"] - sum(pairs for pairs, _ in found.values()), sums["confidence"])
    name = estimate_name(temperature)
    pairs, confidence = found[name] if name in found else max(found.values())
    return None if pairs <= 0 else min(1.0, confidence / SCALE / pairs)


def _calibration_error(sums: Sums) -> float | None:
    if not sums["labelled"]:
        return None
    gaps = [abs(sums[f"bin:{number}:confidence"] / SCALE - sums[f"bin:{number}:correct"]) for number in range(BINS)]
    return min(1.0, sum(gaps) / sums["labelled"])


def _kl_divergence(counts: Counts) -> float | None:
    """Of the predicted from the true class distribution, nats; None where a class was predicted that never was true."""
    predicted, true = counts.hits + counts.false, counts.hits + counts.missed
    used = predicted > 0
    if not counts.total or (true[used] == 0).any():
        return None
    share = predicted[used] / counts.total
    return max(0.0, float((share * np.log(predicted[used] / true[used])).sum()))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(fixed: int, count: int) -> float | None:
    return fixed / SCALE / count if count else None
