"""Laws of the supervisor, with real child processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from cli import supervisor as module
from cli.supervisor import Service, SupervisedProcess, Supervisor, answers
from runtime.embedded import free_ports
from runtime.errors import ConfigurationError, FatalError

SECONDS = 120.0
NOWHERE = "http://127.0.0.1:9"
SLEEP = "import time; time.sleep(60)"
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(float(sys.argv[1])), print("bye"), sys.exit(0)))
print("up")
time.sleep(60)
"""
STUBBORN = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("up"); time.sleep(60)'
CRASHING = """
import os, pathlib, sys, time
starts = pathlib.Path(sys.argv[1])
with starts.open("a") as file:
    print(time.monotonic(), os.getpid(), os.environ["MODELWATCH_INSTANCE"], os.environ.get("FROM_OUTSIDE"), file=file)
if len(starts.read_text().splitlines()) <= int(sys.argv[2]):
    sys.exit(3)
print("settled")
time.sleep(60)
"""
READY_LATE = """
import http.server, sys, time
time.sleep(0.3)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health/ready" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


class Lines(list[tuple[str, str]]):
    """What the supervisor wrote, by any thread."""

    def write(self, service: str, line: str) -> None:
        self.append((service, line))

    def has(self, text: str) -> bool:
        return any(text in line for _, line in self)


Run = Callable[..., Supervisor]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def run(lines: Lines) -> Iterator[Run]:
    """Start services under a supervisor that is stopped after the test."""
    running: list[Supervisor] = []

    def start(*services: Service) -> Supervisor:
        running.append(Supervisor(services, lines.write))
        running[-1].start()
        return running[-1]

    yield start
    for one in running:
        one.stop()


def python(code: str, *arguments: object, name: str = "one", url: str = NOWHERE, **environment: str) -> Service:
    return Service(name, ["-c", code, *map(str, arguments)], url, environment)


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_a_crashing_child_is_started_again_later_each_time_with_the_same_environment(
    run: Run, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "kept")
    starts = tmp_path / "starts"
    (process,) = run(python(CRASHING, starts, 2, MODELWATCH_INSTANCE="worker-0")).processes
    wait_for(lambda: lines.has("settled"))
    times, pids, instances, outside = zip(*(line.split() for line in starts.read_text().splitlines()), strict=True)
    assert (set(instances), set(outside), len(set(pids))) == ({"worker-0"}, {"kept"}, 3)
    pauses = [float(later) - float(earlier) for earlier, later in pairwise(times)]
    assert 0.5 <= pauses[0] < pauses[1]
    assert pauses[1] >= 1.0
    assert [line for _, line in lines] == [
        "ended with status 3; starts again in 0.5 s",
        "ended with status 3; starts again in 1 s",
        "settled",
    ]
    assert (process.restarts, process.failure, process.pid) == (2, None, int(pids[-1]))


def test_the_pause_is_the_first_again_after_a_long_life(
    run: Run, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STABLE_SECONDS", 0.0)
    run(python(CRASHING, tmp_path / "starts", 2, MODELWATCH_INSTANCE="worker-0"))
    wait_for(lambda: lines.has("settled"))
    assert [line for _, line in lines][:2] == ["ended with status 3; starts again in 0.5 s"] * 2


def test_a_killed_child_is_started_again(run: Run, lines: Lines) -> None:
    (process,) = run(python(f'print("up"); {SLEEP}')).processes
    wait_for(lambda: lines.has("up"))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: len([line for _, line in lines if line == "up"]) == 2)
    assert lines.has("ended with status -9")


def test_even_a_clean_end_that_nobody_asked_for_is_a_crash(run: Run, lines: Lines) -> None:
    run(python("print('up')"))
    wait_for(lambda: len([line for _, line in lines if line == "up"]) == 2)
    assert lines.has("ended with status 0; starts again")


def test_a_child_that_needs_another_setting_is_not_started_again_and_is_reported(run: Run, lines: Lines) -> None:
    code = 'import sys; print("MODELWATCH_PORT is wrong"); sys.exit(78)'
    supervisor = run(python(code, name="worker-0"), python(SLEEP, name="other"))
    with pytest.raises(ConfigurationError, match=r"worker-0 .*exit status 78"):
        supervisor.wait_ready(SECONDS)
    with pytest.raises(FatalError, match="worker-0"):
        supervisor.check()
    time.sleep(0.6)  # longer than the first pause
    assert lines.count(("worker-0", "MODELWATCH_PORT is wrong")) == 1
    assert (supervisor.processes[0].restarts, supervisor.processes[0].pid) == (0, None)
    assert supervisor.processes[1].pid is not None


def test_every_line_of_both_streams_comes_through_with_its_service(run: Run, lines: Lines) -> None:
    code = (
        "import sys, time; print('out'); print('err', file=sys.stderr, flush=True); "
        "sys.stdout.buffer.write(b'caf\\xe9 \\xe2\\x9c\\x93\\n'); sys.stdout.flush(); print('no newline', end='')"
    )
    run(python(code, name="talker"))
    wait_for(lambda: lines.has("ended with status 0"))
    assert lines[:4] == [("talker", "out"), ("talker", "err"), ("talker", "caf� ✓"), ("talker", "no newline")]


def test_stop_lets_a_child_finish_and_does_not_start_it_again(run: Run, lines: Lines) -> None:
    supervisor = run(python(POLITE, 0.3))
    wait_for(lambda: lines.has("up"))
    supervisor.stop()
    assert [line for _, line in lines] == ["up", "bye"]
    assert supervisor.processes[0].restarts == 0


def test_children_stop_side_by_side(run: Run, lines: Lines) -> None:
    supervisor = run(*(python(POLITE, 1, name=f"worker-{number}") for number in range(4)))
    wait_for(lambda: len(lines) == 4)
    began = time.monotonic()
    supervisor.stop()
    assert 1 <= time.monotonic() - began < 3
    assert len(lines) == 8


def test_a_child_that_ignores_the_request_is_killed_after_the_limit(
    run: Run, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)
    supervisor = run(python(STUBBORN), python(STUBBORN, name="two"))
    wait_for(lambda: len(lines) == 2)
    pids = [process.pid for process in supervisor.processes]
    began = time.monotonic()
    supervisor.stop()
    assert 0.5 <= time.monotonic() - began < 3
    assert not any(psutil.pid_exists(pid) for pid in pids if pid is not None)
    assert not any(process.restarts for process in supervisor.processes)


def test_what_a_killed_child_started_ends_with_it_and_does_not_hold_up_the_stop(
    run: Run, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid); {STUBBORN}"
    supervisor = run(python(code))
    wait_for(lambda: lines.has("up"))
    stopper = threading.Thread(target=supervisor.stop, daemon=True)
    stopper.start()
    stopper.join(5)
    grandchild = int(lines[0][1])
    ended = not stopper.is_alive()
    if not ended:
        os.kill(grandchild, signal.SIGKILL)
    assert ended
    wait_for(lambda: not psutil.pid_exists(grandchild))


def test_stop_does_not_wait_for_a_pause_to_end(run: Run, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (30.0,))
    supervisor = run(python("raise SystemExit(1)"))
    wait_for(lambda: lines.has("starts again in 30 s"))
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 2


def test_a_stop_that_comes_while_a_child_starts_stops_it(lines: Lines) -> None:
    for _ in range(5):
        process = SupervisedProcess(python(SLEEP), lines.write)
        process.start()
        process.request_stop()
        began = time.monotonic()
        process.join(10)
        assert time.monotonic() - began < 5
        assert process.pid is None


def test_ready_means_that_every_service_answers(run: Run) -> None:
    ports = free_ports(2)
    supervisor = run(
        *(python(READY_LATE, port, name=f"worker-{port}", url=f"http://127.0.0.1:{port}") for port in ports)
    )
    supervisor.wait_ready(SECONDS)
    assert all(answers(f"http://127.0.0.1:{port}/health/ready") for port in ports)
    assert not answers(f"http://127.0.0.1:{ports[0]}/elsewhere")


def test_a_service_that_is_never_ready_is_named_with_its_address(run: Run) -> None:
    supervisor = run(python(SLEEP, name="worker-0"))
    with pytest.raises(FatalError, match=r"worker-0 was not ready within 0\.3 s \(http://127\.0\.0\.1:9/health/ready"):
        supervisor.wait_ready(0.3)


def test_waiting_ends_at_once_when_the_user_wants_to_stop(run: Run) -> None:
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    began = time.monotonic()
    run(python(SLEEP)).wait_ready(SECONDS, stopping)
    assert time.monotonic() - began < 5


def test_the_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    child = f"import os, pathlib; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); {STUBBORN}"
    parent = (
        "import sys, time; from cli.supervisor import Service, Supervisor; "
        "Supervisor([Service('one', ['-c', sys.argv[1]], '')], print).start(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: started.exists() and started.read_text())
            pid = int(started.read_text())
            assert psutil.pid_exists(pid)
        finally:
            process.kill()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
