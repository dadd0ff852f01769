"""`modelwatch bench worker`: the worker through Kafka, beside the bare model, a null model and a bare Kafka copy."""

import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from cli.log_output import LogFiles
from cli.stack import Ports, Stack, running_stack
from cli.supervisor import fetch
from inference.predictor import load_predictor
from inference.settings import WorkerSettings
from runtime import kafka
from runtime.errors import ConfigurationError, FatalError
from runtime.model_folder import model_named, write_checksums
from runtime.settings import Settings, read_settings
from schemas.headers import CONTENT_TYPE, MODEL
from schemas.payloads import decode_request
from schemas.payloads.encode import FORMATS, PayloadFormat
from schemas.topics import PAIRS, REQUESTS
from training.datasets import load_cifar10

NULL_MODEL = "null-cifar10"
BACKLOG_BYTES = 300_000_000
WARM_SHARE = 0.1
EXPECTED_NULL_RATE = 20_000
LATENCY_SECONDS = 5.0
QUANTILES = (50, 95, 99)
WARM_UP_REQUESTS = 20
POLL_SECONDS = 0.25
LOGS = Path("build/bench/logs")


@dataclass(frozen=True)
class Load:
    """Messages of one format that can be sent again and again."""

    name: str
    payload: PayloadFormat
    values: list[bytes]

    def count(self, seconds: float, rate: float) -> int:
        """Messages for `seconds` at `rate`, within what memory allows."""
        size = sum(map(len, self.values)) / len(self.values)
        return int(min(seconds * rate, BACKLOG_BYTES / size))


