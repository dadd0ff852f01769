"""Where the lines of supervised processes go: to the terminal, or to a file each."""

import threading
from pathlib import Path

from rich.console import Console

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


class LogPrinter:
    """Prints lines with the service's name before them, each service in its colour."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colours: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, service: str, line: str) -> None:
        with self._lock:
            colour = self._colours.setdefault(service, COLOURS[len(self._colours) % len(COLOURS)])
            self._console.print(f"{service:>12} | ", style=colour, end="", markup=False, highlight=False)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LogFiles:
    """Writes each service's lines to a file of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def __call__(self, service: str, line: str) -> None:
        with (self._folder / f"{service}.log").open("a") as file:
            file.write(line + "\n")
