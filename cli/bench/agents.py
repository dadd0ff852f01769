"""Throughput of the outliers and drift agents, and of what they compute, beside alibi-detect's own."""

import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from agents.drift.detectors import DriftDetector, load_detectors
from agents.network import load_arrays
from cli.log_output import LogFiles
from cli.stack import Ports, Stack, named_server, running_stack
from cli.supervisor import fetch
from runtime import kafka
from runtime.errors import ConfigurationError, FatalError
from runtime.model_folder import ModelFolder, model_named
from runtime.settings import AgentSettings, Settings, read_settings
from schemas.pairs import PairWriter
from schemas.topics import PAIRS
from training.datasets import load_split

LOGS = Path("build/bench/logs")
IMAGES = 2_000
POLL_SECONDS = 0.05
WARM_SHARE = 0.1
WINDOW = 1_000
REPEATS = 20
TIMEOUT_SECONDS = 300.0


def run_bench_outliers(pairs: int, seconds: float, console: Console) -> dict[str, Any]:
    """alibi-detect's `predict` alone, then the whole agent on a backlog; images a second, before and after averaged."""
    folder = default_folder()
    images = load_split("test", progress=False)[0][:IMAGES]
    size = read_settings(AgentSettings).batch_size
    alibi = _alibi_predict(folder)
    before = _rate(alibi, images, size, seconds)
    console.print(f"alibi-detect alone: {before:,.0f} images/s; now the agent …", highlight=False)
    agent = _agent_rate("outliers", "modelwatch_scored_total", folder, images, pairs)
    after = _rate(alibi, images, size, seconds)
    alone = (before + after) / 2
    report = {
        **machine(),
        "batch_size": size,
        "alibi_images_per_s": round(alone, 1),
        "alibi_images_per_s_before_and_after": [round(before, 1), round(after, 1)],
        "agent_images_per_s": round(agent, 1),
        "ratio": round(agent / alone, 4),
    }
    console.print(f"alibi-detect {alone:,.0f}/s, agent {agent:,.0f}/s, ratio {agent / alone:.2f}", highlight=False)
    return report


def run_bench_drift(pairs: int, console: Console) -> dict[str, Any]:
    """One window tested by alibi-detect and by us, against the same reference; then the whole agent on a backlog."""
    folder = default_folder()
    images = load_split("test", progress=False)[0][:IMAGES]
    detectors = load_detectors(folder)
    if not detectors:
        raise ConfigurationError(
            f"{folder.path / 'model.yaml'} has no section `drift`: train one with `modelwatch train`"
        )
    tests = {name: _compare_tests(folder, one, images) for name, one in detectors.items()}
    theirs, ours = (
        sum(one["alibi_seconds"] for one in tests.values()),
        sum(one["our_seconds"] for one in tests.values()),
    )
    console.print(f"a window: alibi-detect {theirs * 1000:.1f} ms, here {ours * 1000:.1f} ms; now the agent …")
    rate = _agent_rate("drift", "modelwatch_featured_total", folder, images, pairs)
    console.print(f"agent {rate:,.0f} pairs/s", highlight=False)
    return {
        **machine(),
        "alibi_seconds": theirs,
        "our_seconds": ours,
        "ratio": round(theirs / ours, 3),
        "max_p_value_difference": max(one["max_p_value_difference"] for one in tests.values()),
        "detectors": tests,
        "pairs_per_s": round(rate, 1),
    }


