"""Sums from which every figure follows: whole numbers, so that adding and taking away in any order is exact."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from agents.calibration import scale_temperature
from agents.confusion.entries import UNLABELLED, Entry, PairHalf

Sums = Counter[str]
"""Names: `pairs`, `labelled`, `confidence`, `log_loss`, `brier`, `cell:<truth>:<predicted>`, `bin:<number>:<what>`,
`value:<what>:<value of the attribute broken down by>`."""
SCALE = 1 << 44
"""Real terms are rounded to this fraction: an error of at most 3e-14 a pair, and none from the order of additions."""
BINS = 15
"""Of equal width, for the expected calibration error (Guo et al. 2017, section 2)."""
SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are cut to it before the logarithm, as in `sklearn.metrics.log_loss`."""


def contribution(entry: Entry, temperatures: Mapping[str, float]) -> Sums:
    """What an entry adds to the sums of its window, or of the lifetime if it was joined late.

    Args:
        temperatures: of the models' calibration; 1 for those that have none.
    """
    if entry.pair is None:
        return Sums()
    temperature = temperatures.get(entry.pair.model, 1.0)
    sums = _of(entry.pair, entry.truth, temperature)
    counted = entry.pair.counted
    if counted is not None:
        sums.subtract(_of(entry.pair, None if counted == UNLABELLED else counted, temperature))
    return sums


def add(total: Sums, part: Sums, sign: int = 1) -> None:
    """Add in place; what becomes 0 is taken out, so that equal sums are equal dictionaries."""
    for name, value in part.items():
        total[name] += sign * value
        if not total[name]:
            del total[name]


def _of(pair: PairHalf, truth: int | None, temperature: float) -> Sums:
    vector = pair.vector()
    sums = Sums(pairs=1, confidence=_fixed(scale_temperature(vector[None], temperature)[0].max()))
    if pair.value is not None:
        sums[f"value:pairs:{pair.value}"] = 1
    if truth is None:
        return sums
    confidence = float(vector[pair.predicted])
    number = min(BINS - 1, int(confidence * BINS))
    correct = int(truth == pair.predicted)
    sums.update(
        {
            "labelled": 1,
            f"cell:{truth}:{pair.predicted}": 1,
            "log_loss": _fixed(-np.log(min(1.0, max(SMALLEST, float(vector[truth]))))),
            "brier": _fixed(float(vector @ vector) - 2 * float(vector[truth]) + 1),
            f"bin:{number}:confidence": _fixed(confidence),
            f"bin:{number}:correct": correct,
            f"bin:{number}:count": 1,
        }
    )
    if pair.value is not None:
        sums.update({f"value:labelled:{pair.value}": 1, f"value:correct:{pair.value}": correct})
    return Sums({name: value for name, value in sums.items() if value})


def _fixed(value: float) -> int:
    return round(float(value) * SCALE)
