"""Laws of the metrics registry: observing many at once is observing each, and names are what DESIGN says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from runtime.metrics import (
    BATCH_BUCKETS,
    LATENCY_BUCKETS,
    DriftMetrics,
    ExplanationsMetrics,
    OutliersMetrics,
    WorkerMetrics,
    buckets_about,
    observe_many,
)

VALUES = st.lists(
    st.one_of(
        st.floats(-1, 100, allow_nan=False),
        st.sampled_from(LATENCY_BUCKETS),
        st.sampled_from([math.inf, -0.0, 1e-300, math.nextafter(0.25, 0), math.nextafter(0.25, 1)]),
    ),
    max_size=200,
)


def histogram() -> tuple[CollectorRegistry, Histogram]:
    registry = CollectorRegistry()
    found = Histogram("law", "A law", ["model"], buckets=LATENCY_BUCKETS, registry=registry)
    return registry, found.labels("one")


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_observing_many_at_once_equals_observing_each(batches: list[list[float]]) -> None:
    one_by_one, single = histogram()
    at_once, many = histogram()
    for values in batches:
        for value in values:
            single.observe(value)
        observe_many(many, values)
    expected, found = samples(one_by_one), samples(at_once)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # The order of a sum's terms changes its last digits, nothing else.
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key


def test_observing_nothing_changes_nothing() -> None:
    registry, many = histogram()
    observe_many(many, [])
    assert not any(samples(registry).values())


def test_the_worker_exports_the_metrics_of_the_design() -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.requests.labels("m", "ok", "kafka").inc()
    metrics.transactions.labels("committed").inc()
    metrics.dead_letters.labels("inference", "oversize").inc()
    metrics.consumer_lag.labels("inference.requests", "0").set(3)
    text = generate_latest(metrics.registry).decode()
    for name in (
        'modelwatch_requests_total{model="m",outcome="ok",transport="kafka"} 1.0',
        "modelwatch_request_latency_seconds",
        "modelwatch_queue_seconds",
        "modelwatch_inference_seconds",
        "modelwatch_batch_size",
        'modelwatch_transactions_total{outcome="committed"} 1.0',
        'modelwatch_dead_letters_total{reason="oversize",stage="inference"} 1.0',
        'modelwatch_consumer_lag{partition="0",topic="inference.requests"} 3.0',
        "modelwatch_model_info",
        "modelwatch_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ):
        assert name in text


def test_every_metric_has_a_help_text_and_buckets_that_ascend() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    ours = [family for family in registry.collect() if family.name.startswith("modelwatch_")]
    assert len(ours) > 10
    assert all(len(family.documentation) > 10 for family in ours)
    for buckets in (LATENCY_BUCKETS, BATCH_BUCKETS):
        assert list(buckets) == sorted(set(buckets))


def test_two_registries_share_nothing() -> None:
    one, other = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    one.pipeline_restarts.inc()
    assert one.registry.get_sample_value("modelwatch_pipeline_restarts_total") == 1
    assert other.registry.get_sample_value("modelwatch_pipeline_restarts_total") == 0


def test_score_buckets_lie_about_each_threshold_and_are_never_too_many() -> None:
    few = buckets_about([0.02])
    assert {0.02, 0.018, 0.022} <= set(few)
    many = buckets_about([0.001 * number for number in range(1, 300)])
    assert len(many) <= 40
    assert list(many) == sorted(set(many))
    assert buckets_about([]) == (1.0,)


def test_counters_that_are_known_beforehand_begin_at_zero() -> None:
    outliers, drift, explanations = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    OutliersMetrics(outliers, [0.5]).begin_at_zero("m", ["cat"])
    DriftMetrics(drift).begin_at_zero("m", ["d"])
    ExplanationsMetrics(explanations).begin_at_zero("m", ["anchors"])
    assert outliers.get_sample_value("modelwatch_outliers_total", {"model": "m", "label": "cat"}) == 0
    labels = {"model": "m", "detector": "d", "result": "drift"}
    assert drift.get_sample_value("modelwatch_drift_windows_total", labels) == 0
    asked = {"model": "m", "method": "anchors", "outcome": "failed"}
    assert explanations.get_sample_value("modelwatch_explanations_total", asked) == 0
