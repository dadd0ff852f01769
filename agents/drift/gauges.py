"""The gauges of windows: of the models whose windows are kept here, and of no others."""

from collections.abc import Iterable, Mapping

from agents.drift.partition import ModelWindows
from agents.drift.windows import Stream
from runtime.metrics import DriftMetrics
from schemas.messages import DriftTest

Key = tuple[str, str, str]
"""Model, version, detector."""


class WindowGauges:
    """Shows what is known of a model's windows, also what an owner before found out.

    Args:
        versions: of the models here. Gauges of another version go when its latest test is `max_ages` of its model old:
            it was replaced, and nothing would ever change them.
    """

    def __init__(self, metrics: DriftMetrics, versions: Mapping[str, str], max_ages: Mapping[str, float]) -> None:
        self._metrics = metrics
        self._versions = versions
        self._max_ages = max_ages
        self._shown: dict[Key, DriftTest] = {}
        self._fills: set[tuple[str, str]] = set()

    def show(self, models: Iterable[ModelWindows], now: float) -> None:
        """Show these models and nothing else.

        Args:
            now: seconds since the epoch.
        """
        tests: dict[Key, DriftTest] = {}
        fills: dict[tuple[str, str], int] = {}
        for one in models:
            for stream in sorted(one.streams.values(), key=lambda stream: stream.last_at):
                version = stream.identity.version or ""
                if self._is_current(one.model, stream, now):
                    tests |= {(one.model, version, name): test for name, test in stream.last.items()}
                if stream.fill or version == self._versions.get(one.model):
                    fills[one.model, version] = fills.get((one.model, version), 0) + stream.fill
        self._forget(self._shown.keys() - tests.keys(), self._fills - fills.keys())
        for key, test in tests.items():
            self._show(key, test)
        for labels, fill in fills.items():
            self._metrics.window_fill.labels(*labels).set(fill)
        self._fills = set(fills)

    def _is_current(self, model: str, stream: Stream, now: float) -> bool:
        current = stream.identity.version == self._versions.get(model)
        return current or now < stream.last_at + self._max_ages.get(model, 0.0)

    def _show(self, key: Key, test: DriftTest) -> None:
        if self._shown.get(key) is test:
            return
        metrics = self._metrics
        metrics.detected.labels(*key).set(test.is_drift)
        metrics.threshold.labels(*key).set(test.threshold)
        for feature, (p_value, distance) in enumerate(zip(test.p_values, test.distances, strict=True)):
            metrics.p_value.labels(*key, str(feature)).set(p_value)
            metrics.distance.labels(*key, str(feature)).set(distance)
        self._drop_features(key, len(test.p_values))
        self._shown[key] = test

    def _drop_features(self, key: Key, begin: int) -> None:
        for feature in range(begin, len(self._shown[key].p_values) if key in self._shown else 0):
            self._metrics.p_value.remove(*key, str(feature))
            self._metrics.distance.remove(*key, str(feature))

    def _forget(self, tests: Iterable[Key], fills: Iterable[tuple[str, str]]) -> None:
        for key in tests:
            self._metrics.detected.remove(*key)
            self._metrics.threshold.remove(*key)
            self._drop_features(key, 0)
            del self._shown[key]
        for labels in fills:
            self._metrics.window_fill.remove(*labels)
