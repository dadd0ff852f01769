"""Runs the pipeline's processes side by side: forwards their logs, restarts what crashes, stops all of it in order."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException

from runtime.embedded import dying_with_parent
from runtime.errors import CONFIGURATION_EXIT, ConfigurationError, FatalError

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy that the environment names stands between this process and those that it started."""
STOP_SECONDS = 10.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 60.0
"""After this long without a crash, the back-off starts from its beginning again."""


@dataclass(frozen=True)
class Service:
    """One process to run.

    Attributes:
        url: where its HTTP server answers.
        arguments: after the Python executable.
    """

    name: str
    arguments: Sequence[str]
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)


class SupervisedProcess:
    """Keeps one service running until told to stop.

    Args:
        write: takes each line of its output.
    """

    def __init__(self, service: Service, write: Callable[[str, str], None]) -> None:
        self.service = service
        self.restarts = 0
        self.failure: str | None = None
        self._write = write
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=service.name, daemon=True)

    def start(self) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches only us."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def request_stop(self) -> None:
        """Send SIGTERM; do not restart."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()

    def join(self, timeout: float) -> None:
        """Wait for its end; after `timeout` seconds kill it and all that it started, which may hold its output open."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()

    def _run(self) -> None:
        crashes = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            status = self._run_once()
            if self._stopping.is_set():
                return
            if status == CONFIGURATION_EXIT:
                self.failure = (
                    f"{self.service.name} needs another setting (exit status {status}); its last lines say which"
                )
                return
            crashes = 0 if time.monotonic() - began > STABLE_SECONDS else crashes
            pause = BACKOFF_SECONDS[min(crashes, len(BACKOFF_SECONDS) - 1)]
            crashes += 1
            self.restarts += 1
            self._write(self.service.name, f"ended with status {status}; starts again in {pause:g} s")
            self._stopping.wait(pause)

    def _run_once(self) -> int:
        with subprocess.Popen(
            [sys.executable, *self.service.arguments],
            env={**os.environ, **self.service.environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=dying_with_parent(signal.SIGKILL),
        ) as process:
            self._process = process
            if self._stopping.is_set():
                process.terminate()
            for line in process.stdout or ():
                self._write(self.service.name, line.rstrip())
        return process.returncode


class Supervisor:
    """All services of one run."""

    def __init__(self, services: Sequence[Service], write: Callable[[str, str], None]) -> None:
        self.processes = [SupervisedProcess(service, write) for service in services]

    def start(self) -> None:
        """Start all of them at once: they wait for what they need by themselves."""
        for process in self.processes:
            process.start()

    def wait_ready(self, timeout: float, stopping: threading.Event | None = None) -> None:
        """Wait until every service says it is ready.

        Raises:
            FatalError: one is not ready in time.
            ConfigurationError: one cannot be, with its settings.
        """
        deadline = time.monotonic() + timeout
        for process in self.processes:
            while not answers(f"{process.service.url}/health/ready"):
                self.check()
                if stopping is not None and stopping.is_set():
                    return
                if time.monotonic() > deadline:
                    raise FatalError(
                        f"{process.service.name} was not ready within {timeout:g} s "
                        f"({process.service.url}/health/ready); its log says why"
                    )
                time.sleep(0.1)

    def check(self) -> None:
        """Raise `ConfigurationError` if a service cannot run with its settings."""
        for process in self.processes:
            if process.failure is not None:
                raise ConfigurationError(process.failure)

    def stop(self) -> None:
        """Stop all at once, and wait for each; kill what takes longer than `STOP_SECONDS`."""
        for process in self.processes:
            process.request_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))


def fetch(url: str) -> bytes:
    """Body of `url`; raises `OSError` unless it answers with status 200."""
    with DIRECT.open(url, timeout=5) as response:
        return bytes(response.read())


def answers(url: str) -> bool:
    """Whether `url` answers with status 200."""
    try:
        fetch(url)
    except (OSError, HTTPException):
        return False
    return True
