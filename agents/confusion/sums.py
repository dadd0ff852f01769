"""Sums from which every figure follows: whole numbers, so that adding and taking away in any order is exact."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agents.calibration import scale_temperature
from agents.confusion.entries import Answer, PairHalf

Sums = Counter[str]
"""Names: `pairs`, `labelled`; of a classifier `confidence`, `log_loss`, `brier`, `cell:<truth>:<predicted>`,
`bin:<number>:<what>`; of a regression model `absolute` and `squared` errors; `value:<what>:<value of the attribute
broken down by>`."""
SCALE = 1 << 44
"""Real terms are rounded to this fraction: an error of at most 3e-14 a pair, and none from the order of additions.
Squared errors are squares of rounded ones, in units of its square."""
BINS = 15
"""Of equal width, for the expected calibration error (Guo et al. 2017, section 2)."""
SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are cut to it before the logarithm, as in `sklearn.metrics.log_loss`."""


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


def _of(pair: PairHalf, truth: Answer | None, temperature: float) -> Sums:
    if isinstance(pair.predicted, float):
        terms = judged = {} if truth is None else _errors(pair.predicted, truth)
    else:
        vector = pair.vector()
        terms = {"confidence": _fixed(scale_temperature(vector[None], temperature)[0].max())}
        terms |= {} if truth is None else _scores(vector, int(truth), pair.predicted)
        judged = {} if truth is None else {"correct": int(truth == pair.predicted)}
    shared = {"pairs": 1, "labelled": int(truth is not None)}
    sums = Sums(shared | terms)
    if pair.value is not None:
        sums.update({f"value:{name}:{pair.value}": number for name, number in (shared | judged).items()})
    return Sums({name: value for name, value in sums.items() if value})


def _scores(vector: NDArray[np.float64], truth: int, predicted: int) -> dict[str, int]:
    """Terms of a classifier's answer, probabilities (classes,)."""
    confidence = float(vector[predicted])
    number = min(BINS - 1, int(confidence * BINS))
    return {
        f"cell:{truth}:{predicted}": 1,
        "log_loss": _fixed(-np.log(min(1.0, max(SMALLEST, float(vector[truth]))))),
        "brier": _fixed(float(vector @ vector) - 2 * float(vector[truth]) + 1),
        f"bin:{number}:confidence": _fixed(confidence),
        f"bin:{number}:correct": int(truth == predicted),
        f"bin:{number}:count": 1,
    }


def _errors(predicted: float, truth: float) -> dict[str, int]:
    """Terms of a regression model's answer."""
    error = _fixed(predicted - truth)
    return {"absolute": abs(error), "squared": error * error}


def _fixed(value: float) -> int:
    return round(float(value) * SCALE)
