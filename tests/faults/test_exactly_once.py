"""Whatever is killed, frozen, fenced or switched off, and when: each request has exactly one pair. On Apache Kafka."""

import os
import random
import signal
import time

import pytest

from runtime.settings import Settings
from tests.faults.conftest import WorkerFactory
from tests.faults.stream import PARTITIONS, RequestStream, account, assert_exactly_once, wait_for_answers, wait_until
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka

pytestmark = pytest.mark.real_kafka

SEED = int(os.environ.get("FAULTS_SEED", "1"))
REQUESTS = 5_000
RATE = 120.0
KILLS = 5
ANSWER_SECONDS = 90.0
AWAY_SECONDS = 10.0
COMINGS = 3
DYNAMIC = {"MODELWATCH_STATIC_MEMBERSHIP": "false", "MODELWATCH_SESSION_TIMEOUT_MS": "6000"}
MEMBERSHIPS = [pytest.param({}, id="static"), pytest.param(DYNAMIC, id="dynamic", marks=pytest.mark.slow)]
SHARING = {"MODELWATCH_COMPUTE_THREADS": "1", "MODELWATCH_TRANSACTION_SECONDS": "0.25"}
"""Workers that share few cores; and transactions that stay open for long, so that faults come in their midst."""


def commits(worker: WorkerProcess) -> float:
    """Transactions that this process has committed."""
    return worker.metric("modelwatch_transactions_total", outcome="committed")


def partitions(worker: WorkerProcess) -> int:
    """How many partitions this process reads."""
    return sum(name == "modelwatch_consumer_lag" for name, _labels in worker.metrics())


def wait_working(worker: WorkerProcess) -> None:
    """Wait until the process answers requests of its own partitions."""
    worker.wait_ready()
    before = commits(worker)
    wait_until(lambda: commits(worker) > before, 60, f"{worker.name} commits")


