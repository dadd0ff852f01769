"""Whatever is killed, frozen, fenced or switched off, and when: each request has exactly one pair. On Apache Kafka."""

import os
import random
import signal
import time

import pytest

from runtime.settings import Settings
from tests.faults.conftest import WorkerFactory
from tests.faults.stream import RequestStream, account, assert_exactly_once, wait_for_answers, wait_until
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka

pytestmark = pytest.mark.real_kafka

SEED = int(os.environ.get("FAULTS_SEED", "1"))
REQUESTS = 5_000
RATE = 80.0
KILLS = 5
ANSWER_SECONDS = 90.0
DYNAMIC = {"MODELWATCH_STATIC_MEMBERSHIP": "false", "MODELWATCH_SESSION_TIMEOUT_MS": "6000"}
SHARING = {"MODELWATCH_COMPUTE_THREADS": "1", "MODELWATCH_TRANSACTION_SECONDS": "0.25"}
"""Workers that share few cores; and transactions that stay open for long, so that faults come in their midst."""


def commits(worker: WorkerProcess) -> float:
    """Transactions that this process has committed."""
    return worker.metric("modelwatch_transactions_total", outcome="committed")


def wait_working(worker: WorkerProcess) -> None:
    """Wait until the process answers requests of its own partitions."""
    worker.wait_ready()
    before = commits(worker)
    wait_until(lambda: commits(worker) > before, 60, f"{worker.name} commits")


def stop_all(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.terminate()
    assert [worker.wait(15) for worker in workers] == [0] * len(workers)


@pytest.mark.parametrize("membership", [pytest.param({}, id="static"), pytest.param(DYNAMIC, id="dynamic")])
@pytest.mark.timeout(600)
def test_each_request_has_one_pair_whenever_workers_are_killed(
    membership: dict[str, str],
    own_settings: Settings,
    new_worker: WorkerFactory,
    unique: str,
) -> None:
    rng = random.Random(SEED)
    began = time.monotonic()
    workers = [new_worker(f"worker-{number}", **SHARING, **membership).start() for number in range(2)]
    with RequestStream(own_settings, unique, RATE) as stream:
        for worker in workers:
            wait_working(worker)
        for _ in range(KILLS):
            victim = rng.choice(workers)
            wait_working(victim)
            print(f"{time.monotonic()-began:.1f} {victim.name}", flush=True)
            time.sleep(rng.uniform(0.0, 1.0))
            victim.kill()
            victim.start()
        stream.finish(REQUESTS)
    sent = len(stream.truths)
    wait_for_answers(own_settings, unique, sent, ANSWER_SECONDS)
    for worker in workers:
        worker.wait_ready()
    stop_all(workers)
    found = account(own_settings, stream.truths)
    print(f"{sent} requests, {KILLS} kills, seed {SEED}, {time.monotonic() - began:.0f} s: {found}")
    assert_exactly_once(found)
    assert found.aborted > 0, "no kill hit a transaction under way, so this run has shown nothing"
