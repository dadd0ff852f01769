"""Tests of many features at once give scipy's and alibi-detect's distances, p-values and verdicts, in less time."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from agents.drift.kolmogorov_smirnov import KolmogorovSmirnov, p_value_threshold

Features = NDArray[np.float32]
VALUES = st.floats(-3, 3, width=32) | st.sampled_from([0.0, -0.0, 1.0])


def by_scipy(reference: Features, window: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    results = [ks_2samp(r, w, method="asymp") for r, w in zip(reference.T, window.T, strict=True)]
    return np.array([r.statistic for r in results]), np.array([r.pvalue for r in results])


def normal(rows: int, shift: float = 0, seed: int = 0, columns: int = 32) -> Features:
    return np.random.default_rng(seed).normal(shift, 1, (rows, columns)).astype(np.float32)


def pairs_of_samples(features: int) -> st.SearchStrategy[tuple[Features, Features]]:
    rows = [st.tuples(st.integers(smallest, 30), st.just(features)) for smallest in (2, 1)]
    return st.tuples(*(arrays(np.float32, shape, elements=VALUES) for shape in rows))


def without_rounding(reference: Features, sample: Features) -> Features:
    """A sample with what differs from a repeated value of the reference by rounding only set to it, one by one."""
    settled, scales = sample.copy(), np.abs(reference).max(axis=0)
    for feature, (column, scale) in enumerate(zip(reference.T, scales, strict=True)):
        values, counts = np.unique(column, return_counts=True)
        jumps = values[counts > 1] if len(column) > 1 else values
        for row, value in enumerate(sample[:, feature]):
            gaps = np.abs(jumps - value)
            if len(jumps) and gaps.min() <= (scale or scales.max() or 1.0) * np.finfo(np.float32).eps:
                settled[row, feature] = jumps[gaps.argmin()]
    return settled


@given(st.integers(1, 3).flatmap(pairs_of_samples))
def test_distances_and_p_values_are_scipys_ties_included(samples: tuple[Features, Features]) -> None:
    reference, window = samples
    found = KolmogorovSmirnov(reference).test(window)
    distances, p_values = by_scipy(without_rounding(reference, reference), without_rounding(reference, window))
    assert np.array_equal(found.distances, distances)
    assert np.allclose(found.p_values, p_values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0, 0.1, 2, 50])
def test_a_window_of_a_thousand_is_scipys_to_the_bit(shift: float) -> None:
    reference, window = normal(5000), normal(1000, shift, seed=1).round(2)
    found = KolmogorovSmirnov(reference.round(2)).test(window)
    distances, p_values = by_scipy(reference.round(2), window)
    assert np.array_equal(found.distances, distances)
    assert np.allclose(found.p_values, p_values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 1.0, -250.0, 1e-6])
def test_rounding_of_a_constant_feature_is_no_drift_and_a_change_of_it_is(constant: float) -> None:
    reference = np.full((200, 2), constant, np.float32)
    reference[:, 1] = normal(200)[:, 0]
    window = reference[:100].copy()
    window[:, 0] = 1e-9 if constant == 0 else np.nextafter(np.float32(constant), np.float32(9))
    assert KolmogorovSmirnov(reference).test(window).distances.tolist() == [0.0, pytest.approx(0, abs=0.3)]
    window[:, 0] = constant + max(abs(constant), 1) * 1e-3
    assert KolmogorovSmirnov(reference).test(window).distances[0] == 1


def test_a_reference_of_nothing_but_zeros_calls_no_rounding_drift() -> None:
    tests = KolmogorovSmirnov(np.zeros((100, 1), np.float32))
    assert tests.test(np.full((50, 1), 1e-9, np.float32)).p_values.tolist() == [1.0]
    assert tests.test(np.full((50, 1), 1e-3, np.float32)).distances.tolist() == [1.0]


def test_rounding_of_a_unit_that_is_dead_most_of_the_time_is_no_drift() -> None:
    reference = np.maximum(normal(2000), 0)
    window = np.maximum(normal(500, seed=1), 0)
    noisy = np.where(window == 0, np.float32(1e-8), window)
    assert np.array_equal(KolmogorovSmirnov(reference).test(noisy).distances, by_scipy(reference, window)[0])


def confident(rows: int, seed: int) -> Features:
    """Probabilities of a class that is nearly impossible most of the time: from 1e-14 to 1, as a softmax gives them."""
    exponents = np.random.default_rng(seed).uniform(-14, 0, (rows, 1))
    return (10**exponents).astype(np.float32)


@pytest.mark.parametrize("repeated", [2, 60, 2000], ids=["by_chance", "in_part", "mostly"])
def test_tiny_values_about_a_repeated_one_are_no_drift(repeated: int) -> None:
    reference, window = confident(5000, seed=0), confident(1000, seed=1)
    reference[:repeated] = np.float32(3e-9)
    window[: repeated // 5] = np.float32(3e-9)
    found = KolmogorovSmirnov(reference).test(window)
    assert found.distances[0] <= by_scipy(reference, window)[0][0] < 0.05


def test_values_that_come_twice_by_chance_change_nothing() -> None:
    reference, window = confident(5000, seed=0), confident(1000, seed=1)
    reference[1::100] = reference[::100]
    assert np.array_equal(KolmogorovSmirnov(reference).test(window).distances, by_scipy(reference, window)[0])


def test_small_features_beside_large_ones_are_tested_at_their_own_scale() -> None:
    reference = normal(2000, columns=2) * np.float32([1e-9, 1e6])
    window = normal(500, seed=1, columns=2) * np.float32([1e-9, 1e6])
    assert np.array_equal(KolmogorovSmirnov(reference).test(window).distances, by_scipy(reference, window)[0])


def test_the_order_of_the_window_does_not_matter() -> None:
    window, tests = normal(500, seed=1), KolmogorovSmirnov(normal(2000))
    assert np.array_equal(tests.test(window).p_values, tests.test(window[::-1].copy()).p_values)


@pytest.mark.parametrize("correction", ["bonferroni", "fdr"])
@pytest.mark.parametrize(("shift", "drift"), [(0, False), (0.02, None), (0.1, None), (0.5, True)])
def test_verdicts_are_those_of_alibi_detect(correction: Any, shift: float, drift: bool | None) -> None:
    from alibi_detect.cd import KSDrift

    reference, window = normal(5000), normal(1000, shift, seed=1)
    alibi = KSDrift(reference, p_val=0.05, correction=correction).predict(window)["data"]
    found = KolmogorovSmirnov(reference).test(window)
    assert np.array_equal(found.p_values.astype(np.float32), alibi["p_val"])  # it keeps them in float32
    assert np.array_equal(found.distances.astype(np.float32), alibi["distance"])
    verdict = bool((found.p_values < p_value_threshold(found.p_values, 0.05, correction)).any())
    assert verdict == bool(alibi["is_drift"])
    assert drift in (None, verdict)


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)), st.floats(0.001, 0.3))
def test_the_false_discovery_threshold_is_that_of_alibi_detect(p_values: NDArray[np.float64], q: float) -> None:
    from alibi_detect.utils.statstest import fdr

    found, threshold = fdr(p_values, q)
    ours = p_value_threshold(p_values, q, "fdr")
    assert bool((p_values < ours).any()) == bool(found)
    if found:
        assert ours == pytest.approx(float(threshold))


def test_bonferroni_divides_by_the_number_of_features() -> None:
    assert p_value_threshold(np.ones(32), 0.05, "bonferroni") == pytest.approx(0.05 / 32)


def test_a_window_takes_less_than_a_third_of_alibi_detects_time() -> None:
    from alibi_detect.cd import KSDrift

    reference, window = normal(5000), normal(1000, seed=1)
    ours, theirs = KolmogorovSmirnov(reference), KSDrift(reference, p_val=0.05)
    assert fastest(lambda: theirs.predict(window)) > 3 * fastest(lambda: ours.test(window))


def fastest(function: Callable[[], object], times: int = 15) -> float:
    """Seconds of this thread's own work, which other processes do not lengthen."""
    seconds = []
    for _ in range(times):
        began = time.thread_time()
        function()
        seconds.append(time.thread_time() - began)
    return min(seconds)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (np.empty((0, 32), np.float32), "finite"),
        (np.full((5, 32), np.nan, np.float32), "finite"),
        (np.zeros((5, 31), np.float32), "31 features and the reference 32"),
        (np.zeros(32, np.float32), r"\(n, d\)"),
    ],
)
def test_a_window_that_cannot_be_tested_is_refused(window: Features, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KolmogorovSmirnov(normal(100)).test(window)
