"""Where Kafka's transactions promise less than is believed: each request has one pair all the same. On Apache Kafka."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from runtime import kafka
from runtime.settings import Settings
from schemas.topics import REQUESTS
from tests.faults.stream import PARTITIONS, RequestStream, account, assert_exactly_once, wait_for_answers, wait_until
from tests.faults.test_exactly_once import SHARING, commits, stop_all, wait_working
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka, Node
from tests.servers.proxy import HoldingProxy

pytestmark = pytest.mark.real_kafka

RATE = 60.0
ANSWER_SECONDS = 90.0
END_TXN = 26
"""The request that commits, https://kafka.apache.org/protocol."""


@dataclass(frozen=True)
class Setup:
    """A broker with our topics, and how to make a worker of the null model at it."""

    server: ApacheKafka
    settings: Settings
    worker: Callable[..., WorkerProcess]
    group: str

    def finish(self, stream: RequestStream, workers: list[WorkerProcess]) -> None:
        """See all answered, stop the workers, and make the books."""
        stream.finish(1_000)
        wait_for_answers(self.settings, self.group, ANSWER_SECONDS)
        stop_all(workers)
        assert_exactly_once(account(self.settings, stream.truths))


@pytest.fixture
def setup_of(apache_libraries: Path, tmp_path: Path, null_models: str, unique: str) -> Iterator[Callable[..., Setup]]:
    """Start a broker with these properties: `setup_of({"offsets.retention.minutes": "1"})`."""
    servers: list[ApacheKafka] = []
    workers: list[WorkerProcess] = []

    def start(properties: dict[str, str] | None = None, node: Node | None = None) -> Setup:
        server = ApacheKafka(tmp_path / "kafka", apache_libraries, properties=properties, node=node)
        servers.append(server)
        server.start()
        # Tests look past whatever stands before the workers' way in.
        settings = Settings(kafka_bootstrap_servers=server.internal, instance="test")
        kafka.create_topics(settings.model_copy(update={"kafka_partitions": PARTITIONS}))

        def worker(name: str = "worker-0", **environment: str) -> WorkerProcess:
            variables = {"MODELWATCH_MODELS": null_models, **SHARING, **environment}
            made = WorkerProcess(server.bootstrap, tmp_path, name, unique, environment=variables)
            workers.append(made)
            return made

        return Setup(server, settings, worker, unique)

    yield start
    for one in (*workers, *servers):
        one.kill()


def test_a_commit_that_arrives_during_a_later_transaction_ends_nothing(
    setup_of: Callable[..., Setup], unique: str
) -> None:
    """KIP-890's case: a commit is lost on its way, tried again and done; then the lost one arrives."""
    node = Node.alone()
    proxy = HoldingProxy(node.ports[0]).start()
    setup = setup_of(node=replace(node, advertised=proxy.port))
    worker = setup.worker(MODELWATCH_TRANSACTION_SECONDS="2").start()
    with RequestStream(setup.settings, unique, RATE) as stream:
        wait_working(worker)
        proxy.hold(END_TXN)
        wait_until(lambda: proxy.held is not None, 60, "a commit was kept back")
        before = commits(worker)
        wait_until(lambda: commits(worker) > before, 60, "it was done by another try")
        time.sleep(1)  # into the next transaction
        code = proxy.deliver()
        worker.kill()  # in its midst
        worker.start()
        wait_working(worker)
        setup.finish(stream, [worker])
    proxy.stop()
    assert code in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED), KafkaError(code).str()


def recreate(settings: Settings) -> None:
    """Delete the topic of requests, and make it again at once."""
    admin = kafka.admin(settings)
    admin.delete_topics([REQUESTS.name])[REQUESTS.name].result(30)
    deadline = time.monotonic() + 30
    while True:
        try:
            admin.create_topics([NewTopic(REQUESTS.name, PARTITIONS, 1)])[REQUESTS.name].result(30)
            return
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("count", [40, 2_000], ids=["fewer", "more"])
def test_requests_of_a_topic_that_was_deleted_and_made_again_at_once_are_answered(
    setup_of: Callable[..., Setup], unique: str, count: int
) -> None:
    """Whether it soon holds fewer messages than the one before, or more, so that the old offsets exist in it, too."""
    setup = setup_of()
    worker = setup.worker().start()
    with RequestStream(setup.settings, f"{unique}-old", RATE) as old:
        wait_working(worker)
        old.finish(400)
    wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
    recreate(setup.settings)
    new = RequestStream(setup.settings, f"{unique}-new", RATE)
    with new:
        new.finish(count)
    wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
    stop_all([worker])
    assert_exactly_once(account(setup.settings, old.truths | new.truths))
