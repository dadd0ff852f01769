"""The few statistics that the report needs."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

NORMAL_95 = 1.959964
Scores = NDArray[np.float64]


def interval_95(successes: float, trials: int) -> list[float]:
    """Bounds of a share's 95 % interval (Wilson 1927), rounded to four digits."""
    share, z2 = successes / trials, NORMAL_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    margin = NORMAL_95 * (share * (1 - share) / trials + z2 / (4 * trials**2)) ** 0.5 / (1 + z2 / trials)
    return [round(max(centre - margin, 0.0), 4), round(min(centre + margin, 1.0), 4)]


def auroc(normal: Scores, strange: Scores) -> float:
    """Chance that a strange one scores above a normal one, ties counting half: the area under the ROC curve."""
    ranks = rankdata(np.concatenate([normal, strange]))[len(normal) :]
    surplus = ranks.sum() - len(strange) * (len(strange) + 1) / 2
    return round(float(surplus / (len(normal) * len(strange))), 4)


def share(flags: NDArray[np.bool_]) -> float:
    """Share of true ones, rounded to four digits."""
    return round(float(flags.mean()), 4)
