"""A broker of its own for each test here: topic names are fixed, and some tests stop the broker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from runtime import kafka
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS, Settings
from tests.faults.stream import DEFAULT_MODEL, PARTITIONS
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka

WorkerFactory = Callable[..., WorkerProcess]


@pytest.fixture
def own_kafka(apache_libraries: Path, tmp_path: Path) -> Iterator[ApacheKafka]:
    """Apache Kafka for one test, with our topics."""
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    try:
        server.start()
        kafka.create_topics(Settings(kafka_bootstrap_servers=server.bootstrap, kafka_partitions=PARTITIONS))
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_settings(own_kafka: ApacheKafka) -> Settings:
    """Settings of the test's own clients."""
    return Settings(kafka_bootstrap_servers=own_kafka.bootstrap, instance="test")


@pytest.fixture
def null_models(tmp_path: Path) -> str:
    """A folder with the default model but without its weights: a worker of it starts in a second."""
    spec = load_model_folders(PROJECT_MODELS)[DEFAULT_MODEL].spec
    folder = tmp_path / "models" / DEFAULT_MODEL
    folder.mkdir(parents=True)
    document = spec.model_dump(mode="json") | {"weights": {"framework": "null"}}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return str(folder.parent)


@pytest.fixture
def new_worker(own_kafka: ApacheKafka, tmp_path: Path, unique: str) -> Iterator[WorkerFactory]:
    """Make a worker of the test's own group: `new_worker("a", MODELWATCH_STATIC_MEMBERSHIP="false")`, not started."""
    made: list[WorkerProcess] = []

    def make(name: str, log: str = "", **environment: str) -> WorkerProcess:
        folder = tmp_path / (log or name)
        folder.mkdir(exist_ok=True)
        worker = WorkerProcess(own_kafka.bootstrap, folder, name, unique, environment=environment)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.kill()
