"""Fashion-MNIST is read as it is published, and its absence is explained."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import ConfigurationError
from training.fashion_mnist import DEBIAN_FOLDER, FOLDER_VARIABLE, TEST_FILE, load_fashion_mnist


def write(folder: Path, grey: np.ndarray, magic: int = 2051) -> None:  # type: ignore[type-arg]
    header = np.array([magic, *grey.shape], ">i4").tobytes()
    (folder / TEST_FILE).write_bytes(gzip.compress(header + grey.tobytes()))


def test_pictures_are_bordered_and_grey_in_three_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    write(tmp_path, grey)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    images = load_fashion_mnist(5)
    assert (images.shape, images.dtype) == ((5, 32, 32, 3), np.uint8)
    assert all(np.array_equal(images[:, 2:30, 2:30, channel], grey[:5]) for channel in range(3))
    assert images[:, :2].max() == images[:, :, 30:].max() == 0


def test_its_absence_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigurationError, match="apt-get install dataset-fashion-mnist"):
        load_fashion_mnist(1)


@pytest.mark.parametrize("damage", ["no gzip", "cut short", "labels", "too few"])
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    write(tmp_path, np.zeros((3, 28, 28), np.uint8), magic=2049 if damage == "labels" else 2051)
    content = (tmp_path / TEST_FILE).read_bytes()
    if damage == "no gzip":
        (tmp_path / TEST_FILE).write_bytes(b"pictures")
    elif damage == "cut short":
        (tmp_path / TEST_FILE).write_bytes(content[:-9])
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigurationError, match=TEST_FILE):
        load_fashion_mnist(4 if damage == "too few" else 3)


@pytest.mark.skipif(not (DEBIAN_FOLDER / TEST_FILE).exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_package_is_read() -> None:
    images = load_fashion_mnist(1000)
    assert images.shape == (1000, 32, 32, 3)
    assert 60 < images[:, 2:30, 2:30].mean() < 85
