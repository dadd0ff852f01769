"""The card says what the report says, and owns up to figures that are worse than the article's."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.model_folder import REPORT_FILE
from training.model_card import FRONT, read_front_matter, render_card

FOLDER = Path(__file__).resolve().parents[3] / "models" / "cifar10-resnet32"


@pytest.fixture
def report() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads((FOLDER / REPORT_FILE).read_text(encoding="utf-8"))
    return copy.deepcopy(measured)


def test_figures_survive_the_page(report: dict[str, Any]) -> None:
    card = render_card(report, "### How\n\nWith care.\n")
    front = read_front_matter(card)
    assert all(front[name] == report[name] for name in FRONT)
    assert front["corrupted_accuracy"]["pixelate"] == report["corrupted"]["pixelate"]["accuracy"]
    assert card.endswith("### How\n\nWith care.\n")
    assert "{" not in card.split("---\n", 2)[2]


def test_a_missed_mask_is_called_worse(report: dict[str, Any]) -> None:
    for mask in report["truck_masks"]:
        mask["is_outlier"] = mask["article_is_outlier"]
    assert "verdicts on the truck's ten masked versions are the article's" in render_card(report, "")
    report["truck_masks"][5]["is_outlier"] = False
    assert "under 12×12 differs. **Worse**" in render_card(report, "")


def test_a_missed_corruption_is_called_worse(report: dict[str, Any]) -> None:
    for power in report["drift_power"].values():
        for by_severity in power.values():
            by_severity["5"] = 1.0
    assert "as in the article" in render_card(report, "")
    report["drift_power"]["probabilities"]["brightness"]["5"] = 0.4
    assert "brightness by `probabilities` (40%)" in render_card(report, "")


def test_a_surer_or_less_sure_truck_is_told_apart(report: dict[str, Any]) -> None:
    report["truck_probability"] = 0.9
    assert "is **worse** than the article's 0.994" in render_card(report, "")
    report["truck_probability"] = 0.999
    assert "is not worse than the article's 0.994" in render_card(report, "")


def test_a_model_without_a_temperature_has_a_card_too(report: dict[str, Any]) -> None:
    del report["temperature"]
    assert "Temperature scaling" not in render_card(report, "")
