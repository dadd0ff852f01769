"""Sums from which every figure follows: whole numbers, so that adding and taking away in any order is exact."""

import heapq
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agents.calibration import scale_temperature
from agents.confusion.entries import Answer, PairHalf

Sums = Counter[str]
"""Names: `pairs`, `labelled`; of a classifier `log_loss`, `brier`, `bin:<number>:<what>`,
`estimate:<temperature>:<what>` and `cell:<truth>:<predicted>`, or, of one with more than `DENSE_CLASSES`,
`hit:<class>`, `missed:<truth>`, `false:<predicted>` and `mistake:<truth>:<predicted>`; of a regression model `absolute`
and `squared` errors; `value:<what>:<value of the attribute broken down by>`; `labels:<id>`, pairs answered by these.

A name is the version of its term: what differs in meaning differs in name, so that it is never added up with the rest,
in whatever window, fold or message it stands. Change `SCALE`, `BINS` or a formula, and the term needs a new name."""
SCALE = 1 << 44
"""Real terms are rounded to this fraction: an error of at most 3e-14 a pair, and none from the order of additions.
Squared errors are squares of rounded ones, in units of its square."""
BINS = 15
"""Of equal width, for the expected calibration error (Guo et al. 2017, section 2)."""
SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are cut to it before the logarithm, as in `sklearn.metrics.log_loss`."""
DENSE_CLASSES = 100
"""Models with more have no whole confusion matrix: its size is the square of theirs. Counts by class stay exact."""
MAX_MISTAKES = 1000
"""Kinds of mistake (truth, answer) of a window that are told; the most frequent ones."""
MISTAKE, LABELS = "mistake:", "labels:"


def estimate_name(temperature: float) -> str:
    """Of the terms that rest on a model's calibration, which may change without a new version of the model."""
    return f"estimate:{temperature:.12g}"


def contribution(pair: PairHalf, temperatures: Mapping[str, float]) -> Sums:
    """What an answer adds to the sums of its window, or of the lifetime if it was joined late.

    Args:
        temperatures: of the models' calibration; 1 for those that have none.
    """
    temperature = temperatures.get(pair.model, 1.0)
    sums = _of(pair, pair.truth, temperature)
    if pair.counted is not None:
        sums.subtract(_of(pair, pair.counted_truth, temperature))
    return sums


def add(total: Sums, part: Sums, sign: int = 1) -> None:
    """Add in place; what becomes 0 is taken out, so that equal sums are equal dictionaries."""
    for name, value in part.items():
        total[name] += sign * value
        if not total[name]:
            del total[name]


def lasting(sums: Sums) -> Sums:
    """What is kept beyond the window, in folds and lifetimes: not which of many classes was taken for which."""
    if not any(name.startswith(MISTAKE) for name in sums):
        return sums
    return Sums({name: value for name, value in sums.items() if not name.startswith(MISTAKE)})


def bounded(sums: Sums, most: int = MAX_MISTAKES) -> Sums:
    """What is told of them: of the kinds of mistake the most frequent ones. How many mistakes are left out follows."""
    mistakes = [(value, name) for name, value in sums.items() if name.startswith(MISTAKE)]
    if len(mistakes) <= most:
        return sums
    kept = {name for _, name in heapq.nlargest(most, mistakes)}
    return Sums({name: value for name, value in sums.items() if not name.startswith(MISTAKE) or name in kept})


def _of(pair: PairHalf, truth: Answer | None, temperature: float) -> Sums:
    if isinstance(pair.predicted, float):
        terms = judged = {} if truth is None else _errors(pair.predicted, truth)
    else:
        vector = pair.vector()
        confidence = _fixed(scale_temperature(vector[None], temperature)[0].max())
        name = estimate_name(temperature)
        terms = {f"{name}:pairs": 1, f"{name}:confidence": confidence}
        terms |= {} if truth is None else _scores(vector, int(truth), pair.predicted)
        judged = {} if truth is None else {"correct": int(truth == pair.predicted)}
    shared = {"pairs": 1, "labelled": int(truth is not None)}
    sums = Sums(shared | terms)
    if pair.labels is not None:
        sums[_name("labels", pair.labels)] = 1
    if pair.value is not None:
        sums.update({f"value:{name}:{pair.value}": number for name, number in (shared | judged).items()})
    return Sums({name: value for name, value in sums.items() if value})


def _scores(vector: NDArray[np.float64], truth: int, predicted: int) -> dict[str, int]:
    """Terms of a classifier's answer, probabilities (classes,)."""
    confidence = float(vector[predicted])
    number = min(BINS - 1, int(confidence * BINS))
    return {
        **_judged(truth, predicted, len(vector)),
        "log_loss": _fixed(-np.log(min(1.0, max(SMALLEST, float(vector[truth]))))),
        "brier": _fixed(float(vector @ vector) - 2 * float(vector[truth]) + 1),
        f"bin:{number}:confidence": _fixed(confidence),
        f"bin:{number}:correct": int(truth == predicted),
        f"bin:{number}:count": 1,
    }


def _judged(truth: int, predicted: int, classes: int) -> dict[str, int]:
    if classes <= DENSE_CLASSES:
        return {f"cell:{truth}:{predicted}": 1}
    if truth == predicted:
        return {_name("hit", truth): 1}
    return {_name("missed", truth): 1, _name("false", predicted): 1, f"{MISTAKE}{truth}:{predicted}": 1}


@lru_cache(1 << 14)
def _name(what: str, number: int | str) -> str:
    """One string for all windows that have it."""
    return f"{what}:{number}"


def _errors(predicted: float, truth: float) -> dict[str, int]:
    """Terms of a regression model's answer."""
    error = _fixed(predicted - truth)
    return {"absolute": abs(error), "squared": error * error}


def _fixed(value: float) -> int:
    return round(float(value) * SCALE)
