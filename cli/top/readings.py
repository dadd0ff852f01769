"""Metrics read twice, and what follows from both: rates, quantiles and totals over all processes. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Labels = Mapping[str, str]
Samples = Mapping[str, Sequence[tuple[Labels, float]]]
"""Labels and value of each sample, by its name."""
UNKNOWN = "unknown"
"""Label `model` of what names no model that is here."""


@dataclass(frozen=True)
class Scrape:
    """One process at one moment.

    Attributes:
        at: seconds, of any clock that only goes forward.
        samples: None if it did not answer.
        note: why it is not ready, or does not answer.
    """

    name: str
    url: str
    at: float
    samples: Samples | None = None
    ready: bool = False
    note: str = ""


@dataclass(frozen=True)
class Quantile:
    """A quantile of a histogram.

    Attributes:
        recent: of the observations between the two readings; else, of all since the start.
    """

    value: float
    recent: bool


@dataclass(frozen=True)
class Readings:
    """The latest reading of each process, and the one before, by name."""

    after: Mapping[str, Scrape]
    before: Mapping[str, Scrape] = field(default_factory=dict)

    def models(self) -> list[str]:
        """Every model that some metric of ours names, `UNKNOWN` left out."""
        return sorted(
            {
                labels["model"]
                for scrape in self.after.values()
                for name, samples in (scrape.samples or {}).items()
                if name.startswith("modelwatch_")
                for labels, _ in samples
                if labels.get("model", UNKNOWN) not in ("", UNKNOWN)
            }
        )

    def samples(self, name: str, **wanted: str) -> list[tuple[Labels, float]]:
        """Those called `name` that have these labels, of all processes."""
        return [one for scrape in self.after.values() for one in _matching(scrape, name, wanted)]

    def total(self, name: str, **wanted: str) -> float:
        """Their sum."""
        return sum(value for _, value in self.samples(name, **wanted) if not math.isnan(value))

    def figure(self, name: str, **wanted: str) -> float | None:
        """The value of a gauge that one process at most shows; None if none does."""
        values = [value for _, value in self.samples(name, **wanted) if not math.isnan(value)]
        return max(values) if values else None

    def by_label(self, name: str, label: str, **wanted: str) -> dict[str, float]:
        """Sums by the values of `label`, the highest first."""
        sums: dict[str, float] = {}
        for labels, value in self.samples(name, **wanted):
            sums[labels.get(label, "")] = sums.get(labels.get(label, ""), 0.0) + value
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def rate(self, name: str, **wanted: str) -> float | None:
        """Growth of counters, a second; None before there are two readings. A restart counts from 0."""
        rates = [
            _growth(self.before[scrape.name], scrape, name, wanted) / (scrape.at - self.before[scrape.name].at)
            for scrape in self.after.values()
            if self._is_comparable(scrape)
        ]
        return sum(rates) if rates else None

    def mean(self, name: str, **wanted: str) -> float | None:
        """Mean of a histogram's observations since the start; None without any."""
        count = self.total(f"{name}_count", **wanted)
        return self.total(f"{name}_sum", **wanted) / count if count else None

    def quantile(self, name: str, share: float, **wanted: str) -> Quantile | None:
        """Of a histogram, by linear interpolation within its bucket, as Prometheus does; None without observations."""
        recent: dict[float, float] = {}
        ever: dict[float, float] = {}
        for scrape in self.after.values():
            counts = _buckets(scrape, name, wanted)
            _add(ever, counts)
            if self._is_comparable(scrape):
                earlier = _buckets(self.before[scrape.name], name, wanted)
                restarted = any(count < earlier.get(bound, 0.0) for bound, count in counts.items())
                _add(recent, {b: count - (0.0 if restarted else earlier.get(b, 0.0)) for b, count in counts.items()})
        value = interpolate(recent, share)
        if value is not None:
            return Quantile(value, True)
        value = interpolate(ever, share)
        return None if value is None else Quantile(value, False)

    def _is_comparable(self, scrape: Scrape) -> bool:
        before = self.before.get(scrape.name)
        return (
            scrape.samples is not None and before is not None and before.samples is not None and scrape.at > before.at
        )


def interpolate(buckets: Mapping[float, float], share: float) -> float | None:
    """The quantile of cumulative counts by upper bound; in the last, open bucket its lower bound; None if empty.

    Source: `histogram_quantile` of Prometheus.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower


def _matching(scrape: Scrape, name: str, wanted: Labels) -> list[tuple[Labels, float]]:
    return [one for one in (scrape.samples or {}).get(name, ()) if wanted.items() <= one[0].items()]


def _growth(before: Scrape, after: Scrape, name: str, wanted: Labels) -> float:
    earlier = {tuple(sorted(labels.items())): value for labels, value in _matching(before, name, wanted)}
    growth = 0.0
    for labels, value in _matching(after, name, wanted):
        was = earlier.get(tuple(sorted(labels.items())), 0.0)
        growth += value - was if value >= was else value
    return growth


def _buckets(scrape: Scrape, name: str, wanted: Labels) -> dict[float, float]:
    """Cumulative counts by upper bound, over all children that match."""
    counts: dict[float, float] = {}
    for labels, value in _matching(scrape, f"{name}_bucket", wanted):
        bound = float(labels["le"])
        counts[bound] = counts.get(bound, 0.0) + value
    return counts


def _add(total: dict[float, float], counts: Mapping[float, float]) -> None:
    for bound, count in counts.items():
        total[bound] = total.get(bound, 0.0) + count
