"""Where `modelwatch produce` takes images from: CIFAR-10, the article's truck, a folder, or a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigurationError
from schemas.payloads.encode import FORMATS
from training.corruptions import CORRUPTIONS, corrupt, mask_noise
from training.datasets import TRUCK_INDEX, load_cifar10

BLOCK = 256
SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".npy": "application/x-npy"}


@dataclass(frozen=True)
class Change:
    """What is done to each image before it is sent."""

    corruption: str | None = None
    severity: int = 5
    mask: int | None = None
    seed: int = 0

    def apply(self, images: NDArray[np.uint8], block: int) -> NDArray[Any]:
        """The changed images: uint8, or float32 in 0..1 under a mask."""
        if self.corruption is not None:
            images = corrupt(images, self.corruption, self.severity, self.seed + block)
        if self.mask is not None:
            return mask_noise(images, self.mask, self.seed + block)
        return images


@dataclass(frozen=True)
class Source:
    """Ready message values: `total` of them, with the content type of each and a name for its id."""

    total: int
    messages: Iterator[tuple[str, str, bytes]]


def open_source(source: str, start: int, count: int | None, payload: str | None, change: Change) -> Source:
    """The messages of `source`.

    Raises:
        ConfigurationError: no such source, format or corruption; the text names what there is.
    """
    if change.corruption is not None and change.corruption not in CORRUPTIONS:
        raise ConfigurationError(f"no corruption {change.corruption!r}; there are {', '.join(CORRUPTIONS)}")
    if source in ("cifar10", "truck"):
        return _cifar10(source, start, count, payload, change)
    path = Path(source)
    if not path.exists():
        raise ConfigurationError(f"{source!r} is neither cifar10, truck, nor an existing file or folder")
    if payload is not None or change.corruption or change.mask:
        raise ConfigurationError(
            "files are sent as they are; --format, --corruption and --mask go with cifar10 or truck"
        )
    return _files(path, start, count)


def _cifar10(source: str, start: int, count: int | None, payload: str | None, change: Change) -> Source:
    payload = payload or ("npy" if change.mask else "png")
    if payload not in FORMATS:
        raise ConfigurationError(f"no format {payload!r}; there are {', '.join(FORMATS)}")
    if change.mask and payload in ("png", "jpeg"):
        raise ConfigurationError(f"masked images are floating point, which {payload} cannot hold; use --format npy")
    data = load_cifar10()
    if source == "truck":
        images = np.repeat(data.train_images[TRUCK_INDEX][None], count or 1, axis=0)
    else:
        images = data.test_images[start : start + count if count else None]
    if not len(images):
        raise ConfigurationError(f"--start {start} is past the last test image")
    encode, content_type = FORMATS[payload].encode, FORMATS[payload].content_type

    def messages() -> Iterator[tuple[str, str, bytes]]:
        for first in range(0, len(images), BLOCK):
            block = change.apply(images[first : first + BLOCK], first)
            for index, image in enumerate(block, start + first):
                yield f"{source}-{index:05d}", content_type, encode(image)

    return Source(len(images), messages())


def _files(path: Path, start: int, count: int | None) -> Source:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = files[start : start + count if count else None]
    unknown = [file.name for file in files if file.suffix.lower() not in SUFFIXES]
    if not files or unknown:
        raise ConfigurationError(
            f"no image in {path}: files ending {', '.join(SUFFIXES)} are sent; found {unknown or 'none'}"
        )

    def messages() -> Iterator[tuple[str, str, bytes]]:
        for file in files:
            yield file.stem, SUFFIXES[file.suffix.lower()], file.read_bytes()

    return Source(len(files), messages())
