"""The figures in the repository's report are those of its artefacts, measured again; the whole is `train report`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from runtime.model_folder import REPORT_FILE, load_model_folder
from training.corruptions import corrupt
from training.model_card import CARD_FILE, RECORD_FILE, render_card
from training.report import drift_figures
from training.report.measure import Report, Subject, classifier_part, false_alarms, identity, load_subject, outlier_part

FOLDER = Path(__file__).resolve().parents[2] / "models" / "cifar10-resnet32"
KEYS = {
    "test_accuracy",
    "truck_probability",
    "calibration_error_before",
    "calibration_error_after",
    "nominal_false_positive_rate",
    "clean_false_positive_rate",
    "mask_flag_rate",
    "auroc",
    "drift_false_alarm_rate",
    "drift_power",
}
CONTRASTS = ("uniform_noise", "mask_4", "mask_8", "gaussian_noise")
ROUNDING = 0.002
"""Another processor rounds otherwise, which turns a few verdicts of a thousand."""


@pytest.fixture(scope="module")
def committed() -> Report:
    report: Report = json.loads((FOLDER / REPORT_FILE).read_text(encoding="utf-8"))
    return report


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(load_model_folder(FOLDER), Progress(disable=True))


def assert_close(found: Any, committed: Any, path: str = "") -> None:
    """Equal but for rounding, in every figure of nested lists and dicts."""
    if isinstance(found, dict):
        for name, value in found.items():
            assert_close(value, committed[name], f"{path}/{name}")
    elif isinstance(found, list):
        for index, (value, other) in enumerate(zip(found, committed, strict=True)):
            assert_close(value, other, f"{path}/{index}")
    elif isinstance(found, float):
        assert found == pytest.approx(committed, abs=ROUNDING), path
    else:
        assert found == committed, path


def test_the_report_has_every_figure_and_the_card_says_the_same(committed: Report) -> None:
    assert committed.keys() >= KEYS
    assert set(committed["mask_flag_rate"]) == {str(size) for size in range(2, 21, 2)}
    assert {"uniform_noise", "fashion_mnist", "pixelate"} < set(committed["auroc"])
    record = (FOLDER / RECORD_FILE).read_text(encoding="utf-8")
    assert (FOLDER / CARD_FILE).read_text(encoding="utf-8") == render_card(committed, record)


def test_it_is_of_these_files(subject: Subject, committed: Report) -> None:
    found = identity(subject)
    assert found == {name: committed[name] for name in found}


def test_the_classifiers_figures_are_measured_again(subject: Subject, committed: Report) -> None:
    assert_close(classifier_part(subject), committed)


def test_the_outlier_detectors_figures_are_measured_again(subject: Subject, committed: Report) -> None:
    assert_close(outlier_part(subject, fashion_mnist=False, names=CONTRASTS), committed)


def test_the_truck_passes_under_small_masks_and_is_flagged_under_large_ones(committed: Report) -> None:
    masks = {mask["size"]: mask for mask in committed["truck_masks"]}
    scores = [mask["score"] for mask in masks.values()]
    assert scores == sorted(scores)
    assert not masks[2]["is_outlier"]
    assert all(masks[size]["is_outlier"] for size in range(12, 21, 2))


@pytest.mark.slow
def test_the_drift_detectors_figures_are_measured_again(subject: Subject, committed: Report) -> None:
    size = subject.folder.spec.window.window_size
    clean, _ = subject.features("", subject.images)
    found = false_alarms(subject, clean, size)
    assert_close(found, committed)
    corrupted, _ = subject.features("", corrupt(subject.images, "gaussian_noise", 1, seed=0))
    for name, detector in subject.drift.items():
        rate = drift_figures.detection_rate(detector, clean[name], corrupted[name], size, "gaussian_noise 1")
        assert rate == pytest.approx(committed["drift_power"][name]["gaussian_noise"]["1"], abs=0.021)


def test_windows_are_drawn_by_name_without_repeats() -> None:
    first, second = (np.array(list(drift_figures.windows(500, 100, 5, name))) for name in ("clean", "other"))
    assert np.array_equal(first, np.array(list(drift_figures.windows(500, 100, 5, "clean"))))
    assert not np.array_equal(first, second)
    assert all(len(set(window.tolist())) == 100 for window in first)
