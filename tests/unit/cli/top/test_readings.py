"""Rates, totals and quantiles follow from two readings, across processes and restarts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cli.top.readings import Readings, Samples, Scrape, interpolate
from cli.top.scrape import parse


def scrape(samples: Samples | None, at: float, name: str = "worker-0") -> Scrape:
    return Scrape(name, "http://x", at, samples, samples is not None)


def counts(name: str, **values: float) -> Samples:
    return {name: [({"model": "m", "outcome": outcome}, value) for outcome, value in values.items()]}


def readings(before: Samples | None, after: Samples | None, seconds: float = 2.0) -> Readings:
    return Readings({"worker-0": scrape(after, 10.0 + seconds)}, {"worker-0": scrape(before, 10.0)})


def test_a_rate_is_growth_by_seconds_over_all_children() -> None:
    both = readings(counts("c", ok=10, refused=1), counts("c", ok=30, refused=2, expired=3))
    assert both.rate("c") == pytest.approx((20 + 1 + 3) / 2)
    assert both.rate("c", outcome="ok") == 10.0
    assert both.total("c") == 35 and both.by_label("c", "outcome") == {"ok": 30, "expired": 3, "refused": 2}


def test_a_restart_counts_from_zero_and_is_never_negative() -> None:
    assert readings(counts("c", ok=1000), counts("c", ok=6)).rate("c") == 3.0


def test_processes_add_up_and_one_that_is_down_adds_nothing() -> None:
    before = {name: scrape(counts("c", ok=0), 0.0, name) for name in ("a", "b", "c")}
    after = {name: scrape(counts("c", ok=8), 4.0, name) for name in ("a", "b")} | {"c": scrape(None, 4.0, "c")}
    both = Readings(after, before)
    assert both.rate("c") == 4.0 and both.total("c") == 16


def test_there_is_no_rate_before_a_second_reading() -> None:
    assert Readings({"a": scrape(counts("c", ok=1), 1.0)}).rate("c") is None
    assert readings(None, counts("c", ok=1)).rate("c") is None


def test_models_are_those_that_our_metrics_name() -> None:
    samples = {"modelwatch_x": [({"model": "b"}, 1.0), ({"model": ""}, 1.0)], "other": [({"model": "c"}, 1.0)]}
    assert readings(None, samples).models() == ["b"]


def test_a_gauge_nobody_shows_is_not_zero() -> None:
    assert readings(None, {}).figure("g") is None
    assert readings(None, {"g": [({}, float("nan"))]}).figure("g") is None


@given(st.lists(st.floats(0.0001, 20), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    registry = CollectorRegistry()
    bounds = (0.001, 0.01, 0.1, 1.0, 10.0)
    histogram = Histogram("h", "seconds", buckets=bounds, registry=registry)
    for value in values:
        histogram.observe(value)
    samples = {f"modelwatch_{name}": rows for name, rows in _all(registry).items()}
    quantile = readings(None, samples).quantile("modelwatch_h", share)
    assert quantile is not None and not quantile.recent
    true = np.quantile(values, share, method="inverted_cdf")
    edges = [0.0, *bounds]
    lower = max(edge for edge in edges if edge < true)
    upper = min((edge for edge in edges if edge >= true), default=10.0)
    assert min(lower, 10.0) <= quantile.value <= upper + 1e-9


def test_a_quantile_is_of_the_latest_observations_if_there_are_any() -> None:
    def buckets(low: float, high: float) -> Samples:
        return {"h_bucket": [({"le": "1.0"}, low), ({"le": "2.0"}, low + high), ({"le": "+Inf"}, low + high)]}

    recent = readings(buckets(100, 0), buckets(100, 10)).quantile("h", 0.5)
    assert recent is not None and recent.recent and recent.value == pytest.approx(1.5)
    idle = readings(buckets(100, 0), buckets(100, 0)).quantile("h", 0.5)
    assert idle is not None and not idle.recent and idle.value == pytest.approx(0.5)
    restarted = readings(buckets(100, 0), buckets(0, 4)).quantile("h", 0.5)
    assert restarted is not None and restarted.recent and restarted.value == pytest.approx(1.5)


def test_a_quantile_above_the_last_bound_is_that_bound() -> None:
    assert interpolate({1.0: 1, float("inf"): 10}, 0.99) == 1.0
    assert interpolate({}, 0.5) is None and interpolate({float("inf"): 0}, 0.5) is None


def test_only_our_metrics_and_the_process_are_kept() -> None:
    registry = CollectorRegistry()
    Counter("modelwatch_a", "a", registry=registry).inc(3)
    Gauge("python_info", "b", registry=registry).set(1)
    samples = parse(generate_latest(registry).decode())
    assert samples["modelwatch_a_total"] == [({}, 3.0)] and "python_info" not in samples


def _all(registry: CollectorRegistry) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found
