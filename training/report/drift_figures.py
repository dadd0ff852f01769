"""Figures of the drift detectors: false alarms in windows of clean images, and power against corruptions."""

import zlib
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agents.drift.detectors import DriftDetector
from agents.drift.kolmogorov_smirnov import KolmogorovSmirnov, p_value_threshold
from training.report.statistics import interval_95

Features = NDArray[np.float32]
Correction = Literal["bonferroni", "fdr"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
DRIFT_CORRUPTIONS = ("gaussian_noise", "motion_blur", "brightness", "pixelate")
CLEAN_WINDOWS = 200
CORRUPTED_WINDOWS = 50
MIXED_SEVERITY = 5
MIXED_PERCENT = (10, 20, 50)


def windows(pool: int, size: int, count: int, name: str) -> Iterator[NDArray[np.int64]]:
    """Indices of `count` windows of `size` different images each, out of `pool`. The name gives the draw."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for _ in range(count):
        yield rng.choice(pool, size, replace=False)


def false_alarm_figures(detector: DriftDetector, clean: Features, size: int) -> dict[str, Any]:
    """Share of windows of clean images, none of them in the reference, that are called drift.

    Args:
        clean: (pool, d), features that windows are drawn from.
    """
    drawn = [clean[chosen] for chosen in windows(len(clean), size, CLEAN_WINDOWS, "clean")]
    tests = [detector.test(window) for window in drawn]
    alarms = sum(test.is_drift for test in tests)
    p_values = [np.asarray(test.p_values) for test in tests]
    return {
        "rate": round(alarms / CLEAN_WINDOWS, 4),
        "interval": interval_95(alarms, CLEAN_WINDOWS),
        "by_correction": {
            correction: _share_of_drift(p_values, detector.p_value, correction) for correction in CORRECTIONS
        },
    }


def resplit_false_alarm_rate(detector: DriftDetector, clean: Features, reference: Features, size: int) -> float:
    """The false alarm rate when reference and windows are drawn anew from all clean images each time.

    Windows from one pool against one reference all share the chance difference between the two; this rate does not.
    """
    everything, count = np.concatenate([clean, reference]), len(reference)
    p_values = []
    for order in windows(len(everything), count + size, CLEAN_WINDOWS, "resplit"):
        tests = KolmogorovSmirnov(everything[order[:count]]).test(everything[order[count:]])
        p_values.append(tests.p_values)
    return _share_of_drift(p_values, detector.p_value, detector.correction)


def detection_rate(
    detector: DriftDetector, clean: Features, corrupted: Features, size: int, name: str, percent: int = 100
) -> float:
    """Share of windows called drift of which `percent` of the images are corrupted.

    Args:
        clean, corrupted: (pool, d), features of the same images before and after.
        name: of the corruption and severity, gives the draw.
    """
    alarms = 0
    for chosen in windows(len(clean), size, CORRUPTED_WINDOWS, f"{name}-{percent}"):
        changed = size * percent // 100
        window = np.concatenate([corrupted[chosen[:changed]], clean[chosen[changed:]]])
        alarms += detector.test(window).is_drift
    return round(alarms / CORRUPTED_WINDOWS, 4)


def _share_of_drift(p_values: list[NDArray[np.float64]], p_value: float, correction: Correction) -> float:
    flags = [(p < p_value_threshold(p, p_value, correction)).any() for p in p_values]
    return round(float(np.mean(flags)), 4)