def run_bench_worker(seconds: float, formats: list[str], console: Console) -> dict[str, Any]:
    """Measure each format and print a table; the figures are images (or messages, one image each) a second."""
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ConfigurationError(f"no format {', '.join(sorted(unknown))}; there are {', '.join(FORMATS)}")
    images = load_cifar10().test_images
    loads = [_load(name, images) for name in formats]
    settings = read_settings(WorkerSettings)
    with tempfile.TemporaryDirectory(prefix="modelwatch-bench-") as folder:
        models = _models(Path(folder) / "models", settings)
        bare = BareModel(settings)
        with _stack(Path(folder), models, settings) as stack:
            results = {}
            for load in loads:
                console.print(f"{load.name} …")
                results[load.name] = _measure(load, stack, bare, seconds)
    report = {
        "machine": {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "broker": "external" if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else "embedded",
        "formats": results,
    }
    _print(results, console)
    return report


def _load(name: str, images: NDArray[np.uint8]) -> Load:
    payload = FORMATS[name]
    floats = name == "v1"  # the article sends numbers in 0..1
    chosen = images[:1000].astype(np.float32) / 255 if floats else images[:1000]
    return Load(name, payload, [payload.encode(image) for image in chosen])


def _models(root: Path, settings: WorkerSettings) -> Path:
    """A folder with the default model and its null twin."""
    folder = model_named(None, settings)
    shutil.copytree(folder.path, root / folder.spec.name)
    null = root / NULL_MODEL
    null.mkdir()
    spec = folder.spec.model_dump(mode="json") | {"name": NULL_MODEL, "weights": {"framework": "null"}}
    (null / "model.yaml").write_text(yaml.safe_dump(spec))
    write_checksums(null)
    return root


@contextmanager
def _stack(folder: Path, models: Path, settings: WorkerSettings) -> Iterator[Stack]:
    variables = {"MODELWATCH_MODELS": str(models), "MODELWATCH_DEFAULT_MODEL": model_named(None, settings).spec.name}
    with running_stack(
        Ports(0, 0, 0, 0), folder / "servers", 1, LogFiles(LOGS), environment=variables, agents=()
    ) as stack:
        yield stack


class BareModel:
    """The same compiled model on the same images, decoded before, in full batches, in a loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._folder = model_named(None, settings)
        self._predictor = load_predictor(self._folder, settings)
        self._predictor.warm_up()

    def rate(self, load: Load, seconds: float, loops: int = 1) -> float:
        """Images a second of so many loops at once."""
        spec = self._folder.spec
        headers = [(CONTENT_TYPE, load.payload.content_type.encode())]
        decoded = [
            decode_request(value, b"id", headers, 0.0, {spec.name: spec}, spec.name).images for value in load.values
        ]
        size = spec.max_batch
        batches = [np.concatenate(decoded[start : start + size]) for start in range(0, len(decoded) - size + 1, size)]
        ends = time.perf_counter() + seconds

        def loop() -> int:
            count = 0
            while time.perf_counter() < ends:
                for batch in batches:
                    self._predictor.predict([batch])
                count += size * len(batches)
            return count

        began = time.perf_counter()
        with ThreadPoolExecutor(loops) as pool:
            counts = [running.result() for running in [pool.submit(loop) for _ in range(loops)]]
        return sum(counts) / (time.perf_counter() - began)


def _measure(load: Load, stack: Stack, model: BareModel, seconds: float) -> dict[str, Any]:
    """The bare model is measured before and after the pipeline: a machine's speed drifts by more than we look for."""
    loops = (1, read_settings(WorkerSettings).compute_streams)
    with _suspended(stack):
        before = [model.rate(load, seconds, number) for number in loops]
    pipeline = _pipeline_rate(load, stack, model_named(None, stack.settings).spec.name, load.count(seconds, before[0]))
    with _suspended(stack):
        after = [model.rate(load, seconds, number) for number in loops]
    bare, concurrent = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    null = _pipeline_rate(load, stack, NULL_MODEL, load.count(seconds, EXPECTED_NULL_RATE))
    copy = _copy_rate(load, stack.settings, load.count(seconds, EXPECTED_NULL_RATE))
    return {
        "bare_images_per_s": round(bare, 1),
        "bare_concurrent_images_per_s": round(concurrent, 1),
        "pipeline_images_per_s": round(pipeline, 1),
        "ratio": round(pipeline / bare, 4),
        "ratio_concurrent": round(pipeline / concurrent, 4),
        "null_images_per_s": round(null, 1),
        "copy_images_per_s": round(copy, 1),
        "latency_ms": _latency(load, stack, pipeline / 2),
    }


def _pipeline_rate(load: Load, stack: Stack, model: str, count: int) -> float:
    """Committed answers a second while there is a backlog, after the first tenth of it."""
    before = _answered(stack, model)
    with _suspended(stack):
        _send(load, stack.settings, REQUESTS.name, model, count)
    samples: list[tuple[float, float]] = []
    deadline = time.monotonic() + 120
    while not samples or samples[-1][1] < count:
        samples.append((time.perf_counter(), _answered(stack, model) - before))
        if time.monotonic() > deadline:
            raise FatalError(
                f"the worker answered {samples[-1][1]:.0f} of {count} requests within 120 s; see build/bench/logs"
            )
        time.sleep(POLL_SECONDS)
    steady = [sample for sample in samples if WARM_SHARE * count <= sample[1] < count]
    if len(steady) < 2:
        steady = samples[-2:]
    (first_time, first), (last_time, last) = steady[0], steady[-1]
    return (last - first) / (last_time - first_time)


@contextmanager
def _suspended(stack: Stack) -> Iterator[None]:
    """The worker stands still while the backlog is made."""
    pid = stack.supervisor.processes[0].pid
    if pid is None:
        raise FatalError("the worker is not running; see build/bench/logs")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _answered(stack: Stack, model: str) -> float:
    """`modelwatch_requests_total` of answered Kafka requests."""
    text = fetch(stack.urls["worker-0"] + "/metrics").decode()
    wanted = {"model": model, "outcome": "ok", "transport": "kafka"}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "modelwatch_requests_total" and sample.labels == wanted:
                return float(sample.value)
    return 0.0


def _send(load: Load, settings: Settings, topic: str, model: str, count: int) -> None:
    """Send `count` messages as fast as it goes."""
    client, guard = kafka.producer(settings, None, **{"linger.ms": 50}), kafka.DeliveryGuard()
    headers = [(CONTENT_TYPE, load.payload.content_type.encode()), (MODEL, model.encode())]
    for number in range(count):
        value = load.values[number % len(load.values)]
        kafka.produce(client, topic, guard.on_delivery, value=value, key=f"{number}", headers=headers)
        client.poll(0)
    client.flush()
    guard.check()


def _copy_rate(load: Load, settings: Settings, count: int) -> float:
    """A loop that consumes the same messages and produces them unchanged, with no decoding and no transaction."""
    source, target = (f"bench-{load.name}-{side}-{time.time_ns()}" for side in ("in", "out"))
    admin = AdminClient(kafka.client_config(settings))
    topics = [NewTopic(name, settings.kafka_partitions, 1) for name in (source, target)]
    for future in admin.create_topics(topics).values():
        future.result()
    _send(load, settings, source, NULL_MODEL, count)
    consumer = kafka.assigned_consumer(settings)
    client = kafka.producer(settings)
    consumer.assign([TopicPartition(source, number, 0) for number in range(settings.kafka_partitions)])
    done, began = 0, time.perf_counter()
    while done < count:
        messages = [message for message in consumer.consume(128, 1.0) if message.error() is None]
        began = time.perf_counter() if not done else began
        for message in messages:
            kafka.produce(client, target, value=message.value(), key=message.key(), headers=message.headers())
        client.poll(0)
        done += len(messages)
    client.flush()
    rate = count / (time.perf_counter() - began)
    consumer.close()
    admin.delete_topics([source, target])
    return rate


def _latency(load: Load, stack: Stack, rate: float) -> dict[str, float]:
    """From producing a request to reading its committed pair, at `rate` a second."""
    settings = stack.settings
    sent_at: dict[str, float] = {}
    latencies: list[float] = []
    stopping = threading.Event()
    reader = threading.Thread(target=_read_latencies, args=(settings, sent_at, latencies, stopping), daemon=True)
    reader.start()
    client = kafka.producer(settings, None, **{"linger.ms": 0})
    headers = [(CONTENT_TYPE, load.payload.content_type.encode())]
    for number in range(WARM_UP_REQUESTS):  # connections, and the reader's first fetch
        kafka.produce(client, REQUESTS.name, value=load.values[0], key=f"warm-up-{number}", headers=headers)
    client.flush()
    time.sleep(1.0)
    count, began = int(rate * LATENCY_SECONDS), time.perf_counter()
    for number in range(count):
        while (left := began + number / rate - time.perf_counter()) > 0:
            time.sleep(min(left, 0.005))
        key = f"latency-{load.name}-{number}"
        sent_at[key] = time.perf_counter()
        kafka.produce(client, REQUESTS.name, value=load.values[number % len(load.values)], key=key, headers=headers)
        client.poll(0)
    client.flush()
    deadline = time.monotonic() + 30
    while len(latencies) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    stopping.set()
    reader.join()
    if len(latencies) < count:
        raise FatalError(f"only {len(latencies)} of {count} requests were answered within 30 s; see build/bench/logs")
    found = np.percentile(np.array(latencies) * 1000, QUANTILES)
    quantiles = {f"p{name}": round(value, 1) for name, value in zip(QUANTILES, found, strict=True)}
    return {"rate": round(rate, 1)} | quantiles


def _read_latencies(
    settings: Settings, sent_at: dict[str, float], latencies: list[float], stopping: threading.Event
) -> None:
    consumer = kafka.assigned_consumer(settings)
    ends = []
    for number in range(settings.kafka_partitions):
        partition = TopicPartition(PAIRS.name, number)
        ends.append(TopicPartition(PAIRS.name, number, consumer.get_watermark_offsets(partition, timeout=10)[1]))
    consumer.assign(ends)
    while not stopping.is_set():
        messages = consumer.consume(100, 0.005)
        now = time.perf_counter()
        keys = [message.key().decode() for message in messages if message.error() is None]
        latencies.extend(now - sent_at[key] for key in keys if key in sent_at)
    consumer.close()


def _print(results: dict[str, Any], console: Console) -> None:
    table = Table(title="images a second, and latency in ms", title_justify="left", box=None)
    for column in ("", "bare", "concurrent", "pipeline", "ratios", "null", "copy", "p50", "p95", "p99"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, figures in results.items():
        bare, concurrent, pipeline, null, copy = (
            f"{figures[f'{rate}_images_per_s']:,.0f}"
            for rate in ("bare", "bare_concurrent", "pipeline", "null", "copy")
        )
        ratios = f"{figures['ratio']:.2f} {figures['ratio_concurrent']:.2f}"
        latencies = (f"{figures['latency_ms'][f'p{quantile}']:.0f}" for quantile in QUANTILES)
        table.add_row(name, bare, concurrent, pipeline, ratios, null, copy, *latencies)
    console.print(table)