def machine() -> dict[str, Any]:
    return {
        "machine": {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "broker": "external" if named_server("KAFKA_BOOTSTRAP_SERVERS") else "embedded",
    }


def default_folder() -> ModelFolder:
    return model_named(None, read_settings(Settings))


def _alibi_predict(folder: ModelFolder) -> Callable[[NDArray[np.float32]], Any]:
    from training.vae import import_vae

    detector = import_vae(folder)
    return lambda batch: detector.predict(batch, outlier_type="instance", return_instance_score=True)


def _rate(predict: Callable[[Any], Any], images: NDArray[np.uint8], size: int, seconds: float) -> float:
    """Images a second of a loop over decoded, scaled batches."""
    scaled = images.astype(np.float32) / 255
    batches = [scaled[start : start + size] for start in range(0, len(scaled) - size + 1, size)]
    for batch in batches[:2]:
        predict(batch)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for batch in batches:
            predict(batch)
            count += len(batch)
    return count / (time.perf_counter() - began)


def _compare_tests(folder: ModelFolder, detector: DriftDetector, images: NDArray[np.uint8]) -> dict[str, float]:
    from alibi_detect.cd import KSDrift
    from scipy.stats import ks_2samp

    spec = folder.spec.drift[detector.name]
    reference = load_arrays(folder.file(spec.reference))["features"]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(folder.spec.labels)), WINDOW)
    window = detector.features(images[:WINDOW], probabilities)
    alibi = KSDrift(reference, p_val=spec.p_value, correction=spec.correction)
    theirs = alibi.predict(window)["data"]["p_val"]
    ours = np.array(detector.test(window).p_values)
    # alibi-detect keeps scipy's p-values in single precision: compared with ours in that, and scipy's in double.
    columns = zip(reference.T, window.T, strict=True)
    scipys = np.array([ks_2samp(one, other, method="asymp").pvalue for one, other in columns])
    return {
        "alibi_seconds": _median_seconds(lambda: alibi.predict(window)),
        "our_seconds": _median_seconds(lambda: detector.test(window)),
        "max_p_value_difference": max(
            float(np.abs(scipys - ours).max()), float(np.abs(theirs - ours.astype(theirs.dtype)).max())
        ),
    }


def _median_seconds(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def _agent_rate(agent: str, counter: str, folder: ModelFolder, images: NDArray[np.uint8], pairs: int) -> float:
    """Pairs a second whose results are safe, while there is a backlog, after the first tenth of it."""
    shutil.rmtree(LOGS, ignore_errors=True)
    with (
        TemporaryDirectory() as scratch,
        running_stack(Ports(0, 0, 0, 0), Path(scratch), 0, LogFiles(LOGS), agents=(agent,)) as stack,
    ):
        with suspended(stack):
            write_pairs(stack.settings, folder, images, pairs)
        return steady_rate(lambda: counted(stack.urls[agent], counter), pairs)


@contextmanager
def suspended(stack: Stack) -> Iterator[None]:
    """The agent stands still while the backlog is made, so that the writer does not compete with it."""
    pid = stack.supervisor.processes[0].pid
    if pid is None:
        raise FatalError(f"the agent is not running; see {LOGS}")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def write_pairs(settings: Settings, folder: ModelFolder, images: NDArray[np.uint8], count: int) -> None:
    """Pairs of test images with made-up answers, as a worker writes them."""
    spec = folder.spec
    writer = PairWriter(spec.name, spec.version, folder.weights_sha256, spec.labels, "CPU:0")
    answers = np.random.default_rng(0).dirichlet(np.ones(len(spec.labels)), count).astype(np.float32).clip(0, 1)
    client, guard = kafka.producer(settings, None, **{"linger.ms": 50}), kafka.DeliveryGuard()
    size = 500
    for start in range(0, count, size):
        n = min(size, count - start)
        ids, now = [f"bench-{start + place}" for place in range(n)], time.time()
        chosen = images[np.arange(start, start + n) % len(images)]
        zeros = [0.0] * n
        values = writer.encode(
            ids, chosen, [{}] * n, [now] * n, [None] * n, answers[start : start + n], zeros, zeros, 0.01, n, now
        )
        for request_id, value in zip(ids, values, strict=True):
            kafka.produce(client, PAIRS.name, guard.on_delivery, value=value, key=request_id)
        client.poll(0)
    client.flush(60)
    guard.check()


def counted(url: str, counter: str) -> float:
    families = text_string_to_metric_families(fetch(f"{url}/metrics").decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == counter)


def steady_rate(counted: Callable[[], float], pairs: int) -> float:
    samples: list[tuple[float, float]] = []
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not samples or samples[-1][1] < pairs:
        samples.append((time.perf_counter(), counted()))
        if time.monotonic() > deadline:
            raise FatalError(f"{samples[-1][1]:.0f} of {pairs} pairs in {TIMEOUT_SECONDS:g} s; see {LOGS}")
        time.sleep(POLL_SECONDS)
    steady = [sample for sample in samples if sample[1] >= WARM_SHARE * pairs]
    # The counter moves a batch at a time: from the first sample of one step to the first of the last.
    first, last = steady[0], next(sample for sample in steady if sample[1] >= pairs)
    if last[0] <= first[0]:
        raise FatalError(f"{pairs} pairs are too few to measure: give more with --pairs")
    return (last[1] - first[1]) / (last[0] - first[0])
