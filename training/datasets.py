"""CIFAR-10, fetched once, kept as plain arrays in the user's cache, checked, and mapped into memory on use."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir
from rich.console import Console

from runtime.errors import ConfigurationError
from training.cifar10_source import SHA256, SHAPES, Arrays, fetch_cifar10, sha256_of_array

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRUCK_INDEX = 1
"""The article's truck is this training image."""
STAMP_FILE = "stamp.json"
WORK_PREFIX = ".prepare-"

Pixels = NDArray[np.uint8]
Stamp = dict[str, list[int | str]]


@dataclass(frozen=True, eq=False)
class Cifar10:
    """The data set, read-only: images in 0..255, labels as indices into `LABELS`, all uint8.

    Attributes:
        train_images: (50000, 32, 32, 3)
        train_labels: (50000,)
        test_images: (10000, 32, 32, 3)
        test_labels: (10000,)
    """

    train_images: Pixels
    train_labels: Pixels
    test_images: Pixels
    test_labels: Pixels


def load_cifar10(progress: bool = True) -> Cifar10:
    """All of CIFAR-10. Arrays are mapped, so what is not looked at is not read.

    Args:
        progress: show the download and decoding, when there is any, on standard error.

    Raises:
        ConfigurationError: the cache folder cannot be written, or npm is missing and the other route failed.
        TransientError: no route to the data worked.
    """
    return Cifar10(*load_split("train", progress), *load_split("test", progress))


def load_split(split: Literal["train", "test"], progress: bool = True) -> tuple[Pixels, Pixels]:
    """Images and labels of one split, without touching the other's files; see `load_cifar10`."""
    folder = cache_folder() / "cifar10"
    names = (f"{split}_images", f"{split}_labels")
    if not _verified(folder, names):
        with _sole_preparer(folder, progress):
            if not _verified(folder, names):
                _prepare(folder, progress)
    images, labels = (_mapped(folder, name) for name in names)
    return images, labels


def cache_folder() -> Path:
    """Where prepared data is kept: MODELWATCH_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("MODELWATCH_CACHE") or user_cache_dir("modelwatch"))


def _mapped(folder: Path, name: str) -> Pixels:
    array: Pixels = np.load(folder / f"{name}.npy", mmap_mode="r")
    return array.view(np.ndarray)


def _verified(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether the files hold the pinned arrays.

    A file that has the size and time it had when last hashed is not hashed again: that would read 180 MB each time.
    """
    stamp = _read_stamp(folder)
    seen: Stamp = {}
    for name in names:
        mark = _mark(folder, name)
        if not mark or (stamp.get(name) != mark and not _is_pinned(folder, name)):
            return False
        seen[name] = mark
    if any(stamp.get(name) != mark for name, mark in seen.items()):
        with contextlib.suppress(OSError):  # a cache that cannot be written is hashed in full each time
            _write_stamp(folder, stamp | seen)
    return True


def _is_pinned(folder: Path, name: str) -> bool:
    try:
        array = _mapped(folder, name)
    except (OSError, ValueError, EOFError):  # cut short, or no array at all
        return False
    return array.dtype == np.uint8 and array.shape == SHAPES[name] and sha256_of_array(array) == SHA256[name]


def _mark(folder: Path, name: str) -> list[int | str]:
    """Size, time of change, and the hash that was found at that time; empty if there is no such file."""
    try:
        status = (folder / f"{name}.npy").stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, SHA256[name]]


def _read_stamp(folder: Path) -> Stamp:
    try:
        content = json.loads((folder / STAMP_FILE).read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: the files are hashed and it is written anew
        return {}
    return content if isinstance(content, dict) else {}


def _write_stamp(folder: Path, stamp: Stamp) -> None:
    temporary = folder / f"{STAMP_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(stamp))
    temporary.replace(folder / STAMP_FILE)


@contextlib.contextmanager
def _sole_preparer(folder: Path, progress: bool) -> Iterator[None]:
    """Hold the folder's lock: of several processes one downloads and the others wait, then find it done."""
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / ".lock").open("w"))
            _wait_for(lock.fileno(), folder, progress)
            for leftover in folder.glob(f"{WORK_PREFIX}*"):  # of a process that was killed
                shutil.rmtree(leftover)
        except OSError as error:
            raise _unusable(folder, error) from error
        yield


def _wait_for(lock: int, folder: Path, progress: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Console(stderr=True, quiet=not progress).print(f"Another process is preparing {folder}; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _prepare(folder: Path, progress: bool) -> None:
    """Fetch, and put each array in place at once and whole: a reader sees the old file or the new one."""
    with TemporaryDirectory(prefix=WORK_PREFIX, dir=folder) as work:
        arrays = fetch_cifar10(Path(work), progress)
        try:
            _store(arrays, Path(work), folder)
        except OSError as error:
            raise _unusable(folder, error) from error


def _store(arrays: Arrays, work: Path, folder: Path) -> None:
    for name, array in arrays.items():
        np.save(work / f"{name}.npy", array)
    for name in arrays:
        (work / f"{name}.npy").replace(folder / f"{name}.npy")
    _write_stamp(folder, {name: _mark(folder, name) for name in arrays})


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the cache folder {folder} cannot be written ({error.strerror}); CIFAR-10 needs 400 MB there while it is "
        "prepared and 180 MB after: set MODELWATCH_CACHE to a folder with room that you may write"
    )