def stop_all(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.terminate()
    assert [worker.wait(15) for worker in workers] == [0] * len(workers)


@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.timeout(900)
def test_each_request_has_one_pair_whenever_workers_are_killed(
    membership: dict[str, str],
    own_settings: Settings,
    new_worker: WorkerFactory,
    unique: str,
) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    long_transactions = SHARING | membership | {"MODELWATCH_TRANSACTION_SECONDS": "1"}
    workers = [new_worker(f"worker-{number}", **long_transactions).start() for number in range(2)]
    with RequestStream(own_settings, unique, RATE) as stream:
        for worker in workers:
            wait_working(worker)
        for _ in range(KILLS):
            victim = rng.choice(workers)
            wait_working(victim)
            time.sleep(rng.uniform(0.0, 1.0))
            victim.kill()
            victim.start()
        stream.finish(REQUESTS)
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    for worker in workers:
        worker.wait_ready()
    stop_all(workers)
    found = account(own_settings, stream.truths)
    print(f"{len(stream.truths)} requests, {KILLS} kills, seed {SEED}, {time.monotonic() - began:.0f} s: {found}")
    assert_exactly_once(found)
    assert found.right > 0.85, "answers do not belong to their requests"
    assert found.aborted > 0, "no kill hit a transaction under way, so this run has shown nothing"


@pytest.mark.parametrize("membership", MEMBERSHIPS)
def test_of_two_workers_with_one_name_the_older_ends(
    membership: dict[str, str],
    own_settings: Settings,
    new_worker: WorkerFactory,
    null_models: str,
    unique: str,
) -> None:
    settings = {"MODELWATCH_MODELS": null_models, **SHARING, **membership}
    older = new_worker("twin", log="older", **settings).start()
    with RequestStream(own_settings, unique, RATE) as stream:
        wait_working(older)
        newer = new_worker("twin", log="newer", **settings).start()
        status = older.wait(60)
        wait_working(newer)
        stream.finish(1_000)
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    stop_all([newer])
    assert_exactly_once(account(own_settings, stream.truths))
    assert status == 1
    errors = [line for line in older.last_words(100_000).splitlines() if '"level": "error"' in line]
    assert len(errors) == 1, errors
    assert "MODELWATCH_INSTANCE" in errors[0]
    assert "Traceback" not in older.last_words(100_000)


@pytest.mark.slow
def test_partitions_that_come_and_go_in_the_middle_of_a_fetch_lose_nothing(
    own_settings: Settings, new_worker: WorkerFactory, null_models: str, unique: str
) -> None:
    long_fetches = {"MODELWATCH_MODELS": null_models, "MODELWATCH_MAX_WAIT_SECONDS": "1.0", **DYNAMIC}
    stays, comes_and_goes = (new_worker(f"worker-{number}", **long_fetches) for number in range(2))
    with RequestStream(own_settings, unique, RATE) as stream:
        wait_working(stays.start())
        for _ in range(COMINGS):
            wait_working(comes_and_goes.start())
            stop_all([comes_and_goes])
        stream.finish(1_000)
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    stop_all([stays])
    assert_exactly_once(account(own_settings, stream.truths))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_work_of_a_worker_that_was_frozen_while_another_took_over_is_refused(
    own_settings: Settings, new_worker: WorkerFactory, unique: str
) -> None:
    rng = random.Random(SEED)
    long_transactions = SHARING | DYNAMIC | {"MODELWATCH_TRANSACTION_SECONDS": "2"}
    frozen, other = (new_worker(f"worker-{number}", **long_transactions).start() for number in range(2))
    with RequestStream(own_settings, unique, RATE) as stream:
        wait_working(other)
        wait_working(frozen)
        time.sleep(rng.uniform(0.3, 1.2))  # in the midst of a transaction: the last one ended just before
        os.kill(frozen.pid, signal.SIGSTOP)
        wait_until(lambda: partitions(other) == PARTITIONS, 60, "the other has all partitions")
        wait_for_answers(own_settings, unique, ANSWER_SECONDS)
        os.kill(frozen.pid, signal.SIGCONT)
        wait_until(lambda: frozen.metric("modelwatch_pipeline_restarts_total") > 0, 60, "the zombie notices")
        wait_working(frozen)
        stream.finish(1_000)
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    stop_all([frozen, other])
    found = account(own_settings, stream.truths)
    print(f"seed {SEED}: {found}")
    assert_exactly_once(found)
    assert found.aborted > 0, "nothing was under way when the worker was frozen, so this run has shown nothing"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("membership", MEMBERSHIPS)
def test_workers_survive_a_broker_that_is_away_for_a_while(
    end: str,
    membership: dict[str, str],
    own_kafka: ApacheKafka,
    own_settings: Settings,
    new_worker: WorkerFactory,
    null_models: str,
    unique: str,
) -> None:
    settings = {"MODELWATCH_MODELS": null_models, **SHARING, **membership}
    workers = [new_worker(f"worker-{number}", **settings).start() for number in range(2)]
    with RequestStream(own_settings, unique, RATE) as stream:
        for worker in workers:
            wait_working(worker)
        before = [worker.pid for worker in workers]
        getattr(own_kafka, end)()
        time.sleep(AWAY_SECONDS)
        own_kafka.start()
        for worker in workers:
            wait_working(worker)
        stream.finish(1_000)
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    assert [worker.pid for worker in workers] == before
    assert all(worker.alive for worker in workers)
    stop_all(workers)
    found = account(own_settings, stream.truths)
    print(f"{len(stream.truths)} requests, broker away: {found}")
    assert_exactly_once(found)


def test_a_worker_told_to_stop_while_the_broker_is_away_ends_in_time(
    own_kafka: ApacheKafka, own_settings: Settings, new_worker: WorkerFactory, null_models: str, unique: str
) -> None:
    worker = new_worker("worker-0", MODELWATCH_MODELS=null_models, **SHARING).start()
    with RequestStream(own_settings, unique, RATE) as stream:
        wait_working(worker)
        own_kafka.kill()
        assert worker.stop(10) == 0
        own_kafka.start()
        stream.finish(1_000)
    worker.start()
    wait_for_answers(own_settings, unique, ANSWER_SECONDS)
    stop_all([worker])
    assert_exactly_once(account(own_settings, stream.truths))
