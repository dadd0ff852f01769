"""`modelwatch train` as a user types it: it goes on after a stop, leaves a good folder alone, and explains mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.model_folder import load_model_folder

FOLDER = Path(__file__).resolve().parents[2] / "models" / "cifar10-resnet32"
TRAIN = [sys.executable, "-m", "cli.main", "train"]
START_SECONDS = 150


def run(*arguments: str, timeout: float = 250, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run([*TRAIN, *arguments], capture_output=True, text=True, timeout=timeout, env=variables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(FOLDER, copied)
    return copied


def curve(work: Path) -> list[dict[str, float]]:
    points: list[dict[str, float]] = json.loads(next(work.glob("*/learning_curve.json")).read_text())
    return points


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.slow
def test_resnet32_goes_on_where_it_stopped_and_leaves_the_weights_alone_until_it_is_done(
    folder: Path, tmp_path: Path
) -> None:
    before, work = contents(folder), tmp_path / "work"
    options = ("resnet32", "--folder", str(folder), "--work", str(work))
    for steps in ("2", "4"):
        done = run(*options, "--steps", steps)
        assert done.returncode == 0, done.stderr
        assert f"step {steps}: loss" in done.stderr
    assert "Going on from step 2" in done.stderr
    assert [point["step"] for point in curve(work)] == [2, 4]
    assert all(0 < point["loss"] < 10 for point in curve(work))
    assert contents(folder) == before
    refused = run(*options)
    assert refused.returncode == 78
    assert "--replace" in refused.stderr


@pytest.fixture
def training(folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The outlier detector's training, under way."""
    command = [*TRAIN, "outliers", "--folder", str(folder), "--work", str(tmp_path / "work"), "--no-report"]
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    deadline = time.monotonic() + START_SECONDS
    while not list((tmp_path / "work").glob("*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield process
    process.kill()
    process.wait()


def test_ctrl_c_ends_a_training_without_a_traceback_and_leaves_the_folder_as_it_was(
    training: "subprocess.Popen[str]", folder: Path
) -> None:
    training.send_signal(signal.SIGINT)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "Traceback" not in said
    assert contents(folder) == {str(folder / name.relative_to(FOLDER)): name.read_bytes() for name in files()}


def files() -> list[Path]:
    return sorted(file for file in FOLDER.rglob("*") if file.is_file())


@pytest.mark.slow
def test_the_threshold_can_be_set_anew_for_another_rate(folder: Path) -> None:
    done = run("outliers", "--calibrate-only", "--false-positive-rate", "0.05", "--folder", str(folder), "--no-report")
    assert done.returncode == 0, done.stderr
    before, after = load_model_folder(FOLDER).spec.outliers, load_model_folder(folder).spec.outliers
    assert before and after and after.calibration
    assert after.calibration.false_positive_rate == 0.05
    assert after.threshold < before.threshold
    load_model_folder(folder).verify([f"{after.files}/weights.npz"])


@pytest.mark.slow
def test_drift_detectors_are_made_with_the_settings_given_and_the_same_each_time(folder: Path) -> None:
    done = run("drift", "--correction", "fdr", "--window-size", "500", "--folder", str(folder), "--no-report")
    assert done.returncode == 0, done.stderr
    spec = load_model_folder(folder).spec
    assert {detector.correction for detector in spec.drift.values()} == {"fdr"}
    assert spec.window.window_size == 500
    load_model_folder(folder).verify()
    for name in ("drift/untrained_encoder/weights.npz", "drift/untrained_encoder/config.json"):
        assert (folder / name).read_bytes() == (FOLDER / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("outliers", "--folder", "nowhere"), "nowhere"),
        (("report", "--folder", "nowhere"), "nowhere"),
        (("resnet32", "--weights", "nothing.npz", "--folder", "nowhere"), "nothing.npz"),
        (("drift", "--correction", "none"), "none"),
        (("outliers", "--false-positive-rate", "2"), "--false-positive-rate"),
    ],
)
def test_a_users_mistake_is_explained_in_a_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*(str(tmp_path / part) if part in ("nowhere", "nothing.npz") else part for part in arguments))
    assert done.returncode in (2, 78)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_report_says_which_package_is_missing_before_it_measures(tmp_path: Path) -> None:
    done = run("report", "--no-write", MODELWATCH_FASHION_MNIST=str(tmp_path))
    assert done.returncode == 78
    assert "apt-get install dataset-fashion-mnist" in done.stderr
    assert "--without-fashion-mnist" in done.stderr


@pytest.mark.parametrize("command", ["temperature", "outliers", "drift", "report", "all"])
def test_a_model_of_other_pictures_is_refused_before_anything_is_done(tmp_path: Path, command: str) -> None:
    other = {"name": "other", "version": "1", "input": {"shape": [8, 8, 3]}, "labels": ["a", "b"]}
    (tmp_path / "model.yaml").write_text(json.dumps(other | {"weights": {"framework": "null"}}))
    options = ["--without-fashion-mnist"] if command == "all" else []
    done = run(command, "--folder", str(tmp_path), *options)
    assert done.returncode == 78, done.stderr
    assert "(8, 8, 3)" in done.stderr and "docs/add-a-model.md" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["temperature", "report"])
def test_a_model_of_other_classes_is_not_compared_with_cifar10s(tmp_path: Path, command: str) -> None:
    other = {"name": "other", "version": "1", "input": {"shape": [32, 32, 3]}, "labels": ["a", "b"]}
    (tmp_path / "model.yaml").write_text(json.dumps(other | {"weights": {"framework": "null"}}))
    done = run(command, "--folder", str(tmp_path))
    assert done.returncode == 78, done.stderr
    assert "2 classes" in done.stderr and "Traceback" not in done.stderr
