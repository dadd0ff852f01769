"""Prometheus on this machine, as Debian packages it: our rules and our dashboards' queries, on real series."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from runtime.embedded import dying_with_parent, free_ports
from tests.servers.maven import MissingServerError

PROJECT = Path(__file__).resolve().parents[2]
RULES = PROJECT / "prometheus" / "rules"
START_SECONDS = 120.0
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATION = re.compile(r"(?<![\w.])(\d+)([smhd])(?![\w])")


def quickened(expression: str, speed: int) -> str:
    """The expression with every duration in it `speed` times as short, so that minutes pass in seconds."""

    def shorter(found: re.Match[str]) -> str:
        milliseconds = int(found[1]) * SECONDS[found[2]] * 1000 // speed
        return f"{milliseconds}ms"

    return DURATION.sub(shorter, expression)


class Prometheus:
    """A server of its own with our rules, in which time runs `speed` times as fast as in production.

    The rules are the shipped ones; only durations (windows, offsets, `for`) and the intervals are shortened.

    Args:
        folder: for configuration and data; its own.
        targets: pattern of files that name targets, as `modelwatch up` and the demo write them.
    """

    def __init__(self, folder: Path, targets: str, speed: int = 60) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise MissingServerError("Prometheus is not installed (Debian's package prometheus)")
        self._program = program
        self._folder = folder
        self._targets = targets
        self._speed = speed
        self._port = free_ports(1)[0]
        self.log = folder / "prometheus.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; quotes the end of its log.
        """
        self._write_configuration()
        with self.log.open("wb") as output:
            self._child = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    f"--query.lookback-delta={300_000 // self._speed}ms",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Prometheus did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it; its data is not needed any more."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series that an expression gives, now or at a time in seconds since the epoch.

        Raises:
            ValueError: Prometheus refuses it, and says why.
        """
        moment = {} if at is None else {"time": f"{at:.3f}"}
        data = self._get("/api/v1/query", {"query": quickened(expression, self._speed), **moment})
        result: list[dict[str, Any]] = data["result"]
        return result

    def history(self, expression: str, begin: float, end: float, step: float = 0.5) -> list[dict[str, Any]]:
        """The same over a time, a value every `step` seconds."""
        query = {"query": quickened(expression, self._speed), "start": begin, "end": end, "step": step}
        result: list[dict[str, Any]] = self._get("/api/v1/query_range", query)["result"]
        return result

    def _get(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{query['query']}: {error.read().decode()}") from error
        return data

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=1):
            return True
        return False

    def _write_configuration(self) -> None:
        (self._folder / "rules").mkdir(parents=True)
        for file in RULES.glob("*.yml"):
            content = yaml.safe_load(file.read_text())
            for group in content["groups"]:
                for rule in group["rules"]:
                    rule["expr"] = quickened(rule["expr"], self._speed)
                    if "for" in rule:
                        rule["for"] = quickened(rule["for"], self._speed)
            (self._folder / "rules" / file.name).write_text(yaml.safe_dump(content))
        configuration = yaml.safe_load((PROJECT / "prometheus" / "prometheus.local.yml").read_text())
        configuration["global"] = {
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "500ms",
        }
        configuration["scrape_configs"][0]["file_sd_configs"] = [{"files": [self._targets], "refresh_interval": "1s"}]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
