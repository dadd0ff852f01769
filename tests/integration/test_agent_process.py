"""An agent as a process: it waits for its servers, takes bad pairs for what they are, and leaves in time."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import write_checksums
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.topics import DEAD_LETTERS, PAIRS
from tests.faults.agents import make_models, reports, wait_for
from tests.faults.pair_feed import PairFeed
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read, send

STOP_SECONDS = 10.0
WINDOW = 20


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Servers of our own, on which nothing has been set up."""
    with EmbeddedServers(tmp_path_factory.mktemp("own-servers")) as own:
        yield own
        own.kill()


@pytest.fixture(scope="module")
def agent(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("agent")
    models = make_models(
        folder / "models", ["watched"], {"window_size": WINDOW, "max_age_seconds": 3, "minimum_size": 5}
    )
    environment = {"ELASTICSEARCH_URL": servers.elasticsearch}
    process = WorkerProcess(
        servers.kafka, folder, "drift-0", models=models, environment=environment, module="agents.drift"
    )
    yield process.start()
    process.kill()


@pytest.fixture(scope="module")
def settings(servers: EmbeddedServers) -> Settings:
    return Settings(kafka_bootstrap_servers=servers.kafka, elasticsearch_url=servers.elasticsearch, instance="tests")


def not_ready_because(process: WorkerProcess) -> str:
    try:
        with urllib.request.urlopen(f"{process.url}/health/ready", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["checks"])
    except OSError:
        return ""


def test_it_waits_for_topics_and_templates_and_says_so(agent: WorkerProcess, settings: Settings) -> None:
    for missing, make in (
        ("topics are missing", lambda: kafka.create_topics(settings)),
        ("index templates", lambda: asyncio.run(setup_record_store(settings))),
    ):
        wait_for(lambda missing=missing: missing in not_ready_because(agent), 60, lambda: not_ready_because(agent))
        assert "modelwatch setup" in not_ready_because(agent)
        make()
    agent.wait_ready()


def test_bad_pairs_are_whole_in_the_dead_letters_and_stop_nothing(agent: WorkerProcess, settings: Settings) -> None:
    agent.wait_ready()
    bad = [b"", b"{", b'{"request": {}}']
    send(settings, PAIRS.name, bad, key=b"bad")
    PairFeed(settings, "good", 3 * WINDOW, 500.0, {"watched": 1}).start().join()
    wait_for(lambda: len(reports(settings)) == 3, 60, lambda: f"{len(reports(settings))} windows")
    letters = [letter for letter in read(settings, DEAD_LETTERS.name, 3) if letter.key() == b"bad"]
    assert sorted(letter.value() or b"" for letter in letters) == sorted(bad)
    assert agent.metric("modelwatch_dead_letters_total", stage="drift") == 3
    assert agent.metric("modelwatch_featured_total", model="watched") == 3 * WINDOW


def test_a_window_closes_by_age_although_nothing_comes_any_more(agent: WorkerProcess, settings: Settings) -> None:
    agent.wait_ready()
    before = reports(settings).keys()
    PairFeed(settings, "few", 7, 500.0, {"watched": 1}).start().join()
    wait_for(lambda: len(reports(settings)) > len(before), 30, lambda: "the window is open")
    [report] = [one for name, one in reports(settings).items() if name not in before]
    assert (report.size, report.closed_by) == (7, "age")


def test_it_leaves_in_time_and_a_restart_goes_on_where_it_was(agent: WorkerProcess, settings: Settings) -> None:
    agent.wait_ready()
    seen = len(reports(settings))
    PairFeed(settings, "more", WINDOW // 2, 500.0, {"watched": 1}).start().join()
    began = time.monotonic()
    assert agent.stop(STOP_SECONDS) == 0
    assert time.monotonic() - began < STOP_SECONDS
    agent.start().wait_ready()
    wait_for(lambda: len(reports(settings)) > seen, 60, lambda: "the window that was open at the end did not close")
    ids = [name for report in reports(settings).values() for name in report.request_ids or ()]
    assert len(ids) == len(set(ids))
    assert sum(name.startswith("more-") for name in ids) == WINDOW // 2


def test_a_detector_retrained_while_its_window_is_open_is_gone_on_with_and_tests_its_own_features_only(
    agent: WorkerProcess, settings: Settings
) -> None:
    agent.wait_ready()
    before = reports(settings).keys()
    PairFeed(settings, "old", WINDOW // 2, 500.0, {"watched": 1}).start().join()
    wait_for(lambda: agent.metric("modelwatch_drift_window_fill", model="watched") > 0, 60, agent.last_words)
    assert agent.stop(STOP_SECONDS) == 0
    folder = agent.log.parent / "models/watched"
    reference = folder / "drift/probabilities/reference.npz"
    np.savez(reference, features=np.load(reference)["features"][::2])
    write_checksums(folder)
    agent.start().wait_ready()
    labels = frozenset({"model": "watched", "version": "1", "detector": "probabilities"}.items())
    gauge = ("modelwatch_drift_detected", labels)
    wait_for(lambda: gauge in agent.metrics(), 30, lambda: "what was known before the restart is not shown")
    PairFeed(settings, "new", WINDOW, 500.0, {"watched": 1}).start().join()
    wait_for(lambda: len(reports(settings)) >= len(before) + 2, 60, lambda: f"{reports(settings).keys() - before}")
    new, old = sorted((one for name, one in reports(settings).items() if name not in before), key=lambda one: -one.size)
    assert (old.size, old.closed_by in ("age", "superseded"), old.untested) == (
        WINDOW // 2,
        True,
        {"probabilities": "no_detector"},
    )
    assert (new.size, new.closed_by, list(new.detectors)) == (WINDOW, "full", ["probabilities"])
