"""Containers of docker-compose.yml as plain processes: with their command and environment, places replaced."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from runtime.embedded import dying_with_parent
from tests.deployment.compose import PROJECT, container_environment

PROGRAMS = {"python": sys.executable, "modelwatch": str(Path(sys.executable).with_name("modelwatch"))}
"""The image has both on its PATH."""
HEALTH_CHECK = ["-m", "runtime.probe"]
"""After `python`, as in the Dockerfile."""


class Container:
    """One service of ours.

    Args:
        places: what stands in compose's values, and what is there on this machine: `kafka:19092`, `/app/models`, …
        port: where it listens, instead of on the container's own 8080.
    """

    def __init__(
        self, name: str, service: Mapping[str, Any], places: Mapping[str, str], port: int, folder: Path
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        program, *arguments = service["command"]
        self._command = [PROGRAMS[program], *arguments]
        variables = container_environment(dict(service)) | {"MODELWATCH_PORT": str(port)}
        # Nothing of this machine's environment but where programs and the user's files are.
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = {name: _placed(value, places) for name, value in variables.items() if name != "PATH"} | kept
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Container":
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=PROJECT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        return self

    def wait(self, timeout: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def wait_healthy(self, timeout: float) -> None:
        """Run the image's health check until it passes, as the engine does."""
        deadline = time.monotonic() + timeout
        while True:
            check = subprocess.run(
                [PROGRAMS["python"], *HEALTH_CHECK], cwd=PROJECT, env=self._environment, capture_output=True, text=True
            )
            if check.returncode == 0:
                return
            assert self._process is not None and self._process.poll() is None, (
                f"{self.name} ended:\n{self.last_words()}"
            )
            assert time.monotonic() < deadline, f"{self.name}: {check.stderr}\n{self.last_words()}"
            time.sleep(1)

    def stop(self, timeout: float) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of this name that have these labels among theirs."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
            return sum(one.value for one in samples if labels.items() <= one.labels.items())


def _placed(value: str, places: Mapping[str, str]) -> str:
    for there, here in places.items():
        value = value.replace(there, here)
    return value
