"""The demo as it runs, with a real Prometheus that watches it: what was printed when, and what was measured when."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.servers.maven import MissingServerError
from tests.servers.prometheus import Prometheus


class WatchedDemo:
    """One run of `modelwatch demo`.

    Attributes:
        output: everything that it printed.
        prometheus: what watched it; None where it is not installed.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        self.report = folder / "demo"
        self.output = ""
        self.status = -1
        self.began = self.ended = 0.0
        self.prometheus = self._watcher(folder / "prometheus")
        self._lines: list[tuple[float, str]] = []
        self._timeout = timeout

    def run(self) -> None:
        """Run it to its end."""
        if self.prometheus is not None:
            self.prometheus.start()
        self.began = time.time()
        command = [sys.executable, "-m", "cli.main", "demo", "--output", str(self.report)]
        environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            ["timeout", "--signal=INT", str(self._timeout), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        ) as process:
            for line in process.stdout or ():
                self._lines.append((time.time(), line))
        self.status, self.ended = process.returncode, time.time()
        self.output = "".join(line for _, line in self._lines)

    def moment(self, text: str) -> float:
        """When the first line with `text` was printed, in seconds since the epoch."""
        return next(moment for moment, line in self._lines if text in line)

    def firing(self, begin: float, end: float) -> set[str]:
        """Names of the alerts that fired at any time between."""
        if self.prometheus is None:
            raise MissingServerError("Prometheus is not installed")
        series = self.prometheus.history('ALERTS{alertstate="firing"}', begin, end)
        return {one["metric"]["alertname"] for one in series}

    def ever(self, expression: str) -> bool:
        """Whether an expression had a value at any time of the run."""
        if self.prometheus is None:
            raise MissingServerError("Prometheus is not installed")
        series = self.prometheus.history(expression, self.began, self.ended, 1.0)
        return any(value != "NaN" for one in series for _, value in one["values"])

    def _watcher(self, folder: Path) -> Prometheus | None:
        folder.mkdir(parents=True)
        try:
            return Prometheus(folder, str(self.report / "servers" / "targets.json"))
        except MissingServerError:
            return None


def panel_queries(pages: Sequence[dict[str, object]]) -> list[tuple[str, str]]:
    """Title and expression of every panel's queries, as Grafana asks them: all models, rolling figures."""
    from views.metrics_page import expressions

    asked = []
    for page in pages:
        for panel, expression in expressions(page):
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            asked.append((f"{page['title']}: {panel['title']}", expression))
    return asked


VARIABLES = {
    "$model": ".*",
    "$version": ".*",
    "$window": "rolling",
    "$__rate_interval": "5m",
    "$__range": "1h",
}
