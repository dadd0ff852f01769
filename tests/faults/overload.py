"""Sends a worker three times what it can compute, on three nodes of Apache Kafka: `python -m tests.faults.overload`.

Every other request has a deadline, and HTTP callers ask meanwhile. Once the sending ends, the lag must drain. The exit
status is 1 unless every request has exactly one answer, of the kind that its deadline allows.
"""

import itertools
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import psutil
import typer
from rich.console import Console

from runtime import kafka
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.headers import DEADLINE
from schemas.payloads.encode import encode_png
from schemas.topics import DEAD_LETTERS, PAIRS, REQUESTS
from tests.faults.stream import PARTITIONS, wait_for_answers, wait_until
from tests.integration.workers import WorkerProcess
from tests.servers.kafka_artifacts import kafka_libraries
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.maven import MissingServerError
from tests.servers.messages import read
from training.datasets import load_split

MODEL = "cifar10-resnet32"
GROUP = "modelwatch-inference"
FACTOR = 3.0
PATIENCE = timedelta(seconds=2)
"""How long a request with a deadline is worth answering."""
CALIBRATION = 3_000
"""Requests whose backlog tells the worker's capacity."""
TICK_SECONDS = 0.05
SAMPLE_SECONDS = 1.0
DRAIN_SECONDS = 1_200.0
CLOCK_TOLERANCE = timedelta(milliseconds=100)
console = Console(stderr=True)


class Sender:
    """Sends numbered requests; those with an odd number have a deadline."""

    def __init__(self, settings: Settings) -> None:
        images, _ = load_split("test", progress=False)
        self._values = [encode_png(image) for image in images[:1000]]
        self._producer = kafka.producer(settings, **{"log_level": 0})
        self._guard = kafka.DeliveryGuard()
        self.sent = 0

    def send(self, count: int, deadlines: bool = True) -> None:
        """So many more."""
        deadline = (utc_now() + PATIENCE).isoformat().encode()
        for number in range(self.sent, self.sent + count):
            headers = [("content-type", b"image/png")]
            if deadlines and number % 2:
                headers.append((DEADLINE, deadline))
            value = self._values[number % len(self._values)]
            key = f"over-{number:07d}"
            kafka.produce(self._producer, REQUESTS.name, self._guard.on_delivery, key=key, value=value, headers=headers)
        self.sent += count
        self._producer.poll(0)

    def send_for(self, seconds: float, rate: float) -> float:
        """At a rate; returns the rate that was reached."""
        began, before = time.monotonic(), self.sent
        for tick in itertools.count(1):
            elapsed = time.monotonic() - began
            if elapsed >= seconds:
                break
            self.send(max(0, before + int(elapsed * rate) - self.sent))
            time.sleep(max(0.0, began + tick * TICK_SECONDS - time.monotonic()))
        self.flush()
        return (self.sent - before) / (time.monotonic() - began)

    def flush(self) -> None:
        """See everything acknowledged."""
        assert self._producer.flush(60) == 0
        self._guard.check()


@dataclass
class Observer:
    """Looks at the worker as its surroundings do, once a second, from a thread of its own.

    Attributes:
        resident: bytes.
        lag: messages, by the worker's own metric.
        health: statuses of live and ready; 0 where no answer came within a second.
        http_seconds: of interactive requests that were answered.
        http_statuses: of all.
    """

    worker: WorkerProcess
    resident: list[int] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    health: Counter[str] = field(default_factory=Counter)
    http_seconds: list[float] = field(default_factory=list)
    http_statuses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        image = load_split("test", progress=False)[0][0]
        tensor = {"name": "image", "shape": [1, *image.shape], "datatype": "UINT8", "data": image.ravel().tolist()}
        self._request = orjson.dumps({"inputs": [tensor]})
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        process = psutil.Process(self.worker.pid)
        while not self._ended.wait(SAMPLE_SECONDS):
            self.resident.append(process.memory_info().rss)
            self.lag.append(self.worker.metric("modelwatch_consumer_lag"))
            for kind in ("live", "ready"):
                self.health[f"{kind} {self._status(f'{self.worker.url}/health/{kind}', None, 1.0)[0]}"] += 1
            status, seconds = self._status(f"{self.worker.url}/v2/models/{MODEL}/infer", self._request, 10.0)
            self.http_statuses[status] += 1
            if status == 200:
                self.http_seconds.append(seconds)

    def _status(self, url: str, body: bytes | None, timeout: float) -> tuple[int, float]:
        headers = {"content-type": "application/json", "x-modelwatch-record": "false"}
        began = time.monotonic()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout) as response:
                return response.status, time.monotonic() - began
        except urllib.error.HTTPError as answer:
            return answer.code, time.monotonic() - began
        except OSError:
            return 0, time.monotonic() - began


