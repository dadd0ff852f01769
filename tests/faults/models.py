"""What an operator does to models under load, as `docs/add-a-model.md` says: add, remove, retrain, rename one.

Each happens to a model beside the lab's own, by one or two rolling restarts of every process. Requests to it come all
the while, before it is there and after it has gone, too.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml

from runtime.model_folder import load_model_folder, write_checksums
from tests.faults.agents import make_models, wait_for
from tests.faults.lab import SETTLE_SECONDS, Lab
from tests.faults.side_found import look
from tests.faults.side_ledger import Answer, Expected, Refused, SideLedger, SideRequest, balance_side
from tests.integration.workers import WorkerProcess

WINDOW = 40
MAX_AGE_SECONDS = 20.0
SPEC = {"window_size": WINDOW, "max_age_seconds": MAX_AGE_SECONDS}
REQUESTS = 20
"""That come, at the least, in each state of things."""
STOP_SECONDS, GRACE_SECONDS, READY_SECONDS = 10.0, 30.0, 300.0
"""Of a stop; until the supervisor kills (`terminationGracePeriodSeconds`); of a start on a busy machine."""
WORKERS = "inference"
Named = TypeVar("Named", SideRequest, Answer, Refused)
REFUSED = Expected(frozenset(), refusable=True)


def answered(*versions: str) -> Expected:
    """By one of these versions, in any case."""
    return Expected(frozenset(versions), refusable=False)


def either(*versions: str) -> Expected:
    """By one of these versions, or refused: the workers are being replaced."""
    return Expected(frozenset(versions), refusable=True)


@contextmanager
def added(lab: Lab) -> Iterator[None]:
    """A second model's folder appears; agents first, workers last. Its requests come from before that on."""
    name = _new_name(lab)
    _add(lab, name, _make(lab, name))
    yield


@contextmanager
def removed(lab: Lab) -> Iterator[None]:
    """The folder goes; workers first, agents when they are done with its pairs. Requests to it go on coming."""
    _remove(lab, _present(lab))
    yield


@contextmanager
def retrained(lab: Lab) -> Iterator[None]:
    """The folder has the next version, and drift detectors with another reference; agents first, workers last."""
    name, side = _present(lab), lab.side
    folder = lab.models / name
    before = load_model_folder(folder).spec.version
    after = str(int(before) + 1)
    side.expect(name, answered(before, after))
    side.wait_settled(name)
    replace_folder(retrained_folder(lab.folder / "incoming", folder, after), folder)
    _roll_out(lab, _agents(lab))
    _roll_out(lab, [WORKERS])
    side.expect(name, answered(after))
    side.wait_sent(name, REQUESTS)
    side.wait_settled(name)
    side.tell_held_back(name)
    yield


@contextmanager
def renamed(lab: Lab) -> Iterator[None]:
    """The same model under another name: the new one comes, then the old one goes. Callers use both."""
    old, name = _present(lab), _new_name(lab)
    fresh = lab.folder / "incoming" / name
    shutil.copytree(lab.models / old, fresh)
    _change_spec(fresh, name=name)
    _add(lab, name, fresh)
    _remove(lab, old)
    yield


def restart_in_turn(processes: Iterable[WorkerProcess]) -> None:
    """Each in turn: SIGTERM, its end in time and with status 0, the next once it is ready again."""
    for process in processes:
        assert process.stop(STOP_SECONDS) == 0, process.last_words()
        process.start().wait_ready(READY_SECONDS)


