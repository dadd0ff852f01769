"""The demo's checks of detectors hold at the thresholds of the model, and fail, by name, at others."""

import io
from typing import Any, cast

import pytest
from rich.console import Console

from cli.demo.monitoring import MASKS, Monitoring
from cli.demo.records import Records
from cli.demo.verdict import Verdict
from cli.report.evidence import CLEAN, DriftWindow
from cli.stack import Stack
from runtime.settings import Settings, read_settings
from tests.evidence import window

SCORES = (0.0034, 0.0048, 0.0066, 0.0095, 0.0145, 0.0218, 0.0289, 0.0374, 0.0432, 0.0513)
"""Of the truck behind the ten masks, as a run has given them."""
RISE, FLAGS = "the masked truck's scores rise", "small masks pass, large ones are flagged"


@pytest.fixture
def monitoring() -> Monitoring:
    settings = read_settings(Settings)
    stack = Stack(settings, cast(Any, None), {}, {})
    return Monitoring(stack, Verdict(), Console(file=io.StringIO()), Records(settings))


def failed(monitoring: Monitoring) -> list[str]:
    return [check["name"] for check in monitoring.verdict.checks if not check["ok"]]


def judged(scores: tuple[float, ...], threshold: float) -> list[dict[str, Any]]:
    assert len(scores) == len(MASKS)
    return [{"outlier": {"score": score, "is_outlier": score > threshold}} for score in scores]


def test_the_models_threshold_lets_small_masks_pass_and_flags_large_ones(monitoring: Monitoring) -> None:
    assert monitoring.spec.outliers is not None
    monitoring.check_masks(judged(SCORES, monitoring.spec.outliers.threshold))
    assert failed(monitoring) == [] and len(monitoring.verdict.checks) == 2


@pytest.mark.parametrize("threshold", [0.0, 0.04, 1.0])
def test_another_threshold_fails_by_name(monitoring: Monitoring, threshold: float) -> None:
    monitoring.check_masks(judged(SCORES, threshold))
    assert failed(monitoring) == [FLAGS]


def test_scores_that_do_not_rise_fail_by_name(monitoring: Monitoring) -> None:
    monitoring.check_masks(judged((*SCORES[:-1], 0.001), 0.005))
    assert failed(monitoring) == [RISE, FLAGS]


@pytest.mark.parametrize(("share", "holds"), [(0.0, True), (0.023, True), (0.06, False), (1.0, False)])
def test_clean_images_are_flagged_about_as_often_as_was_set(monitoring: Monitoring, share: float, holds: bool) -> None:
    monitoring.check_rate([number < share * 1000 for number in range(1000)])
    assert failed(monitoring) == ([] if holds else ["clean images are flagged about as often as was set"])


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (window(CLEAN, (0.5, 0.6)), True),
        (window(CLEAN, (0.5, 1e-9)), False),
        (window("pixelate", (0.5, 1e-9)), True),
        (window("pixelate", (0.5, 0.6)), False),
    ],
)
def test_a_window_must_drift_if_and_only_if_it_was_corrupted(
    monitoring: Monitoring, found: DriftWindow, holds: bool
) -> None:
    monitoring._check_window(found)
    assert failed(monitoring) == ([] if holds else [f"1000 × {found.phase}"])
