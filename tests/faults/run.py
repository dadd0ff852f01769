"""Does faults to the pipeline on three nodes of Apache Kafka, and balances the books: `python -m tests.faults.run`.

With `--rounds` each fault in turn, so many times; with `--minutes` faults at random for so long. The exit status is 1
unless nothing was lost, doubled or dead-lettered.
"""

import contextlib
import os
import platform
import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from schemas.base import utc_now
from tests.faults import models
from tests.faults.faults import FAULTS, Fault
from tests.faults.lab import PROCESSES, WINDOW, Lab, Sample
from tests.faults.ledger import Ledger, Side, balance
from tests.servers.kafka_artifacts import kafka_libraries
from tests.servers.maven import MissingServerError

PAUSE_SECONDS = 2.0
RECOVERY_SECONDS = 180.0
SAMPLE_SECONDS = 5.0
STORM_SECONDS = 120.0
SHORT_STORM_SECONDS = 30.0
"""Among faults at random."""
console = Console(stderr=True)


@dataclass
class Injection:
    """One fault, as it went.

    Attributes:
        first, last: numbers of the requests that were sent from its start until the pipeline was well again.
        side_first, side_last: of those to models beside the lab's own.
        in_flight: requests without a complete record, at the most.
        recovery_seconds: from the fault's end until every request and truth sent before it was recorded.
    """

    fault: str
    first: int
    last: int = 0
    side_first: int = 0
    side_last: int = 0
    in_flight: int = 0
    recovery_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class Row:
    """All injections of one fault; `side_…`: requests to models beside the lab's own meanwhile."""

    fault: str
    times: int = 0
    in_flight: int = 0
    lost: int = 0
    doubled: int = 0
    side_sent: int = 0
    side_answered: int = 0
    side_refused: int = 0
    recovery: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "times": self.times,
            "in_flight": self.in_flight,
            "lost": self.lost,
            "doubled": self.doubled,
            "side_sent": self.side_sent,
            "side_answered": self.side_answered,
            "side_refused": self.side_refused,
            "recovery_seconds_median": round(statistics.median(self.recovery), 1),
            "recovery_seconds_max": round(max(self.recovery), 1),
        }


def inject(lab: Lab, fault: Fault) -> Injection:
    """Do it, and wait until the pipeline is well again."""
    began = time.monotonic()
    injection = Injection(fault.name, len(lab.stream.truths), side_first=len(lab.side.of()))
    with fault.inject(lab):
        over = time.monotonic()
        sent, told = len(lab.stream.truths), lab.truths.told
        while True:
            lab.revive()
            scored, joined = lab.recorded()
            injection.in_flight = max(injection.in_flight, sent - scored)
            if scored >= sent and joined >= told:
                break
            if time.monotonic() - over > RECOVERY_SECONDS:
                raise AssertionError(f"{fault.name}: {scored} of {sent} scored, {joined} of {told} joined")
            time.sleep(0.5)
        injection.recovery_seconds = time.monotonic() - over
    injection.side_last = len(lab.side.of())
    injection.last, injection.seconds = len(lab.stream.truths), time.monotonic() - began
    return injection


def rows_of(injections: list[Injection], ledger: Ledger, lab: Lab) -> list[dict[str, Any]]:
    """The table: to each fault go the differences among the requests that it met."""
    rows: dict[str, Row] = {}
    for one in injections:
        row = rows.setdefault(one.fault, Row(one.fault))
        names = {lab.stream.name_of(number) for number in range(one.first, one.last)}
        side = {request.request_id for request in lab.side.of()[one.side_first : one.side_last]}
        names |= side
        row.times += 1
        row.side_sent += len(side)
        row.side_answered += len(side & {answer.request_id for answer in lab.side.pairs})
        row.side_refused += len(side & {letter.request_id for letter in lab.side.letters})
        row.in_flight = max(row.in_flight, one.in_flight)
        row.lost += len(ledger.lost & names)
        row.doubled += len(ledger.doubled & names)
        row.recovery.append(one.recovery_seconds)
    return [row.figures() for row in rows.values()]


def possible_faults(only: str) -> tuple[list[Fault], dict[str, str]]:
    """Those of this machine whose name matches `only`, and why others are left out."""
    left_out = {fault.name: why for fault in FAULTS if (why := fault.possible())}
    return [one for one in FAULTS if one.name not in left_out and re.search(only, one.name)], left_out


def plan(lab: Lab, faults: list[Fault], rounds: int, minutes: float) -> Iterator[Fault]:
    """Each so many times, in rounds; then any of them, until the time is over."""
    for _ in range(rounds):
        yield from faults
    while time.monotonic() - lab.began < 60 * minutes:
        yield lab.chance.choice(faults)


