"""Charts hold the figures they are made from, in both widths."""

import base64

import numpy as np

from cli.report import charts
from cli.report.drawing import Chart
from cli.report.pictures import score_map_uri
from tests.evidence import evidence, feedback


def drawn(chart: Chart) -> tuple[str, str]:
    return tuple(base64.b64decode(one.split(",", 1)[1]).decode() for one in (chart.wide, chart.narrow))  # type: ignore


def test_counts_have_the_truth_in_rows_and_the_answer_in_columns() -> None:
    phase = feedback(0.4, classes=3, count=100)
    counts = charts.confusion_counts(phase, 3)
    assert counts.sum() == 100 and np.trace(counts) == 40
    assert counts[0, 1] == sum(t == 0 and p == 1 for t, p in zip(phase.truths, phase.predicted, strict=True))


def test_a_heat_map_says_its_counts_and_labels() -> None:
    phase = feedback(0.9)
    counts = charts.confusion_counts(phase, 4)
    for svg in drawn(charts.confusion(phase, evidence().labels)):
        assert all(f">{count}<" in svg for count in counts.diagonal()) and ">ship<" in svg


def test_many_classes_have_a_colour_bar_instead_of_counts() -> None:
    svg, _ = drawn(charts.confusion(feedback(0.9, classes=30), [f"class {number}" for number in range(30)]))
    assert ">images<" in svg


def test_phases_are_named_below_the_p_values() -> None:
    for svg in drawn(charts.p_values(evidence().windows)):
        assert ">clean<" in svg and ">pixelate<" in svg and "untrained_encoder: drift below 0.013" in svg


def test_a_chart_is_drawn_with_texts_that_look_like_formulas() -> None:
    assert ">$x_{$<" in drawn(charts.score_distributions({"$x_{$": [0.1, 0.2]}, 0.15))[0].replace("\n", "")


def test_score_maps_are_dark_where_nothing_is_strange() -> None:
    dark, bright = (score_map_uri(np.full((2, 2), level, np.uint8)) for level in (0, 255))
    assert dark != bright and dark.startswith("data:image/png;base64,")
