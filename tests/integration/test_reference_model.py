"""The reference model in the repository is the one its card describes, measured again on real CIFAR-10 images."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
import pytest
from numpy.typing import NDArray

from agents.confusion.entries import PairHalf, Truth
from agents.confusion.figures import figures
from agents.confusion.sums import Sums, add, contribution
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder, load_model_folder, load_model_folders
from runtime.model_loader import load_weights
from training.classifier import Classifier
from training.corruptions import corrupt
from training.datasets import LABELS, TRUCK_INDEX, Cifar10, load_cifar10
from training.model_card import CARD_FILE, read_front_matter
from training.reference_model import WEIGHTS_FILE, model_from_arrays
from training.report.classifier_figures import FIRST

PROJECT = Path(__file__).resolve().parents[2]
NAME = "cifar10-resnet32"


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    model = load_model_folders(PROJECT / "models")[NAME]
    model.verify()
    return model


@pytest.fixture(scope="module")
def card(folder: ModelFolder) -> dict[str, Any]:
    return read_front_matter((folder.path / CARD_FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data() -> Cifar10:
    return load_cifar10(progress=False)


@pytest.fixture(scope="module")
def model(folder: ModelFolder) -> Any:
    return load_weights(folder)


@pytest.fixture(scope="module")
def classifier(folder: ModelFolder) -> Classifier:
    return Classifier(folder)


@pytest.fixture(scope="module")
def answers(classifier: Classifier, data: Cifar10) -> NDArray[np.float32]:
    return classifier.predict(data.test_images[:FIRST])


def arrays_of(model: Any) -> dict[str, NDArray[np.float32]]:
    return {
        f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}": weight.numpy()
        for layer in model.layers
        for weight in layer.weights
    }


def test_the_specification_is_of_cifar10(folder: ModelFolder, card: dict[str, Any]) -> None:
    assert folder.spec.labels == LABELS
    assert (folder.spec.input.kind, folder.spec.input.shape, folder.spec.input.scale) == ("image", (32, 32, 3), 255)
    assert folder.spec.max_batch == 128
    assert (card["name"], card["version"]) == (folder.spec.name, folder.spec.version)
    assert card["weights_sha256"] == folder.weights_sha256


def test_a_process_with_tf_keras_alone_loads_it(folder: ModelFolder) -> None:
    program = (
        "import os, sys; os.environ['TF_USE_LEGACY_KERAS'] = '1'; import tf_keras; "
        "model = tf_keras.models.load_model(sys.argv[1], compile=False); "
        "assert not any(name.startswith('alibi') for name in sys.modules); print(model.input_shape, model.output_shape)"
    )
    file = str(folder.file("resnet32.keras"))
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(None, 32, 32, 3) (None, 10)", done.stderr


def test_answers_are_ten_probabilities_and_do_not_depend_on_the_batch(
    classifier: Classifier, data: Cifar10, answers: NDArray[np.float32]
) -> None:
    assert (answers.shape, answers.dtype) == ((FIRST, 10), np.float32)
    assert answers.min() >= 0
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(classifier.predict(data.test_images[3:4]), answers[3:4], atol=1e-4)


def test_accuracy_is_the_cards(data: Cifar10, answers: NDArray[np.float32], card: dict[str, Any]) -> None:
    accuracy = float((answers.argmax(axis=1) == data.test_labels[:FIRST]).mean())
    # The same images and weights: only rounding on another processor may turn an answer, so at most two of 2,000.
    assert accuracy == pytest.approx(card["first_2000_accuracy"], abs=1e-3)
    # A sample of 2,000 of the 10,000 has a standard deviation of sqrt(p (1 - p) / 2000 * 0.8) = 0.0058 about the
    # card's accuracy p (0.8: drawn without replacement); four of them are passed by chance once in 16,000 samples.
    p = card["test_accuracy"]
    assert abs(accuracy - p) < 4 * (p * (1 - p) / FIRST * 0.8) ** 0.5


def test_confidence_is_calibrated_as_the_card_says(answers: NDArray[np.float32], card: dict[str, Any]) -> None:
    # Confidences have a standard deviation below 0.2, so the mean of 2,000 one below 0.0045.
    assert float(answers.max(axis=1).mean()) == pytest.approx(card["mean_confidence"], abs=4 * 0.0045)


def test_the_truck_is_a_truck(classifier: Classifier, data: Cifar10, card: dict[str, Any]) -> None:
    probabilities = classifier.predict(data.train_images[TRUCK_INDEX : TRUCK_INDEX + 1])[0]
    assert probabilities.argmax() == 9
    assert probabilities[9] > 0.99
    assert probabilities[9] == pytest.approx(card["truck_probability"], abs=1e-4)


def test_corrupted_images_are_answered_worse_as_the_card_says(
    classifier: Classifier, data: Cifar10, card: dict[str, Any]
) -> None:
    corrupted = corrupt(data.test_images[:FIRST], "gaussian_noise", 5, seed=0)
    accuracy = float((classifier.predict(corrupted).argmax(axis=1) == data.test_labels[:FIRST]).mean())
    assert accuracy == pytest.approx(card["corrupted_accuracy"]["gaussian_noise"], abs=0.005)
    assert accuracy < 0.5


@pytest.mark.slow
def test_the_classifier_can_be_put_into_a_new_folder_from_its_arrays(
    model: Any, folder: ModelFolder, tmp_path: Path
) -> None:
    np.savez(tmp_path / "arrays.npz", **arrays_of(model))
    made = tmp_path / "made"
    command = [sys.executable, "-m", "cli.main", "train", "resnet32"]
    options = ["--weights", str(tmp_path / "arrays.npz"), "--folder", str(made)]
    done = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (made / WEIGHTS_FILE).read_bytes() == (folder.path / WEIGHTS_FILE).read_bytes()
    found = load_model_folder(made)
    found.verify()
    assert found.spec.calibration == folder.spec.calibration
    assert found.spec.model_copy(update={"outliers": folder.spec.outliers, "drift": folder.spec.drift}) == folder.spec
    again = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, timeout=280)
    assert again.returncode == 78
    assert "--replace" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_weights_that_are_not_exactly_a_resnet32s_are_refused_by_name(model: Any, tmp_path: Path, damage: str) -> None:
    arrays = arrays_of(model)
    name = "fc10/bias"
    if damage == "missing":
        del arrays[name]
    elif damage == "unknown":
        name = "fc11/bias"
        arrays[name] = np.zeros(10, np.float32)
    else:
        arrays[name] = np.zeros(11, np.float32)
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises(ConfigurationError, match=name):
        model_from_arrays(tmp_path / "arrays.npz")


def judged(folder: ModelFolder, probabilities: NDArray[np.float32], truths: NDArray[np.generic]) -> dict[str, Any]:
    """The confusion agent's figures of answers whose truth is known."""
    temperature = folder.spec.calibration.temperature if folder.spec.calibration else 1.0
    total = Sums()
    for number, (row, truth) in enumerate(zip(probabilities, truths, strict=True)):
        text = pybase64.b64encode_as_string(row.astype("<f4").tobytes())
        told = Truth(0.0, number, 0, int(truth))
        half = PairHalf(0, number, NAME, "1", 0.0, 0.0, int(row.argmax()), text, told=told)
        add(total, contribution(half, {NAME: temperature}))
    return figures(total, LABELS)


def test_estimated_accuracy_is_within_two_points_on_clean_images_and_too_high_on_corrupted_ones(
    folder: ModelFolder, classifier: Classifier, data: Cifar10, answers: NDArray[np.float32]
) -> None:
    clean = judged(folder, answers[:2000], data.test_labels[:2000])
    assert clean["estimated_accuracy"] == pytest.approx(clean["accuracy"], abs=0.02)
    noisy_images = corrupt(data.test_images[:500], "gaussian_noise", 5, 0)
    noisy = judged(folder, classifier.predict(noisy_images), data.test_labels[:500])
    print(f"clean {clean['estimated_accuracy']:.4f} {clean['accuracy']:.4f}")
    print(f"noisy {noisy['estimated_accuracy']:.4f} {noisy['accuracy']:.4f}")
    assert noisy["estimated_accuracy"] > noisy["accuracy"] + 0.1
