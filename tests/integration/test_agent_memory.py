"""An agent's memory is bounded by bytes: large pairs, and a record store that is away, take no more of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.settings import Settings
from schemas.pairs import PairWriter
from schemas.topics import PAIRS
from tests.faults.agents import wait_for
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.proxy import TcpProxy

SHAPE = (720, 512, 3)
PAIR_BYTES = 1_474_560
"""Of its base64 alone."""
COUNT = 256
GROWTH = 256 << 20
"""Of resident memory over what a ready agent has: 24 MiB in hand and 16 MiB fetched, in each of their forms. All pairs
together have 377 MB; as raw bytes, pixels, JSON and bulk requests some 2 GB."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    document = {"name": "large", "version": "1", "input": {"shape": list(SHAPE)}, "labels": ["a", "b"]}
    (tmp_path / "models" / "large").mkdir(parents=True)
    text = yaml.safe_dump(document | {"weights": {"framework": "null"}})
    (tmp_path / "models" / "large" / "model.yaml").write_text(text)
    return tmp_path / "models"


@pytest.fixture
def broker(apache_libraries: Path, tmp_path: Path) -> Iterator[Settings]:
    """Apache Kafka: the embedded broker sends as much as there is, whatever it is asked for."""
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    server.start()
    settings = Settings(kafka_bootstrap_servers=server.bootstrap, instance="tests")
    kafka.create_topics(settings)
    yield settings
    server.stop()


@pytest.fixture
def proxy(own_servers: EmbeddedServers) -> Iterator[TcpProxy]:
    proxy = TcpProxy(urlsplit(own_servers.elasticsearch).port or 0).start()
    yield proxy
    proxy.stop()


def memory(process: WorkerProcess, field: str) -> int:
    """Bytes, from what the kernel says of a process: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def send_pairs(settings: Settings) -> None:
    writer, now = PairWriter("large", "1", "ab" * 32, ("a", "b"), "cpu"), time.time()
    image = np.random.default_rng(1).integers(0, 256, (1, *SHAPE), np.uint8)
    outputs = np.array([[0.25, 0.75]], np.float32)
    producer = kafka.producer(settings)
    for number in range(COUNT):
        arguments = ([{}], [now], [None], outputs, [0.0], [0.0], 0.0, 1, now)
        [value] = writer.encode([f"large-{number}"], image, *arguments)
        assert len(value) > PAIR_BYTES
        kafka.produce(producer, PAIRS.name, value=value, key=f"large-{number}")
    producer.flush(60)


@pytest.mark.slow
@pytest.mark.real_kafka
def test_large_pairs_take_no_more_memory_than_is_set_whether_or_not_the_store_answers(
    broker: Settings, proxy: TcpProxy, models: Path, tmp_path: Path
) -> None:
    environment = {"ELASTICSEARCH_URL": f"http://127.0.0.1:{proxy.port}"}
    agent = WorkerProcess(
        broker.kafka_bootstrap_servers,
        tmp_path,
        "outliers-0",
        models=models,
        environment=environment,
        module="agents.outliers",
    )
    agent.start().wait_ready()
    try:
        ready = memory(agent, "VmRSS")
        proxy.refuse()
        send_pairs(broker)
        wait_for(lambda: agent.metric("modelwatch_records_total", outcome="retried") > 0, 60, agent.last_words)
        seen = -1
        while seen != (seen := memory(agent, "VmHWM")):  # until all that is taken is in memory
            time.sleep(3)
        proxy.heal()
        written = lambda: agent.metric("modelwatch_records_total", outcome="written")  # noqa: E731
        wait_for(lambda: written() >= COUNT, 120, lambda: f"{written()} of {COUNT}; {agent.last_words()}")
        assert memory(agent, "VmHWM") - ready < GROWTH
        assert agent.metric("modelwatch_unscored_total", reason="no_detector") >= COUNT
    finally:
        agent.kill()
