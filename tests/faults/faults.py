"""The faults: each hits the lab when entered, and is over when left."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.faults import models
from tests.faults.lab import FAKETIME, PROCESSES, Lab
from tests.integration.workers import WorkerProcess

AWAY_SECONDS = 10.0
FROZEN_SECONDS = 12.0
"""Twice the session time-out of the lab's processes."""
STORE_ANSWERS = {
    "429": (429, {"error": {"type": "es_rejected_execution_exception"}, "status": 429}),
    "503": (503, {"error": {"type": "unavailable_shards_exception"}, "status": 503}),
    "disk full": (
        429,
        {"error": {"type": "cluster_block_exception", "reason": "flood-stage watermark"}, "status": 429},
    ),
}


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        inject: context manager function; within it the fault lasts.
        possible: whether this machine can do it, else why not.
    """

    name: str
    inject: Callable[[Lab], AbstractContextManager[None]]
    possible: Callable[[], str | None] = lambda: None


@contextmanager
def kill(kind: str, lab: Lab) -> Iterator[None]:
    """SIGKILL, and a new start at once, as the supervisor does."""
    process = lab.pick(kind)
    process.kill()
    process.start()
    yield


@contextmanager
def freeze(kind: str, lab: Lab) -> Iterator[None]:
    """SIGSTOP for longer than the session time-out, then SIGCONT: the process finds that others took over."""
    process = lab.pick(kind)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    os.kill(process.pid, signal.SIGCONT)
    yield


@contextmanager
def leader_killed(lab: Lab) -> Iterator[None]:
    """The leader of a partition of pairs dies, and is back after a while; the others go on meanwhile."""
    node = lab.cluster.leader("inference.pairs", lab.chance.randrange(4))
    node.kill()
    time.sleep(AWAY_SECONDS)
    node.start()
    yield


@contextmanager
def brokers_restarted(lab: Lab) -> Iterator[None]:
    """A rolling restart of the cluster, each node once the one before is back."""
    for node in lab.cluster.nodes:
        node.stop()
        node.start()
        time.sleep(3)
    yield


@contextmanager
def brokers(act: str, lab: Lab) -> Iterator[None]:
    """The network between our processes and all brokers is cut, reset again and again, or slow."""
    for proxy in lab.cluster.proxies:
        {"cut": proxy.cut, "refuse": proxy.refuse, "slow": partial(proxy.delay, 0.2)}[act]()
    time.sleep(AWAY_SECONDS)
    for proxy in lab.cluster.proxies:
        proxy.heal()
    yield


@contextmanager
def store_network(act: str, lab: Lab) -> Iterator[None]:
    """Likewise between them and the record store."""
    proxy = lab.store_proxy
    {"cut": proxy.cut, "refuse": proxy.refuse}[act]()
    time.sleep(AWAY_SECONDS)
    proxy.heal()
    yield


@contextmanager
def store_answers(name: str, lab: Lab) -> Iterator[None]:
    """The store answers every bulk request with this for a while."""
    lab.flaky.failures.extend([STORE_ANSWERS[name]] * 10_000)
    time.sleep(AWAY_SECONDS)
    lab.flaky.failures.clear()
    yield


@contextmanager
def store_slow(lab: Lab) -> Iterator[None]:
    """Each bulk request takes seconds."""
    lab.flaky.delay = 2.0
    time.sleep(AWAY_SECONDS)
    lab.flaky.delay = 0.0
    yield


@contextmanager
def state_disk_full(lab: Lab) -> Iterator[None]:
    """No byte is left where the confusion agent keeps its state, and it starts anew there."""
    process = lab.processes["confusion-0"]
    folder = lab.state_folder("confusion", 0)
    process.stop(15)
    shutil.rmtree(folder)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        process.start().wait_ready(60)
        with (folder / "ballast").open("wb") as ballast:
            try:
                while ballast.write(bytes(1 << 20)):
                    ballast.flush()
            except OSError:
                pass
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            lab.revive()
            time.sleep(0.5)
        (folder / "ballast").unlink()
        lab.revive()
        yield
    finally:
        process.kill()
        subprocess.run(["umount", str(folder)], check=True)
        process.start()


@contextmanager
def clock_jumps(lab: Lab) -> Iterator[None]:
    """The clocks of the second instance of each kind are an hour ahead for a while, then an hour behind.

    They are started anew for that, and again afterwards, because looks at such a clock take a third of a core.
    """
    _start_second_instances(lab, own_clock=True)
    for offset in ("+3600s", "-3600s"):
        lab.clock.write_text(f"{offset}\n")
        time.sleep(AWAY_SECONDS / 2)
    lab.clock.write_text("+0s\n")
    _start_second_instances(lab, own_clock=False)
    yield


def _start_second_instances(lab: Lab, own_clock: bool) -> None:
    kinds = [kind for kind, count in PROCESSES.items() if count > 1]
    for kind in kinds:
        lab.processes[f"{kind}-1"].stop(15)
    for process in [lab.start_process(kind, 1, own_clock) for kind in kinds]:
        process.wait_ready(120)


@contextmanager
def rolling_restart(lab: Lab) -> Iterator[None]:
    """Each process in turn: SIGTERM, its end within 10 s and with status 0, the next once it is ready again."""
    models.restart_in_turn(lab.processes.values())
    yield


@contextmanager
def rebalance_storm(lab: Lab) -> Iterator[None]:
    """Further instances join and leave every few seconds; some leave as a crash does."""
    ends = time.monotonic() + lab.storm_seconds
    while time.monotonic() < ends:
        guests = [lab.start_process(kind, 7) for kind in ("inference", "confusion")]
        for guest in guests:
            guest.wait_ready(120)
        time.sleep(lab.chance.uniform(0, 2))
        for guest in guests:
            _leave(lab, guest)
    yield


def _leave(lab: Lab, guest: WorkerProcess) -> None:
    if lab.chance.random() < 0.5:
        guest.kill()
    else:
        guest.stop(15)
    del lab.processes[guest.name]


@contextmanager
def more_load(lab: Lab) -> Iterator[None]:
    """Requests come several times as fast; the worker beyond its capacity is `overload.py`."""
    before = lab.stream.rate
    lab.stream.rate = lab.more_load
    time.sleep(lab.storm_seconds)
    lab.stream.rate = before
    yield


def _needs_faketime() -> str | None:
    return None if FAKETIME.exists() else "libfaketime is not installed (Debian: libfaketime)"


def _needs_mount() -> str | None:
    return None if os.geteuid() == 0 and shutil.which("mount") else "needs root, to mount a small file system"


FAULTS = [
    *(
        Fault(f"SIGKILL of {name}", partial(kill, kind))
        for kind, name in (
            ("inference", "a worker"),
            ("outliers", "the outliers agent"),
            ("drift", "a drift agent"),
            ("confusion", "a confusion agent"),
            ("explanations", "the explanations agent"),
        )
    ),
    *(
        Fault(f"SIGSTOP of {name}, {FROZEN_SECONDS:g} s", partial(freeze, kind))
        for kind, name in (("inference", "a worker"), ("drift", "a drift agent"), ("confusion", "a confusion agent"))
    ),
    Fault(f"leader killed, back after {AWAY_SECONDS:g} s", leader_killed),
    Fault("rolling restart of the brokers", brokers_restarted),
    Fault(f"network to the brokers cut, {AWAY_SECONDS:g} s", partial(brokers, "cut")),
    Fault(f"connections to the brokers reset, {AWAY_SECONDS:g} s", partial(brokers, "refuse")),
    Fault(f"network to the brokers slow (200 ms), {AWAY_SECONDS:g} s", partial(brokers, "slow")),
    Fault(f"network to the store cut, {AWAY_SECONDS:g} s", partial(store_network, "cut")),
    Fault(f"store away, {AWAY_SECONDS:g} s", partial(store_network, "refuse")),
    *(Fault(f"store answers {name}, {AWAY_SECONDS:g} s", partial(store_answers, name)) for name in STORE_ANSWERS),
    Fault(f"store takes 2 s an answer, {AWAY_SECONDS:g} s", store_slow),
    Fault("disk of the join state full", state_disk_full, _needs_mount),
    Fault("clocks jump an hour", clock_jumps, _needs_faketime),
    Fault("rolling restart of every process", rolling_restart),
    Fault("a model is added", models.added),
    Fault("a model is retrained", models.retrained),
    Fault("a model is renamed", models.renamed),
    Fault("a model is removed", models.removed),
    Fault("rebalance storm", rebalance_storm),
    Fault("three times the load", more_load),
]
"""In the order of the table."""