@dataclass
class Books:
    """What became of the requests.

    Attributes:
        lost, doubled: requests without an answer, and with several.
        answered, expired: by outcome; those without a deadline are all answered.
        wrongly_expired, wrongly_answered: their deadline says otherwise.
        on_time: answered requests that had a deadline.
    """

    lost: int = 0
    doubled: int = 0
    answered: int = 0
    expired: int = 0
    on_time: int = 0
    wrongly_expired: int = 0
    wrongly_answered: int = 0
    dead_letters: int = 0

    @property
    def balanced(self) -> bool:
        """Whether nothing is amiss."""
        return not (self.lost or self.doubled or self.wrongly_expired or self.wrongly_answered or self.dead_letters)


def books(settings: Settings, sent: int) -> Books:
    """Compare the pairs with the requests; call it when the worker has ended."""
    seen: Counter[str] = Counter()
    result = Books(dead_letters=len(read(settings, DEAD_LETTERS.name)))
    for message in read(settings, PAIRS.name):
        pair = orjson.loads(message.value())
        request, response = pair["request"], pair["response"]
        seen[request["request_id"]] += 1
        is_expired = response["outcome"] == "expired"
        result.expired += is_expired
        result.answered += not is_expired
        if not request.get("deadline"):
            result.wrongly_expired += is_expired
            continue
        result.on_time += not is_expired
        waited = timedelta(seconds=response["timings"]["queue"] + response["timings"]["batch"])
        spare = _moment(request["deadline"]) - (_moment(request["sent_at"]) + waited)
        result.wrongly_expired += is_expired and spare > CLOCK_TOLERANCE
        result.wrongly_answered += not is_expired and spare < -CLOCK_TOLERANCE
    result.lost = sent - len(seen)
    result.doubled = seen.total() - len(seen)
    return result


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def answers_per_s(worker: WorkerProcess, total: float) -> float:
    """Rate at which committed answers come until there are so many, after the first tenth."""

    def count() -> float:
        return worker.metric("modelwatch_requests_total", model=MODEL)

    wait_until(lambda: count() >= total / 10, 120, "the worker begins")
    began, first = time.monotonic(), count()
    wait_until(lambda: count() >= total, 300, f"{total:g} answers")
    return (total - first) / (time.monotonic() - began)


def measure(folder: Path, seconds: float, say: Callable[[str], None] = console.print) -> dict[str, Any]:
    """Find the capacity, exceed it for so long, and see the lag drain; the figures."""
    cluster = KafkaCluster(folder / "kafka", kafka_libraries())
    worker: WorkerProcess | None = None
    try:
        cluster.start()
        settings = Settings(
            kafka_bootstrap_servers=cluster.internal,
            kafka_partitions=PARTITIONS,
            kafka_replication_factor=len(cluster.nodes),
            instance="overload",
        )
        kafka.create_topics(settings, 60)
        worker = WorkerProcess(cluster.bootstrap, folder).start().wait_ready()
        sender = Sender(settings)
        sender.send(CALIBRATION, deadlines=False)
        capacity = answers_per_s(worker, CALIBRATION)
        say(f"capacity {capacity:,.0f} requests/s; {FACTOR:g} times that for {seconds:g} s")
        with Observer(worker) as observer:
            rate = sender.send_for(seconds, FACTOR * capacity)
            ended = time.monotonic()
            say(f"{sender.sent:,} sent, {rate:,.0f}/s; waiting for the lag to drain")
            wait_for_answers(settings, GROUP, DRAIN_SECONDS)
            drained = time.monotonic() - ended
            time.sleep(2 * SAMPLE_SECONDS)  # the metric of the lag follows within a second
        status = worker.stop()
        result = books(settings, sender.sent)
    finally:
        if worker:
            worker.kill()
        cluster.kill()
    return {
        "servers": "Apache Kafka, three nodes",
        "balanced": result.balanced and status == 0,
        "seconds": seconds,
        "capacity_per_s": round(capacity),
        "sent_per_s": round(rate),
        "sent": sender.sent,
        **vars(result),
        "lag_highest": round(max(observer.lag)),
        "lag_last": round(observer.lag[-1]),
        "drained_seconds": round(drained, 1),
        "resident_mb": _spread(observer.resident, 1e6),
        "health": dict(observer.health),
        "http_statuses": dict(observer.http_statuses),
        "http_seconds_median": round(statistics.median(observer.http_seconds), 3),
        "http_seconds_max": round(max(observer.http_seconds), 3),
    }


def _spread(values: list[int], unit: float) -> list[int]:
    """First, highest, last."""
    return [round(value / unit) for value in (values[0], max(values), values[-1])]


def main(
    seconds: Annotated[float, typer.Option(help="For how long.")] = 120.0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Send a worker three times what it can compute, and balance the books."""
    try:
        with tempfile.TemporaryDirectory(prefix="modelwatch-overload-") as folder:
            figures = measure(Path(folder), seconds)
    except (AssertionError, RuntimeError, MissingServerError) as failure:
        console.print(failure)
        raise typer.Exit(1) from failure
    text = orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
    if output:
        output.write_text(text + "\n")
    print(text)
    if not figures["balanced"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
