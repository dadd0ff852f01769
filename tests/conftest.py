"""Fixtures of every test: real brokers and real stores, each started when first asked for, once a session."""

import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from runtime import tensorflow_environment
from runtime.embedded import EmbeddedServers
from runtime.errors import ConfigurationError
from runtime.kafka import client_config, cluster_topics
from runtime.settings import Settings
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.elasticsearch_artifacts import elasticsearch_home
from tests.servers.embedded import EmbeddedBroker
from tests.servers.kafka_artifacts import kafka_libraries
from tests.servers.maven import MissingServerError
from tests.servers.record_bench import Store

tensorflow_environment.prepare()
hypothesis.settings.register_profile("modelwatch", deadline=None)  # a busy machine is no finding
hypothesis.settings.load_profile("modelwatch")

Broker = ApacheKafka | EmbeddedBroker
TopicFactory = Callable[..., str]
SERVER_LOGS: dict[str, Path] = {}
"""Where each server started in this session writes its log, by the name of its fixture."""


def missing(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; in CI it fails, because there it must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test, and cannot: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say under a failed test where its servers' logs are."""
    report = yield
    logs = [f"{name}: {SERVER_LOGS[name]}" for name in getattr(item, "fixturenames", ()) if name in SERVER_LOGS]
    if "broker" in getattr(item, "fixturenames", ()):
        logs = [f"{name}: {path}" for name, path in SERVER_LOGS.items()]
    if report.failed and logs:
        report.sections.append(("server logs", "\n".join(logs)))
    return report


@pytest.fixture(scope="session")
def apache_libraries() -> Path:
    """Apache Kafka's jars, for tests that run a broker of their own: `ApacheKafka(tmp_path / "kafka", jars)`."""
    try:
        return kafka_libraries()
    except MissingServerError as missing:
        missing(str(missing))


@pytest.fixture(scope="session")
def apache_kafka(apache_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Apache Kafka, shared by the session: use topics, groups and transactional ids of your own."""
    server = ApacheKafka(tmp_path_factory.mktemp("apache-kafka"), apache_libraries)
    SERVER_LOGS["apache_kafka"] = server.logs
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """The embedded broker and store, shared by the session; its data is not kept."""
    servers = EmbeddedServers(tmp_path_factory.mktemp("embedded"), keep=False)
    SERVER_LOGS["embedded"] = servers.data_dir
    try:
        servers.start()
    except ConfigurationError as error:
        missing(str(error))
    yield servers
    servers.kill()


@pytest.fixture(scope="session", params=["embedded", pytest.param("apache", marks=pytest.mark.real_kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each broker in turn; `name` tells which, `bootstrap` is what clients connect to."""
    if request.param == "apache":
        server: ApacheKafka = request.getfixturevalue("apache_kafka")
        return server
    return EmbeddedBroker(request.getfixturevalue("embedded"))


@pytest.fixture(scope="session")
def elasticsearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    """Elasticsearch, shared by the session: use indices of your own, and undo what you set for all of it."""
    try:
        server = Elasticsearch(tmp_path_factory.mktemp("elasticsearch") / "node", elasticsearch_home())
    except MissingServerError as reason:
        missing(str(reason))
    SERVER_LOGS["elasticsearch"] = server.logs
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session", params=["embedded", pytest.param("real", marks=pytest.mark.real_elasticsearch)])
def store(request: pytest.FixtureRequest) -> Store:
    """Each record store in turn."""
    if request.param == "real":
        return Store(request.getfixturevalue("elasticsearch").url, real=True)
    return Store(request.getfixturevalue("embedded").elasticsearch, real=False)


@pytest.fixture
def unique() -> str:
    """A name that nothing else in this session uses."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def kafka_settings(broker: Broker, unique: str) -> Settings:
    """Settings of one process at the broker, its instance named for this test alone."""
    return Settings(
        kafka_bootstrap_servers=broker.bootstrap,
        instance=f"test-{unique}",
    )


@pytest.fixture
def topic(kafka_settings: Settings) -> TopicFactory:
    """Make a topic of a new name: `topic(partitions=4, **{"max.message.bytes": "1000000"})`."""
    admin = AdminClient(client_config(kafka_settings))

    def create(partitions: int = 4, **config: Any) -> str:
        name = f"test.{uuid.uuid4().hex[:12]}"
        admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)
        # A broker learns of a new topic a moment after its creation.
        deadline = time.monotonic() + 10
        while name not in cluster_topics(kafka_settings):
            assert time.monotonic() < deadline, f"{name} does not show"
            time.sleep(0.02)
        return name

    return create
