"""Topics that are too few, unlike, or deleted under a running worker and agent: named, waited for, and gone on with."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from cli.supervisor import answers
from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.errors import CONFIGURATION_EXIT
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from runtime.topic_check import topic_problems
from schemas.payloads import encode_png
from schemas.topics import FEATURES, FEEDBACK, PAIRS, REQUESTS, TOPICS
from tests.faults.agents import make_models, reports
from tests.faults.pair_feed import PairFeed
from tests.integration.traffic import Traffic
from tests.integration.workers import PROJECT, WorkerProcess
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import send

SECONDS = 180.0
WHOLE = 1 << 20
"""Characters of a log; libraries say much when topics go."""
COUNT = 16
IMAGE = encode_png(np.zeros((32, 32, 3), np.uint8))
DRIFT = "agents.drift"
Process = Callable[[str, str], WorkerProcess]


@pytest.fixture
def servers(embedded: EmbeddedServers, tmp_path: Path) -> Iterator[EmbeddedServers]:
    """Broker and store of the test's own with our templates, but no topics; `embedded` skips where there is none."""
    own = EmbeddedServers(tmp_path / "servers", keep=False)
    own.start()
    asyncio.run(setup_record_store(Settings(elasticsearch_url=own.elasticsearch)))
    yield own
    own.kill()


@pytest.fixture
def apache(apache_libraries: Path, tmp_path: Path) -> Iterator[ApacheKafka]:
    """A broker without topics, which makes none by itself; the embedded one makes anew what its clients ask for."""
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def process(null_models: str, servers: EmbeddedServers, tmp_path: Path) -> Iterator[Process]:
    """Make a process of a module at a broker, started: `process("agents.confusion", broker.bootstrap)`."""
    made: list[WorkerProcess] = []

    def make(module: str, bootstrap: str) -> WorkerProcess:
        variables = {
            "ELASTICSEARCH_URL": servers.elasticsearch,
            "MODELWATCH_STATE_FOLDER": str(tmp_path / "state"),
            "MODELWATCH_SESSION_TIMEOUT_MS": "6000",
        }
        own = WorkerProcess(bootstrap, tmp_path, module, module, Path(null_models), variables, module)
        made.append(own)
        return own.start()

    yield make
    for own in made:
        own.kill()


def wait_until(done: Callable[[], bool], *processes: WorkerProcess) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, "\n".join(own.last_words() for own in processes)
        time.sleep(0.1)


def create(settings: Settings, **partitions: int) -> None:
    """Our topics with 4 partitions, except those named, `inference_feedback=2`."""
    wanted = [NewTopic(one.name, partitions.get(one.name.replace(".", "_"), 4), 1) for one in TOPICS]
    admin = AdminClient(kafka.client_config(settings))
    for future in admin.create_topics(wanted).values():
        future.result(30)


def command(name: str, servers: EmbeddedServers) -> subprocess.CompletedProcess[str]:
    variables = {"KAFKA_BOOTSTRAP_SERVERS": servers.kafka, "ELASTICSEARCH_URL": servers.elasticsearch, "COLUMNS": "400"}
    arguments = [sys.executable, "-m", "cli.main", *name.split()]
    environment = dict(os.environ) | variables
    return subprocess.run(arguments, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)


def test_joined_topics_that_differ_are_refused_with_their_names_and_numbers(
    servers: EmbeddedServers, process: Process
) -> None:
    create(Settings(kafka_bootstrap_servers=servers.kafka), inference_feedback=2)
    agent = process("agents.confusion", servers.kafka)
    assert agent.wait(SECONDS) == CONFIGURATION_EXIT, agent.last_words()
    doctor, setup = command("doctor --no-load", servers), command("setup", servers)
    assert (doctor.returncode, setup.returncode) == (1, CONFIGURATION_EXIT), setup.stderr
    for said in (agent.last_words().splitlines()[-1], doctor.stdout, setup.stderr):
        assert "topic inference.feedback has 2 partitions; expected 4" in said
        assert "kafka-topics.sh --alter --topic inference.feedback --partitions 4" in said


def test_fewer_partitions_than_the_settings_want_are_worth_a_note(servers: EmbeddedServers) -> None:
    create(Settings(kafka_bootstrap_servers=servers.kafka), monitoring_outliers=1)
    doctor, setup = command("doctor --no-load", servers), command("setup", servers)
    assert setup.returncode == 0, setup.stderr
    for said in (doctor.stdout, setup.stderr):
        assert "topic monitoring.outliers has 1 partitions; expected 4" in said
        assert "kafka-topics.sh --alter --topic monitoring.outliers --partitions 4" in said


