"""The reference model's folder, made again from its weights: `python -m training.reference_model ARRAYS.npz FOLDER`."""

import json
import os
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from runtime.errors import CONFIGURATION_EXIT, ConfigurationError, ModelwatchError
from runtime.model_folder import SPEC_FILE, load_model_folder, write_checksums
from schemas.model_spec import ModelSpec
from training.corruptions import corrupt
from training.datasets import LABELS, TRUCK_INDEX, Cifar10, load_cifar10
from training.model_card import CARD_FILE, FIRST, Figures, measure, render_card

WEIGHTS_FILE = "resnet32.keras"
NUM_BLOCKS = 5
"""Blocks in each of the three stages of ResNet-32: 6 x 5 + 2 layers with weights (He et al. 2016, section 4.2)."""
PREDICTION_BATCH = 500
ARTICLE_CORRUPTIONS = ("gaussian_noise", "motion_blur", "brightness", "pixelate")
SPEC = {
    "name": "cifar10-resnet32",
    "version": "1",
    "description": "ResNet-32 that puts a 32x32 colour picture into one of the ten classes of CIFAR-10",
    "task": "classification",
    "input": {"kind": "image", "shape": [32, 32, 3], "scale": 255.0},
    "labels": list(LABELS),
    "weights": {"framework": "keras", "file": WEIGHTS_FILE},
}


def build_resnet32() -> Any:
    """An untrained ResNet-32: (n, 32, 32, 3) float32 in 0..1 to (n, 10) probabilities, a `tf_keras.Model`."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    from alibi_detect.models.tensorflow.resnet import resnet

    return resnet(num_blocks=NUM_BLOCKS, classes=len(LABELS), input_shape=(32, 32, 3))


def model_from_arrays(path: Path) -> Any:
    """A ResNet-32 with the weights of an .npz file, whose arrays are named `<layer>/<weight>`.

    Raises:
        ConfigurationError: the file cannot be read, or its names or shapes are not exactly the model's.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path} is not a readable .npz file of weights: {error}") from error
    model = build_resnet32()
    expected = {_array_name(layer, weight): weight.shape for layer in model.layers for weight in layer.weights}
    found = {name: array.shape for name, array in arrays.items()}
    if different := sorted(name for name, _ in set(expected.items()) ^ set(found.items())):
        raise ConfigurationError(
            f"{path} does not hold a ResNet-32's weights: {len(different)} arrays are missing, unknown or of another "
            f"shape, among them {', '.join(different[:3])}"
        )
    for layer in model.layers:
        layer.set_weights([arrays[_array_name(layer, weight)] for weight in layer.weights])
    return model


def write_model_folder(arrays: Path, folder: Path) -> None:
    """Write the whole model folder: weights, `model.yaml`, checksums, and a card with figures measured from them.

    In a fresh process the weights file is the same to the byte each time.

    Raises:
        ConfigurationError: the arrays are not usable.
        TransientError: CIFAR-10, which the figures are measured on, could not be fetched.
    """
    model = model_from_arrays(arrays)
    data = load_cifar10()
    folder.mkdir(parents=True, exist_ok=True)
    save_reproducibly(model, folder / WEIGHTS_FILE)
    ModelSpec.model_validate(SPEC)
    (folder / SPEC_FILE).write_text(yaml.safe_dump(SPEC, sort_keys=False, width=120), encoding="utf-8")
    write_checksums(folder)
    saved = load_keras(folder / WEIGHTS_FILE)
    card = render_card(_figures(saved, data), load_model_folder(folder).weights_sha256, saved.count_params())
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def load_keras(file: Path) -> Any:
    """The model in a `.keras` file, loaded as the inference worker does: not compiled, and running no code of the file.

    Needs neither alibi-detect nor a registered class.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tf_keras

    return tf_keras.models.load_model(file, compile=False, safe_mode=True)


def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities, (n, 10) float32, for images (n, 32, 32, 3) uint8."""
    starts = range(0, len(images), PREDICTION_BATCH)
    shown = track(starts, "Predicting", console=Console(stderr=True), transient=True, disable=len(starts) == 1)
    batches = (images[start : start + PREDICTION_BATCH].astype(np.float32) / 255 for start in shown)
    return np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])


def save_reproducibly(model: Any, file: Path) -> None:
    """Save in Keras' v3 format without the time of saving, so that equal weights make equal files."""
    with TemporaryDirectory(dir=file.parent, prefix=".saving-") as temporary:
        dated, undated = Path(temporary) / "dated.keras", Path(temporary) / "undated.keras"
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(undated, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps(json.loads(content) | {"date_saved": "undated"}).encode()
                target.writestr(zipfile.ZipInfo(name), content)
        undated.replace(file)


def _figures(model: Any, data: Cifar10) -> Figures:
    truck = predict(model, data.train_images[TRUCK_INDEX : TRUCK_INDEX + 1])[0]
    first = data.test_images[:FIRST]
    corrupted = {name: predict(model, corrupt(first, name, severity=5, seed=0)) for name in ARTICLE_CORRUPTIONS}
    return measure(predict(model, data.test_images), data.test_labels, truck, corrupted)


def _array_name(layer: Any, weight: Any) -> str:
    return f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}"


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    if len(arguments) != 2:
        errors.print("usage: python -m training.reference_model ARRAYS.npz FOLDER")
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        write_model_folder(Path(arguments[0]), Path(arguments[1]))
    except ModelwatchError as error:
        errors.print(f"error: {error}")
        return CONFIGURATION_EXIT if isinstance(error, ConfigurationError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
