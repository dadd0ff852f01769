"""`modelwatch top`: watch the processes in the terminal until Ctrl-C, or print one frame."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.live import Live

from cli.stack import AGENTS, Ports
from cli.targets import TARGETS_FILE, read_targets
from cli.top.readings import Readings, Scrape
from cli.top.scrape import Scraper
from cli.top.view import Frame
from runtime.errors import ConfigurationError
from runtime.signals import on_stop

HISTORY = 40
"""Readings in the small curve of answers."""


@dataclass
class Watch:
    """The latest two readings of each process, and what came before in brief."""

    scraper: Scraper
    readings: Readings = field(default_factory=lambda: Readings({}))
    history: dict[str, deque[float]] = field(default_factory=dict)

    def read(self) -> bool:
        """Read all processes once more; whether any of them answered."""
        before: dict[str, Scrape] = dict(self.readings.after)
        self.readings = Readings(self.scraper.read(), before)
        for model in self.readings.models():
            speed = self.readings.rate("modelwatch_requests_total", model=model)
            if speed is not None:
                self.history.setdefault(model, deque(maxlen=HISTORY)).append(speed)
        return any(scrape.samples is not None for scrape in self.readings.after.values())

    def frame(self) -> Frame:
        """What there is to see now."""
        return Frame(self.readings, {name: list(values) for name, values in self.history.items()}, datetime.now())


def run_top(urls: Sequence[str], data: Path, workers: int, ports: Ports, interval: float, once: bool) -> bool:
    """Show frames until Ctrl-C, or one frame of two readings; True unless nothing at all answered.

    Args:
        urls: of processes; without any, those of `targets`.
        interval: seconds from one reading to the next.

    Raises:
        ConfigurationError: a URL is none.
    """
    console = Console()
    stopping = threading.Event()
    on_stop(stopping.set)
    with Scraper(targets(urls, data, workers, ports)) as scraper:
        watch = Watch(scraper)
        answered = watch.read()
        if once or not console.is_terminal:
            if answered and not stopping.wait(interval):
                watch.read()
            console.print(watch.frame())
        else:
            with Live(watch.frame(), console=console, screen=True, auto_refresh=False) as live:
                while not stopping.wait(interval):
                    answered = watch.read()
                    live.update(watch.frame(), refresh=True)
            return True
    if not answered:
        console.print("No process answers. Start some with `modelwatch up`, or name their URLs.", style="red")
    return answered


def targets(urls: Sequence[str], data: Path, workers: int, ports: Ports) -> dict[str, str]:
    """URLs by the name of the process: those given, else those that `up` wrote down last, else those at its ports."""
    if urls:
        return {_name(url): url.rstrip("/") for url in urls}
    file = data / TARGETS_FILE
    if file.exists():
        return read_targets(file)
    found = {f"worker-{number}": ports.worker + number for number in range(workers)}
    found |= {name: ports.agents + number for number, name in enumerate(AGENTS)}
    return {name: f"http://127.0.0.1:{port}" for name, port in found.items()}


def _name(url: str) -> str:
    """Host and port.

    Raises:
        ConfigurationError: there is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"{url!r} is not the URL of a process, such as http://127.0.0.1:8080")
    return parts.netloc
