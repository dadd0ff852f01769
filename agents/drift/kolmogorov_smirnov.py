"""Two-sample Kolmogorov-Smirnov tests of many features against one reference that is sorted once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstwo

Features = NDArray[np.float32]
Correction = Literal["bonferroni", "fdr"]

REPEATED_SHARE = 0.01
"""Of the reference: rounding of a value that is rarer changes no distance by more than this."""


@dataclass(frozen=True)
class FeatureTests:
    """Result for d features: `distances` and `p_values`, each (d,) float64."""

    distances: NDArray[np.float64]
    p_values: NDArray[np.float64]


class KolmogorovSmirnov:
    """Two-sided tests with the asymptotic p-value, feature by feature.

    Distances and p-values are those of `scipy.stats.ks_2samp(method="asymp")`, which alibi-detect's `KSDrift` calls for
    every feature. It sorts the reference and evaluates both distribution functions at each of its points again for
    every window; here both are looked at where the window's function jumps, which is where they are furthest apart.

    Where a reference feature takes one value again and again (a dead unit, a saturated one), its function jumps there,
    and any rounding of that value would lie on one side of the jump: a distance of up to 1. So what is within float32's
    resolution of such a value is taken for it, in the reference as in the window: settled in one of them only, the many
    tiny probabilities about a repeated one would be a distance by themselves. A value that comes twice by chance, as
    some of thousands do, is none of these.

    Args:
        reference: (m, d) float32, finite.

    Raises:
        ValueError: the reference is empty, not two-dimensional, or holds NaN or infinity.
    """

    def __init__(self, reference: Features) -> None:
        columns = np.sort(_checked(reference, "the reference"), axis=0).T
        scale = np.abs(columns).max(axis=1)
        # The scale of a feature that is always 0 is not known: that of its neighbours is the best there is.
        tolerances = np.where(scale > 0, scale, scale.max() or 1.0) * np.finfo(np.float32).eps
        self._jumps = [_Jumps(column, float(one)) for column, one in zip(columns, tolerances, strict=True)]
        self._columns = self._settle(columns)

    @property
    def features(self) -> int:
        """Number of features, d."""
        return len(self._columns)

    def test(self, window: Features) -> FeatureTests:
        """Test a window (n, d) float32.

        Raises:
            ValueError: the window is empty, has another number of features, or holds NaN or infinity.
        """
        columns = np.sort(_checked(window, "the window"), axis=0).T
        if len(columns) != self.features:
            raise ValueError(f"the window has {len(columns)} features and the reference {self.features}")
        distances = self._distances(self._settle(columns))
        m, n = self._columns.shape[1], columns.shape[1]
        p_values = np.clip(kstwo.sf(distances, max(np.round(float(m) * n / (m + n)), 1.0)), 0, 1)
        return FeatureTests(distances, p_values)

    def _settle(self, columns: Features) -> Features:
        """Rows (d, n), each sorted and without rounding where the reference's function jumps."""
        return np.array([jumps.settle(column) for jumps, column in zip(self._jumps, columns, strict=True)])

    def _distances(self, window: Features) -> NDArray[np.float64]:
        """Largest differences of the distribution functions, with the roundings of scipy's own subtraction.

        Args:
            window: (d, n), each row sorted.
        """
        m, n = self._columns.shape[1], window.shape[1]
        rows = list(zip(self._columns, window, strict=True))
        below = np.array([reference.searchsorted(values, "left") for reference, values in rows])
        up_to = np.array([reference.searchsorted(values, "right") for reference, values in rows])
        own_below, own_up_to = _ranks(window)
        before, after = below / m - own_below / n, up_to / m - own_up_to / n
        distances: NDArray[np.float64] = np.maximum(before.max(axis=1), -after.min(axis=1)).clip(min=0.0)
        return distances


class _Jumps:
    """The values that a reference feature (m,) takes again and again, or always."""

    def __init__(self, column: NDArray[np.float32], tolerance: float) -> None:
        values, counts = np.unique(column, return_counts=True)
        least = max(2.0, REPEATED_SHARE * len(column))
        self._values = values[counts >= min(least, len(column))]
        self._tolerance = tolerance

    def settle(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sorted values (n,), those that are one of these but for rounding replaced by it."""
        if not len(self._values):
            return values
        place = self._values.searchsorted(values).clip(1, max(len(self._values) - 1, 1))
        below, above = self._values[place - 1], self._values[place.clip(max=len(self._values) - 1)]
        nearest = np.where(values - below <= above - values, below, above)
        settled: NDArray[np.float32] = np.where(np.abs(values - nearest) <= self._tolerance, nearest, values)
        return settled


def _ranks(rows: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each value of sorted rows (d, n), how many of its row are below it, and how many are not above it."""
    count = rows.shape[1]
    place = np.arange(count)
    steps = np.diff(rows, axis=1) != 0
    first = np.pad(steps, ((0, 0), (1, 0)), constant_values=True)
    last = np.pad(steps, ((0, 0), (0, 1)), constant_values=True)
    below = np.maximum.accumulate(np.where(first, place, 0), axis=1)
    up_to = np.minimum.accumulate(np.where(last, place + 1, count)[:, ::-1], axis=1)[:, ::-1]
    return below, up_to


def p_value_threshold(p_values: NDArray[np.float64], p_value: float, correction: Correction) -> float:
    """The p-value under which a feature drifts, so that a window without drift is called one with chance `p_value`.

    Args:
        p_values: (d,), of the window's features.
        p_value: chance of a false alarm (Bonferroni), or share of false alarms among features found (FDR).
        correction: `bonferroni` divides by d; `fdr` is the step-up procedure of Benjamini and Hochberg 1995, the
            largest `p_value * i / d` that the i-th smallest p-value is under, or `p_value / d` if there is none.
    """
    count = len(p_values)
    if correction == "bonferroni":
        return p_value / count
    steps = p_value * np.arange(1, count + 1) / count
    under = np.flatnonzero(np.sort(p_values) < steps)
    return float(steps[under[-1] if len(under) else 0])


def _checked(values: Features, name: str) -> Features:
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite and (n, d) with n and d above 0; got {values.shape} {values.dtype}")
    return values