def retrained_folder(incoming: Path, folder: Path, version: str) -> Path:
    """The next version of a model, where no process looks: its drift detector has half of the reference."""
    fresh = incoming / folder.name
    shutil.copytree(folder, fresh)
    file = fresh / "drift" / "probabilities" / "reference.npz"
    with np.load(file) as arrays:
        halves = {key: values[: len(values) // 2] for key, values in arrays.items()}
    np.savez(file, **halves)
    _change_spec(fresh, version=version)
    return fresh


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a complete folder in its place: a process that starts meanwhile sees the old one, the new one, or none."""
    if folder.exists():
        _take_away(folder)
    fresh.rename(folder)


def settle(lab: Lab) -> None:
    """Wait until all that was ever sent to these models is whole; call it when no more is sent."""
    _wait_whole(lab)


def _add(lab: Lab, name: str, fresh: Path) -> None:
    side, version = lab.side, load_model_folder(fresh).spec.version
    side.open(name, REFUSED)
    side.wait_sent(name, REQUESTS)
    side.expect(name, either(version))
    side.wait_settled(name)
    replace_folder(fresh, lab.models / name)
    _roll_out(lab, _agents(lab))
    _roll_out(lab, [WORKERS])
    side.expect(name, answered(version))
    side.wait_sent(name, REQUESTS)
    side.wait_settled(name)


def _remove(lab: Lab, name: str) -> None:
    side, version = lab.side, load_model_folder(lab.models / name).spec.version
    side.expect(name, either(version))
    side.wait_settled(name)
    _take_away(lab.models / name)
    _roll_out(lab, [WORKERS])
    side.expect(name, REFUSED)
    side.wait_settled(name)
    _wait_whole(lab, name)
    _roll_out(lab, _agents(lab))
    side.tell_held_back(name)
    side.wait_sent(name, REQUESTS)
    side.close(name)
    side.wait_settled(name)
    _wait_whole(lab, name)


def _roll_out(lab: Lab, kinds: Sequence[str]) -> None:
    """A rolling restart of these services, side by side as on Kubernetes: of each, one instance after another.

    Not by threads: a process dies with the thread that started it (`PR_SET_PDEATHSIG`).
    """
    services = [[process for name, process in lab.processes.items() if _kind(name) == kind] for kind in kinds]
    for wave in zip_longest(*services):
        processes = [process for process in wave if process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait(GRACE_SECONDS) == 0, process.last_words()
            process.start()
        for process in processes:
            process.wait_ready(READY_SECONDS)


def _agents(lab: Lab) -> list[str]:
    return [kind for kind in dict.fromkeys(map(_kind, lab.processes)) if kind != WORKERS]


def _kind(process: str) -> str:
    return process.rsplit("-", 1)[0]


def _wait_whole(lab: Lab, *models: str) -> None:
    """Wait until the books of what was sent to these models so far, or to all, are balanced. What comes meanwhile must
    be refused: its letters are not looked at."""
    books: list[SideLedger] = []
    asked = {one.request_id for one in lab.side.of(*models)}

    def own(found: Iterable[Named]) -> list[Named]:
        return [one for one in found if one.request_id in asked]

    def whole() -> bool:
        seen = lab.side.seen(*models)
        found = look(lab.settings, lab.store, own(seen.pairs), own(seen.letters), models or lab.side.models)
        books[:] = [balance_side(own(seen.sent), seen.told & asked, found, WINDOW)]
        return books[0].balanced

    wait_for(whole, SETTLE_SECONDS, lambda: f"the side models' books: {books[0].differences}", lab.revive)


def _present(lab: Lab) -> str:
    """The side model that is there for the longest time; a new one if there is none."""
    there = [name for name in lab.side.models if (lab.models / name).exists()]
    if there:
        return there[0]
    with added(lab):
        return _present(lab)


def _new_name(lab: Lab) -> str:
    return f"side-{len(lab.side.models) + 1}"


def _make(lab: Lab, name: str) -> Path:
    """A folder of a new model, where no process looks."""
    return make_models(lab.folder / "incoming", [name], SPEC) / name


def _change_spec(folder: Path, **fields: str) -> None:
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | fields))
    write_checksums(folder)
    load_model_folder(folder).verify()


def _take_away(folder: Path) -> None:
    """Remove it at once, not file by file."""
    shutil.rmtree(folder.rename(folder.parent.with_name("outgoing")))
