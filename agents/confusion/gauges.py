"""Figures as Prometheus gauges; an undefined figure is taken away, not shown as 0 or NaN."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Gauge

from agents.confusion.fold import Group
from runtime.metrics import ConfusionMetrics

MAX_CLASSES = 50
"""A model with more has no gauge a cell of its confusion matrix; the reports have all of them."""
COUNTS = ("true_positives", "true_negatives", "false_positives", "false_negatives")
RATES = ("precision", "recall", "specificity", "f1")
BY_VALUE = ("size", "labelled", "accuracy", "rmse", "mae")
LATEST = ("estimated_accuracy", "label_coverage")
OVERALL = ("accuracy", "log_loss", "brier", "calibration_error", "kl_divergence", "rmse", "mae", "labelled", *LATEST)


class PerformanceGauges:
    """Shows the figures of the models that this instance owns."""

    def __init__(self, metrics: ConfusionMetrics) -> None:
        self._metrics = metrics

    def clear(self) -> None:
        """Show nothing: the models may be another's now."""
        for gauge in self._metrics.performance.values():
            gauge.clear()

    def show(
        self, group: Group, window: str, figures: Mapping[str, Any], classes: Sequence[str], values: Sequence[str] = ()
    ) -> None:
        """Show a model version's figures under `window`, `rolling` or `lifetime`.

        Args:
            classes: none for a regression model.
            values: of the attribute that the model is broken down by, all that there may be.
        """
        gauges, key = self._metrics.performance, (*group, window)
        for name in OVERALL:
            _set(gauges[name], key, figures.get(name))
        for value in values:
            one = figures["by_value"].get(value)
            for name in BY_VALUE:
                _set(gauges[f"value_{name}"], (*key, value), getattr(one, name, None))
        if classes:
            self._show_classes(key, figures, classes)

    def show_latest(self, group: Group, figures: Mapping[str, Any]) -> None:
        """Show what can be said of the newest pairs, labelled or not."""
        for name in LATEST:
            _set(self._metrics.performance[name], (*group, "latest"), figures.get(name))

    def _show_classes(self, key: tuple[str, str, str], figures: Mapping[str, Any], classes: Sequence[str]) -> None:
        gauges = self._metrics.performance
        for label in classes:
            one = figures["by_class"].get(label)
            for name in (*COUNTS, *RATES):
                _set(gauges[name], (*key, label), getattr(one, name, None))
        for average in ("macro", "micro"):
            for name in RATES:
                _set(gauges[f"average_{name}"], (*key, average), getattr(figures[average], name, None))
        if len(classes) <= MAX_CLASSES:
            for truth, row in zip(classes, figures["confusion"], strict=True):
                for predicted, count in zip(classes, row, strict=True):
                    _set(gauges["confusion"], (*key, truth, predicted), count or None)


def _set(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        gauge.labels(*labels).set(value)
        return
    with contextlib.suppress(KeyError):
        gauge.remove(*labels)
