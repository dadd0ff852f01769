"""A frame says what the metrics say, at any width, and tells what is down from what is idle."""

import io
from datetime import datetime

import pytest
from prometheus_client import generate_latest
from prometheus_client.registry import CollectorRegistry
from rich.console import Console

from cli.top.readings import Readings, Samples, Scrape
from cli.top.scrape import parse
from cli.top.view import Frame, sparkline
from runtime.metrics import ConfusionMetrics, DriftMetrics, ExplanationsMetrics, OutliersMetrics, WorkerMetrics

MOMENT = datetime(2026, 1, 31, 12)
MODEL = "cifar10-resnet32"


def worker() -> WorkerMetrics:
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.requests.labels(MODEL, "ok", "kafka").inc(1000)
    metrics.requests.labels(MODEL, "refused", "kafka").inc(7)
    metrics.requests.labels("unknown", "refused", "kafka").inc(3)
    for value in (0.012, 0.015, 0.04):
        metrics.request_latency.labels(MODEL, "kafka").observe(value)
    metrics.batch_size.labels(MODEL).observe(24)
    metrics.dead_letters.labels("inference", "unreadable_image").inc(7)
    metrics.consumer_lag.labels("inference.requests", "0").set(41)
    metrics.consumer_lag.labels("inference.requests", "1").set(1)
    return metrics


def agents() -> dict[str, CollectorRegistry]:
    outliers = OutliersMetrics(CollectorRegistry(), [0.005])
    outliers.scored.labels(MODEL).inc(1000)
    outliers.outliers.labels(MODEL, "ship").inc(23)
    outliers.scores.labels(MODEL).observe(0.003)
    outliers.threshold.labels(MODEL).set(0.005)
    drift = DriftMetrics(CollectorRegistry())
    drift.detected.labels(MODEL, "1", "untrained_encoder").set(1)
    drift.detected.labels(MODEL, "1", "probabilities").set(0)
    drift.p_value.labels(MODEL, "1", "untrained_encoder", "3").set(1.5e-7)
    drift.threshold.labels(MODEL, "1", "untrained_encoder").set(0.0016)
    drift.windows.labels(MODEL, "untrained_encoder", "drift").inc(4)
    drift.windows.labels(MODEL, "untrained_encoder", "no_drift").inc(1)
    drift.window_fill.labels(MODEL, "1").set(17)
    confusion = ConfusionMetrics(CollectorRegistry())
    for window, value in (("rolling", 0.4), ("lifetime", 0.65)):
        confusion.performance["accuracy"].labels(MODEL, "1", window).set(value)
        confusion.performance["labelled"].labels(MODEL, "1", window).set(1000)
    confusion.feedback.labels(MODEL, "joined").inc(1000)
    explanations = ExplanationsMetrics(CollectorRegistry())
    explanations.explanations.labels(MODEL, "anchors", "ok").inc(3)
    explanations.precision.labels(MODEL).observe(0.98)
    explanations.coverage.labels(MODEL).observe(0.25)
    named = {"outliers": outliers, "drift": drift, "confusion": confusion, "explanations": explanations}
    return {name: one.registry for name, one in named.items()}


def samples(registry: CollectorRegistry) -> Samples:
    return parse(generate_latest(registry).decode())


def reading(name: str, registry: CollectorRegistry, at: float) -> Scrape:
    return Scrape(name, f"http://127.0.0.1/{name}", at, samples(registry), ready=True)


def shown(frame: Frame, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(frame)
    return output.getvalue()


@pytest.fixture(scope="module")
def busy() -> Frame:
    metrics, others = worker(), agents()
    before = {"worker-0": reading("worker-0", metrics.registry, 10.0)}
    metrics.requests.labels(MODEL, "ok", "kafka").inc(500)
    after = {"worker-0": reading("worker-0", metrics.registry, 12.0)}
    for name, registry in others.items():
        before[name], after[name] = (reading(name, registry, at) for at in (10.0, 12.0))
    return Frame(Readings(after, before), {MODEL: [0.0, 125.0, 250.0]}, MOMENT)


def test_every_question_has_its_figures(busy: Frame) -> None:
    text = shown(busy, 160)
    for figure in (
        "5 of 5 processes ready",
        "250/s, 1,507 in all",
        "refused 7",
        "▁▅█",
        "18  47  49 ms  (since start)",
        "24.0 images on average",
        "40.0% of 1,000 labelled",
        "65.0% of 1,000 labelled",
        "joined 1,000",
        "23, 2.3%",
        "threshold 0.005",
        "ship 23",
        "DRIFT",
        "no drift",
        "1.5e-07, drift below 0.0016",
        "5, 4 drifted",
        "17 pairs",
        "ok 3",
        "precision 0.980, coverage 0.250",
        "inference: unreadable_image",
        "refused 3",
    ):
        assert figure in text, f"{figure}\n{text}"
    row = next(line for line in text.splitlines() if "worker-0" in line)
    assert row.split()[-3:] == ["42", "0/s", "7"], row


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_frame_fits_its_width(busy: Frame, width: int) -> None:
    assert max(map(len, shown(busy, width).splitlines())) <= width


def test_what_is_down_or_not_ready_is_named_with_its_reason() -> None:
    down = Scrape("drift", "http://127.0.0.1:8091", 1.0, note="nothing listens there")
    waiting = Scrape("outliers", "http://127.0.0.1:8090", 1.0, {}, note="broker: no topics")
    text = shown(Frame(Readings({"drift": down, "outliers": waiting}), {}, MOMENT), 120)
    assert "0 of 2 processes ready" in text
    assert "down: nothing listens there, http://127.0.0.1:8091" in text and "not ready: broker: no topics" in text


def test_texts_of_others_are_no_markup() -> None:
    scrape = Scrape("[red]x[/red]", "http://x", 1.0, note="[bold]no[/bold]")
    assert "[red]x[/red]" in shown(Frame(Readings({"x": scrape}), {}, MOMENT), 120)


def test_a_curve_of_nothing_is_flat() -> None:
    assert sparkline([0.0, 0.0]) == "▁▁" and sparkline([1.0, 8.0]) == "▂█" and sparkline([]) == ""
