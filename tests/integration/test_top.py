"""`modelwatch top` against the real HTTP server of a process: one frame, live, and with processes that are down."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cli.stack import Ports
from cli.targets import write_targets
from cli.top.command import targets
from cli.top.scrape import Scraper
from runtime.embedded import free_ports
from runtime.health import Health, HttpServer
from runtime.metrics import WorkerMetrics

TOP = [sys.executable, "-m", "cli.main", "top"]
LEAVE_SCREEN = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[str, WorkerMetrics, Health]]:
    """A process' server: its URL, its metrics, its health."""
    metrics, health = WorkerMetrics(CollectorRegistry()), Health("broker")
    metrics.requests.labels("m", "ok", "kafka").inc(1234)
    health.ready("broker", True)
    server = HttpServer("127.0.0.1", 0, metrics.registry, health=health)
    yield f"http://127.0.0.1:{server.start()}", metrics, health
    server.stop()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "160"}
    return subprocess.run([*TOP, *arguments], capture_output=True, text=True, timeout=60, env=variables, check=False)


def test_metrics_and_health_are_read(process: tuple[str, WorkerMetrics, Health]) -> None:
    url, metrics, health = process
    with Scraper({"worker-0": url, "gone": f"http://127.0.0.1:{free_ports(1)[0]}"}) as scraper:
        first = scraper.read()
        metrics.requests.labels("m", "ok", "kafka").inc()
        health.ready("broker", False, "no broker answers")
        second = scraper.read()
        health.ready("broker", True)
    assert first["worker-0"].ready and first["worker-0"].samples is not None
    assert first["gone"].samples is None and first["gone"].note == "nothing listens there"
    assert not second["worker-0"].ready and second["worker-0"].note == "broker: no broker answers"
    name = "modelwatch_requests_total"
    before, after = (dict(one["worker-0"].samples or {})[name][0][1] for one in (first, second))
    assert after - before == 1
    assert second["worker-0"].at > first["worker-0"].at


def test_what_is_no_process_of_ours_is_said_to_be_so() -> None:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry())
    try:
        with Scraper({"odd": f"http://127.0.0.1:{server.start()}/nowhere"}) as scraper:
            assert scraper.read()["odd"].note == "/metrics answers with status 404"
    finally:
        server.stop()


def test_one_frame_shows_what_answers_and_what_does_not(process: tuple[str, WorkerMetrics, Health]) -> None:
    gone = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = run("--once", "--interval", "0.2", process[0], gone)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 processes ready" in done.stdout and "in all" in done.stdout
    assert f"down: nothing listens there, {gone}" in done.stdout and "\x1b" not in done.stdout


def test_nothing_at_all_is_status_1_with_a_remedy(tmp_path: Path) -> None:
    done = run("--once", "--data", str(tmp_path), "--worker-port", str(free_ports(1)[0]), "--agents-port", "1")
    assert done.returncode == 1 and "modelwatch up" in done.stdout and "0 of 5 processes ready" in done.stdout


def test_a_wrong_url_is_one_line() -> None:
    done = run("localhost:8080")
    assert done.returncode == 78 and "'localhost:8080' is not the URL" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_gives_the_terminal_back(process: tuple[str, WorkerMetrics, Health]) -> None:
    leader, follower = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"}
    top = subprocess.Popen(
        [*TOP, "--interval", "0.2", process[0]],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=variables,
        start_new_session=True,
    )
    os.close(follower)
    try:
        seen = _read_until(leader, b"1 of 1 processes ready", b"")
        os.kill(top.pid, signal.SIGINT)
        seen = _read_until(leader, SHOW_CURSOR, seen)
        assert top.wait(20) == 0
        assert LEAVE_SCREEN in seen and b"Traceback" not in seen
    finally:
        top.kill()
        os.close(leader)


def _read_until(descriptor: int, wanted: bytes, seen: bytes) -> bytes:
    deadline = time.monotonic() + 60
    while wanted not in seen:
        assert time.monotonic() < deadline, seen[-2000:]
        if select.select([descriptor], [], [], 0.2)[0]:
            seen += os.read(descriptor, 65536)
    return seen


def test_processes_are_found_by_their_file_then_by_ports(tmp_path: Path) -> None:
    ports = Ports(worker=8000, agents=8100)
    found = targets([], tmp_path, 2, ports)
    assert (found["worker-1"], found["outliers"]) == ("http://127.0.0.1:8001", "http://127.0.0.1:8100")
    assert len(found) == 6
    write_targets(tmp_path, {"worker-0": "http://127.0.0.1:1234", "drift": "http://127.0.0.1:99"})
    assert targets([], tmp_path, 2, ports) == {"worker": "http://127.0.0.1:1234", "drift": "http://127.0.0.1:99"}
    assert targets(["http://a:1/"], tmp_path, 2, ports) == {"a:1": "http://a:1"}
