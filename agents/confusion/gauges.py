"""Figures as Prometheus gauges; an undefined figure is taken away, not shown as 0 or NaN."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agents.confusion.fold import Group
from agents.confusion.sums import DENSE_CLASSES
from runtime.metrics import ConfusionMetrics

MAX_CELL_CLASSES = 50
"""A model with more has no gauge a cell of its confusion matrix, and one with more than `DENSE_CLASSES` none a class:
reports have them, and the averages are of all classes."""
COUNTS = ("true_positives", "true_negatives", "false_positives", "false_negatives")
RATES = ("precision", "recall", "specificity", "f1")
BY_VALUE = ("size", "labelled", "accuracy", "rmse", "mae")
LATEST = ("estimated_accuracy", "label_coverage")
OVERALL = ("accuracy", "log_loss", "brier", "calibration_error", "kl_divergence", "rmse", "mae", "labelled", *LATEST)
Series = tuple[str, tuple[str, ...]]
"""Name of a gauge, and its labels."""


class PerformanceGauges:
    """Shows the figures of the models that this instance owns."""

    def __init__(self, metrics: ConfusionMetrics) -> None:
        self._metrics = metrics
        self._shown: dict[Group, dict[str, set[Series]]] = defaultdict(dict)

    def clear(self) -> None:
        """Show nothing: the models may be another's now."""
        for group in list(self._shown):
            self.remove(group)

    def remove(self, group: Group, window: str | None = None) -> None:
        """Show nothing of a model version, or nothing of it under `window`, any more."""
        for name in [window] if window else list(self._shown.get(group, ())):
            self._set(group, name, {})

    def show(
        self, group: Group, window: str, figures: Mapping[str, Any], classes: Sequence[str], values: Sequence[str] = ()
    ) -> None:
        """Show a model version's figures under `window`, `rolling` or `lifetime`.

        Args:
            classes: none for a regression model.
            values: of the attribute that the model is broken down by, all that there may be.
        """
        key = (*group, window)
        found: dict[Series, Any] = {(name, key): figures.get(name) for name in OVERALL}
        for value in values:
            one = figures["by_value"].get(value)
            found |= {(f"value_{name}", (*key, value)): getattr(one, name, None) for name in BY_VALUE}
        found.update(_by_class(key, figures, classes))
        self._set(group, window, found)

    def show_latest(self, group: Group, figures: Mapping[str, Any]) -> None:
        """Show what can be said of the newest pairs, labelled or not."""
        self._set(group, "latest", {(name, (*group, "latest")): figures.get(name) for name in LATEST})

    def _set(self, group: Group, window: str, found: Mapping[Series, float | None]) -> None:
        """Set what is defined, and take away what else was shown."""
        gauges, before = self._metrics.performance, self._shown[group].get(window, set())
        now = {series: value for series, value in found.items() if value is not None}
        for name, labels in before - now.keys():
            gauges[name].remove(*labels)
        for (name, labels), value in now.items():
            gauges[name].labels(*labels).set(value)
        self._shown[group][window] = set(now)
        if not any(self._shown[group].values()):
            del self._shown[group]


def _by_class(
    key: tuple[str, str, str], figures: Mapping[str, Any], classes: Sequence[str]
) -> Iterator[tuple[Series, float | None]]:
    if not classes:
        return
    for average in ("macro", "micro"):
        for name in RATES:
            yield (f"average_{name}", (*key, average)), getattr(figures[average], name, None)
    if len(classes) > DENSE_CLASSES:
        return
    for label, one in figures["by_class"].items():
        for name in (*COUNTS, *RATES):
            yield (name, (*key, label)), getattr(one, name)
    if len(classes) > MAX_CELL_CLASSES:
        return
    for truth, row in zip(classes, figures["confusion"], strict=True):
        for predicted, count in zip(classes, row, strict=True):
            yield ("confusion", (*key, truth, predicted)), count or None
