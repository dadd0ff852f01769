"""All metrics that the processes have, read from their registries: what dashboards and rules may ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from runtime.metrics import (
    AgentMetrics,
    CommonMetrics,
    ConfusionMetrics,
    DriftMetrics,
    ExplanationsMetrics,
    OutliersMetrics,
    WorkerMetrics,
)

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}
"""What Prometheus adds to a metric's name, by its type; the first is what one writes of it."""
QUOTED = re.compile(r"\"[^\"]*\"")
NAME = re.compile(r"[a-zA-Z_][\w:]*")


@dataclass(frozen=True, slots=True)
class MetricFact:
    """One metric.

    Attributes:
        name: without the suffix of its type.
        kind: counter, gauge, histogram or info.
        labels: that we give it; Prometheus adds `job` and `instance`.
        shown_by: services that have it.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    shown_by: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """Names in queries."""
        return tuple(f"{self.name}{suffix}" for suffix in SUFFIXES[self.kind])


def metric_facts() -> list[MetricFact]:
    """Every metric of ours, by name; `process_*` and `python_*` come with the client library."""
    found: dict[str, MetricFact] = {}
    services: dict[str, list[str]] = {}
    for service, metrics in _processes():
        for wrapper in _wrappers(metrics):
            [family] = wrapper.describe()
            services.setdefault(family.name, []).append(service)
            labels = tuple(wrapper._labelnames)
            found[family.name] = MetricFact(family.name, family.type, labels, family.documentation, ())
    return [
        MetricFact(one.name, one.kind, one.labels, one.text, tuple(services[name]))
        for name, one in sorted(found.items())
    ]


def names_in(expression: str) -> set[str]:
    """The names of our metrics, of recorded series and of process metrics in a PromQL expression."""
    words = set(NAME.findall(QUOTED.sub('""', expression)))
    return {word for word in words if "modelwatch_" in word or word.startswith(("process_", "python_"))}


def _processes() -> Iterator[tuple[str, CommonMetrics]]:
    yield "worker", WorkerMetrics(CollectorRegistry())
    yield "outliers", OutliersMetrics(CollectorRegistry(), [1.0])
    agents: dict[str, type[DriftMetrics] | type[ConfusionMetrics] | type[ExplanationsMetrics]] = {
        "drift": DriftMetrics,
        "confusion": ConfusionMetrics,
        "explanations": ExplanationsMetrics,
    }
    for name, cls in agents.items():
        metrics: AgentMetrics = cls(CollectorRegistry())
        yield name, metrics


def _wrappers(metrics: CommonMetrics) -> Iterator[MetricWrapperBase]:
    """The metrics that the registry holds, each once."""
    collectors = metrics.registry._collector_to_names
    yield from (one for one in collectors if isinstance(one, MetricWrapperBase))