def test_what_is_missing_or_unlike_comes_first() -> None:
    good = {topic.name: 4 for topic in TOPICS}
    assert topic_problems(good, 4) == []
    few = good | {"monitoring.drift": 1, FEEDBACK.name: 2}
    del few[REQUESTS.name]
    found = [(one.topic.name, one.found, one.expected, one.fatal) for one in topic_problems(few, 4)]
    assert found == [
        ("inference.requests", 0, 4, True),
        ("inference.feedback", 2, 4, True),
        ("monitoring.drift", 1, 4, False),
    ]


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_deleted_topics_are_named_and_waited_for_and_what_comes_after_is_processed_once(
    apache: ApacheKafka, process: Process
) -> None:
    settings = Settings(kafka_bootstrap_servers=apache.bootstrap, instance="tests")
    kafka.create_topics(settings)
    worker, agent = (process(module, apache.bootstrap) for module in ("inference", "agents.confusion"))
    traffic = Traffic(settings)
    for own in (worker, agent):
        own.wait_ready()
    exchange(settings, traffic, agent, "before")
    admin = AdminClient(kafka.client_config(settings))
    for future in admin.delete_topics([REQUESTS.name, FEEDBACK.name]).values():
        future.result(30)
    assert agent.wait(SECONDS) == 1, agent.last_words()
    ends = [line for line in agent.last_words(WHOLE).splitlines() if '"stopped_by_error"' in line]
    assert len(ends) == 1 and "topics were deleted: inference.feedback" in ends[0], agent.last_words()
    wait_until(lambda: "topics are missing: inference.requests" in worker.last_words(WHOLE), worker)
    agent.start()
    wait_until(lambda: "topics are missing: inference.feedback" in agent.last_words(WHOLE), agent)
    assert not any(answers(f"{own.url}/health/ready") for own in (worker, agent))
    kafka.create_topics(settings)
    for own in (worker, agent):
        own.wait_ready()
    exchange(settings, traffic, agent, "after")
    traffic.close()


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_pairs_and_features_made_anew_are_counted_anew_although_their_offsets_come_again(
    apache: ApacheKafka, servers: EmbeddedServers, tmp_path: Path
) -> None:
    settings = Settings(kafka_bootstrap_servers=apache.bootstrap, elasticsearch_url=servers.elasticsearch)
    kafka.create_topics(settings)
    models = make_models(tmp_path / "models", ["m"], {"window_size": 20, "max_age_seconds": 3600})
    environment = {"ELASTICSEARCH_URL": servers.elasticsearch, "MODELWATCH_SESSION_TIMEOUT_MS": "6000"}
    agent = WorkerProcess(apache.bootstrap, tmp_path, "drift", models=models, environment=environment, module=DRIFT)
    admin = AdminClient(kafka.client_config(settings))
    try:
        for round_, lost in enumerate(([], [PAIRS.name], [PAIRS.name, FEATURES.name]), 1):
            for future in admin.delete_topics(lost).values() if lost else ():
                future.result(30)
            kafka.create_topics(settings, 30)
            agent.start().wait_ready()
            PairFeed(settings, f"round-{round_}", 60, 500.0, {"m": 1}).start().join()
            wait_until(lambda wanted=3 * round_: len(reports(settings)) == wanted, agent)
            assert [agent.metric("modelwatch_drift_topics_made_anew_total", topic=one) > 0 for one in lost] == [
                True for _ in lost
            ]
            assert agent.stop() == 0
    finally:
        agent.kill()


def exchange(settings: Settings, traffic: Traffic, agent: WorkerProcess, prefix: str) -> None:
    """Requests, their pairs, once each, and feedback that finds each."""
    ids = [f"{prefix}-{number}" for number in range(COUNT)]
    for name in ids:
        traffic.send(IMAGE, "image/png", name)
    traffic.flush()
    traffic.pairs(ids, SECONDS)
    for name in ids:
        told = orjson.dumps({"request_id": name, "truth": 1, "given_at": "2026-01-01T00:00:00Z"})
        send(settings, FEEDBACK.name, [told], key=name)
    wait_until(lambda: agent.metric("modelwatch_feedback_total", outcome="joined") == COUNT, agent)
