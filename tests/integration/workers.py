"""Real worker processes for tests: started, asked, stopped and killed as an operator or a fault would."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cli.supervisor import answers
from runtime.embedded import dying_with_parent, free_ports

PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS = 240.0
"""TensorFlow's import and the warm-up take 10 s of an idle core; test machines are busy."""
OURS = ("MODELWATCH_", "KAFKA_", "ELASTICSEARCH_")

Sample = tuple[str, frozenset[tuple[str, str]]]
"""A metric's name and its labels."""


class WorkerProcess:
    """`python -m inference` at a broker; `start` after an end starts it again with the same name, port and log.

    Args:
        bootstrap: the broker.
        folder: for the log.
        name: instance name, and so the transactional id's and the static member's.
        group: consumer group; one of your own unless the test is about sharing.
        models: folder of model folders; the project's own by default.
        module: what to run; `agents.outliers` and the like are processes of the same manners.
        environment: further variables, e.g. `{"MODELWATCH_STATIC_MEMBERSHIP": "false"}`; None takes one away.
    """

    def __init__(
        self,
        bootstrap: str,
        folder: Path,
        name: str = "worker-0",
        group: str = "modelwatch-inference",
        models: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        module: str = "inference",
    ) -> None:
        port = free_ports(1)[0]
        self.name = name
        self.group = group
        self._module = module
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        variables: dict[str, str | None] = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "MODELWATCH_INSTANCE": name,
            "MODELWATCH_GROUP": group,
            "MODELWATCH_PORT": str(port),
            "MODELWATCH_MODELS": str(models) if models else None,
            **(environment or {}),
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        self._environment = inherited | {key: value for key, value in variables.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "WorkerProcess":
        """Start it; does not wait until it is ready."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        return self

    def wait_ready(self, timeout: float = READY_SECONDS) -> "WorkerProcess":
        """Wait until it says that it is ready; `RuntimeError` with the end of its log if it is not, or has ended."""
        deadline = time.monotonic() + timeout
        while not answers(f"{self.url}/health/ready"):
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready, alive: {self.alive}; its log ends:\n{self.last_words()}")
            time.sleep(0.05)
        return self

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        return self._running().pid

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Nothing happens if it has ended or was never started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        self._running().terminate()

    def wait(self, timeout: float) -> int:
        """Exit status; `TimeoutExpired` if it does not end in time."""
        return self._running().wait(timeout)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, and the exit status; `TimeoutExpired` if it takes longer."""
        self.terminate()
        return self.wait(timeout)

    def last_words(self, characters: int = 3000) -> str:
        """The end of its log, of all its starts."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def metrics(self) -> dict[Sample, float]:
        """Every sample of `/metrics` now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
            return {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in families
                for sample in family.samples
            }

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples called `name` that have these labels among theirs."""
        wanted = labels.items()
        return sum(value for (found, own), value in self.metrics().items() if found == name and wanted <= own)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process
