"""One worker with the reference model a broker: TensorFlow's start takes most of the time of these tests."""

import asyncio
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from runtime.embedded import EmbeddedServers
from runtime.kafka import create_topics
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from tests.conftest import SERVER_LOGS, Broker
from tests.integration.traffic import Traffic
from tests.integration.workers import PROJECT, WorkerProcess
from training.datasets import TRUCK_INDEX, load_split

MODEL = "cifar10-resnet32"


@pytest.fixture(scope="session")
def truck() -> NDArray[np.uint8]:
    """The article's truck, (32, 32, 3) uint8."""
    return np.array(load_split("train", progress=False)[0][TRUCK_INDEX])


@pytest.fixture(scope="session")
def null_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models whose reference model answers without computing, so that its worker starts in a second."""
    models = tmp_path_factory.mktemp("null-models")
    (models / MODEL).mkdir()
    spec = yaml.safe_load((PROJECT / "models" / MODEL / "model.yaml").read_text())
    spec["weights"] = {"framework": "null"}
    (models / MODEL / "model.yaml").write_text(yaml.safe_dump(spec))
    return models


@pytest.fixture
def damaged_models(tmp_path: Path) -> Path:
    """A copy of the project's models that a test may damage."""
    shutil.copytree(PROJECT / "models", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Broker and store of a module's own, with topics and templates: agents read whole topics of fixed names."""
    with EmbeddedServers(tmp_path_factory.mktemp("own-servers"), keep=False) as own:
        settings = Settings(kafka_bootstrap_servers=own.kafka, elasticsearch_url=own.elasticsearch)
        create_topics(settings)
        asyncio.run(setup_record_store(settings))
        yield own
        own.kill()


@pytest.fixture(scope="module")
def own_settings(own_servers: EmbeddedServers) -> Settings:
    """Settings of the module's own clients at `own_servers`."""
    return Settings(
        kafka_bootstrap_servers=own_servers.kafka, elasticsearch_url=own_servers.elasticsearch, instance="tests"
    )


@pytest.fixture(scope="session")
def broker_settings(broker: Broker) -> Settings:
    """Settings of the tests' own clients at a broker that has our topics."""
    settings = Settings(kafka_bootstrap_servers=broker.bootstrap, instance="tests")
    create_topics(settings)
    return settings


@pytest.fixture(scope="session")
def traffic(broker_settings: Settings) -> Iterator[Traffic]:
    """The broker's only traffic while these tests run."""
    clients = Traffic(broker_settings)
    yield clients
    clients.close()


@pytest.fixture(scope="session")
def _shared_worker(
    broker: Broker, traffic: Traffic, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    # A group of its own each time: the worker before it may not have left the last one yet.
    group = f"integration-{uuid.uuid4().hex[:12]}"
    process = WorkerProcess(broker.bootstrap, tmp_path_factory.mktemp("worker"), group, group)
    SERVER_LOGS["worker"] = process.log
    traffic.skip(group)
    yield process
    process.kill()


@pytest.fixture
def worker(_shared_worker: WorkerProcess) -> WorkerProcess:
    """A ready worker with the reference model; a test may stop it."""
    return (_shared_worker if _shared_worker.alive else _shared_worker.start()).wait_ready()
