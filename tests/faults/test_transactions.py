"""Where Kafka's transactions promise less than is believed: each request has one pair all the same. On Apache Kafka."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from runtime import kafka
from runtime.settings import Settings
from schemas.topics import PAIRS, REQUESTS
from tests.faults.stream import PARTITIONS, RequestStream, account, assert_exactly_once, wait_for_answers, wait_until
from tests.faults.test_exactly_once import SHARING, commits, partitions, stop_all, wait_working
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka, Node
from tests.servers.messages import committed, read
from tests.servers.proxy import HoldingProxy

pytestmark = pytest.mark.real_kafka

RATE = 60.0
ANSWER_SECONDS = 90.0
ANSWERED_UNAWARE = 1_600
"""Requests that may be answered in the two seconds until a worker sees that its topic is another, and then again."""
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
    worker = setup.worker(MODELWATCH_TRANSACTION_SECONDS="1").start()
    with RequestStream(setup.settings, unique, RATE) as stream:
        wait_working(worker)
        proxy.hold(END_TXN)
        wait_until(lambda: proxy.held is not None, 60, "a commit was kept back")
        before = commits(worker)
        wait_until(lambda: commits(worker) > before + 1, 60, "it was done by another try, and the next one, too")
        time.sleep(0.5)  # into the one after
        code = proxy.deliver()
        worker.kill()  # in its midst
        worker.start()
        wait_working(worker)
        setup.finish(stream, [worker])
    proxy.stop()
    assert code in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED), KafkaError(code).str()


@contextlib.contextmanager
def frozen(worker: WorkerProcess) -> Iterator[None]:
    """Let it do nothing meanwhile, while its connections stay."""
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def wait_for_pairs(settings: Settings, count: int) -> None:
    """Wait until there are pairs of so many ids."""

    def enough() -> bool:
        return len({pair.key() for pair in read(settings, PAIRS.name)}) >= count

    wait_until(enough, ANSWER_SECONDS, f"{count} pairs")


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


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="fewer", marks=pytest.mark.slow), pytest.param(2_000, id="more")]
)
def test_requests_of_a_topic_that_was_deleted_and_made_again_at_once_are_answered(
    setup_of: Callable[..., Setup], unique: str, count: int
) -> None:
    """A frozen worker finds fewer messages than before, or so many that its old offsets exist in the new topic, too."""
    setup = setup_of()
    worker = setup.worker().start()
    with RequestStream(setup.settings, f"{unique}-old", RATE) as old:
        wait_working(worker)
        old.finish(400)
    wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
    with frozen(worker):
        recreate(setup.settings)
        new = RequestStream(setup.settings, f"{unique}-new", RATE)
        with new:
            new.finish(count)
    wait_for_pairs(setup.settings, len(old.truths) + len(new.truths))
    stop_all([worker])
    found = account(setup.settings, old.truths | new.truths)
    print(f"{count} new requests: {found}")
    assert (found.missing, found.strangers, found.dead_letters) == ([], [], 0)
    assert len(found.repeated) <= ANSWERED_UNAWARE


@pytest.mark.parametrize(
    "seconds", [pytest.param(0, id="at once"), pytest.param(75, id="by time", marks=pytest.mark.slow)]
)
def test_a_worker_that_was_away_until_its_offsets_were_forgotten_answers_none_twice(
    setup_of: Callable[..., Setup], unique: str, seconds: float
) -> None:
    setup = setup_of({"offsets.retention.minutes": "1", "offsets.retention.check.interval.ms": "1000"})
    worker = setup.worker(MODELWATCH_STATIC_MEMBERSHIP="false").start()
    with RequestStream(setup.settings, unique, RATE) as stream:
        wait_working(worker)
        stream.finish(400)
        wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
        stop_all([worker])
        if seconds:
            time.sleep(seconds)
        else:
            admin = kafka.admin(setup.settings)  # its futures end with it
            admin.delete_consumer_groups([setup.group])[setup.group].result(30)
        assert committed(setup.settings, setup.group, REQUESTS.name, PARTITIONS) == 0
        worker.start()
        worker.wait_ready()
        setup.finish(stream, [worker])
    assert "committed_offset_forgotten" in worker.last_words(100_000)


@pytest.mark.slow
def test_requests_that_were_deleted_unanswered_are_said_and_the_rest_is_answered(
    setup_of: Callable[..., Setup], unique: str
) -> None:
    setup = setup_of()
    worker = setup.worker(MODELWATCH_STATIC_MEMBERSHIP="false").start()
    with RequestStream(setup.settings, unique, RATE) as stream:
        wait_working(worker)
        stream.finish(200)
        wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
        stop_all([worker])
        stream.finish(len(stream.truths) + 200)
        ends = {message.partition(): message.offset() for message in read(setup.settings, REQUESTS.name)}
        cut = [TopicPartition(REQUESTS.name, number, end) for number, end in ends.items()]
        admin = kafka.admin(setup.settings)
        for future in admin.delete_records(cut).values():
            future.result(30)
        kept = {message.key().decode() for message in read(setup.settings, REQUESTS.name)}
        worker.start()
        worker.wait_ready()
        wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
        stop_all([worker])
    found = account(setup.settings, stream.truths)
    assert (found.repeated, found.strangers, found.dead_letters) == ({}, [], 0)
    assert not kept & set(found.missing)
    assert "requests_were_deleted_unanswered" in worker.last_words(100_000)


@pytest.mark.slow
def test_a_worker_whose_producer_id_expired_in_an_idle_week_goes_on(
    setup_of: Callable[..., Setup], unique: str
) -> None:
    setup = setup_of(
        {
            "transactional.id.expiration.ms": "3000",
            "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
            "producer.id.expiration.ms": "3000",
            "producer.id.expiration.check.interval.ms": "500",
        }
    )
    worker = setup.worker().start()
    streams = [RequestStream(setup.settings, f"{unique}-{number}", RATE) for number in range(2)]
    for stream in streams:
        with stream:
            wait_working(worker)
            stream.finish(200)
        wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
        time.sleep(15)
    stop_all([worker])
    assert_exactly_once(account(setup.settings, streams[0].truths | streams[1].truths))


@pytest.mark.slow
def test_a_static_member_frozen_beyond_its_session_answers_none_twice(
    setup_of: Callable[..., Setup], unique: str
) -> None:
    setup = setup_of()
    variables = {"MODELWATCH_SESSION_TIMEOUT_MS": "6000", "MODELWATCH_TRANSACTION_SECONDS": "2"}
    workers = [setup.worker(f"worker-{number}", **variables).start() for number in range(2)]
    with RequestStream(setup.settings, unique, RATE) as stream:
        for worker in workers:
            wait_working(worker)
        with frozen(workers[0]):
            wait_until(lambda: partitions(workers[1]) == PARTITIONS, 60, "the other has all partitions")
            wait_for_answers(setup.settings, setup.group, ANSWER_SECONDS)
        wait_working(workers[0])
        setup.finish(stream, workers)