def watch(lab: Lab, ended: threading.Event) -> None:
    """Sample the processes now and then."""
    while not ended.wait(SAMPLE_SECONDS):
        with contextlib.suppress(OSError):  # the store may be away
            lab.sample()


def measure(
    folder: Path, faults: list[Fault], rounds: int, minutes: float, rate: float, seed: int
) -> tuple[dict[str, Any], Ledger]:
    """Run, settle, balance; the report, and the books."""
    storm_seconds = STORM_SECONDS if rounds else SHORT_STORM_SECONDS
    lab = Lab(folder, kafka_libraries(), rate, seed, storm_seconds)
    began, injections = time.monotonic(), list[Injection]()
    with lab.running():
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(lab, ended), daemon=True)
        watcher.start()
        for fault in plan(lab, faults, rounds, minutes):
            console.print(f"{time.monotonic() - lab.began:6.0f} s  {fault.name} …", end=" ")
            injections.append(inject(lab, fault))
            console.print(f"well after {injections[-1].recovery_seconds:.1f} s")
            time.sleep(PAUSE_SECONDS)
        lab.settle()
        models.settle(lab)
        ended.set()
        watcher.join()
        statuses = lab.stop()
        ledger = balance(lab.settings, lab.store, lab.stream.truths, lab.truths.questions, WINDOW, books_of(lab))
    report = {
        "date": utc_now().date().isoformat(),
        "machine": {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "servers": "Apache Kafka, three nodes; embedded record store",
        "processes": PROCESSES,
        "requests_per_s": rate,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "balanced": ledger.balanced and set(statuses.values()) == {0},
        "ledger": figures_of(ledger),
        "exit_statuses": statuses,
        "faults": rows_of(injections, ledger, lab),
        "resources": resources(lab.samples),
    }
    return report, ledger


def books_of(lab: Lab) -> Side:
    """What was sent to the models beside the lab's own."""
    return Side(lab.side.of(), lab.side.told, models.WINDOW)


def figures_of(ledger: Ledger) -> dict[str, Any]:
    """How many there are of each, and of each difference."""
    side = {name: _count(value) for name, value in asdict(ledger.side).items()}
    return {name: side if name == "side" else _count(value) for name, value in asdict(ledger).items()}


def _count(value: int | list[str]) -> int:
    return value if isinstance(value, int) else len(value)


def resources(samples: list[Sample]) -> dict[str, Any]:
    """Of each process, memory and descriptors in the first and the last quarter of the run; the lag over time."""
    quarter = max(1, len(samples) // 4)
    first, last = samples[:quarter], samples[-quarter:]
    names = sorted({name for sample in samples for name in sample.resident_bytes})
    return {
        "unrecorded_highest": max(sample.unrecorded for sample in samples),
        "unrecorded_last": samples[-1].unrecorded,
        "processes": {
            name: {
                "resident_mb": [_median(part, "resident_bytes", name, 1e6) for part in (first, last)],
                "descriptors": [_median(part, "descriptors", name, 1) for part in (first, last)],
            }
            for name in names
        },
    }


def _median(samples: list[Sample], what: str, name: str, unit: float) -> float | None:
    values = [getattr(sample, what)[name] for sample in samples if name in getattr(sample, what)]
    return round(statistics.median(values) / unit, 1) if values else None


def main(
    rounds: Annotated[int, typer.Option(help="How often each fault, in turn.")] = 0,
    minutes: Annotated[float, typer.Option(help="For how long random faults.")] = 0.0,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 30.0,
    only: Annotated[str, typer.Option(help="Faults whose name matches this regular expression.")] = "",
    seed: Annotated[int, typer.Option(help="Decides who is hit, and when.")] = 1,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Do faults to the whole pipeline on three nodes of Apache Kafka, and balance the books."""
    faults, left_out = possible_faults(only)
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}")
    if not faults:
        raise typer.BadParameter(f"no fault is called {only}; there are: {', '.join(one.name for one in FAULTS)}")
    folder = Path(tempfile.mkdtemp(prefix="modelwatch-faults-"))
    try:
        report, ledger = measure(folder, faults, rounds, minutes, rate, seed)
    except (AssertionError, RuntimeError, TimeoutExpired, MissingServerError) as failure:
        console.print(f"{failure}\nlogs: {folder}")
        raise typer.Exit(1) from failure
    text = orjson.dumps(report | {"left_out": left_out}, option=orjson.OPT_INDENT_2).decode()
    if output:
        output.write_text(text + "\n")
    print(text)
    if not report["balanced"]:
        console.print(f"differences: {ledger}\nlogs: {folder}")
        raise typer.Exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
