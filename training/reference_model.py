"""The reference classifier: ResNet-32 as alibi-detect builds it, its weights, and its place in a model folder."""

import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from runtime.errors import ConfigurationError
from runtime.model_folder import sha256_of, write_checksums
from runtime.spec_file import SPEC_FILE, read_spec
from training.datasets import LABELS
from training.folder_update import replace_text, update_spec, writing

WEIGHTS_FILE = "resnet32.keras"
NUM_BLOCKS = 5
"""Blocks in each of the three stages of ResNet-32: 6 x 5 + 2 layers with weights (He et al. 2016, section 4.2)."""
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


def install_classifier(model: Any, path: Path) -> None:
    """Put a classifier's weights into a model folder, made if need be, and write `model.yaml` and checksums.

    In a fresh process the weights file of equal weights is the same to the byte each time. With other weights than
    before, what was measured on the classifier's answers is taken out of `model.yaml`: temperature and reference of the
    probabilities.

    Raises:
        ConfigurationError: the folder is that of another kind of model, or cannot be written.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if not (path / SPEC_FILE).exists():
            replace_text(path / SPEC_FILE, yaml.safe_dump(SPEC, sort_keys=False, width=120))
        spec = read_spec(path / SPEC_FILE)
        if (spec.weights.file, spec.input.shape, spec.labels) != (WEIGHTS_FILE, (32, 32, 3), LABELS):
            raise ConfigurationError(f"{path / SPEC_FILE} describes another model than ResNet-32 on CIFAR-10")
        before = sha256_of(path / WEIGHTS_FILE) if (path / WEIGHTS_FILE).exists() else None
        save_reproducibly(model, path / WEIGHTS_FILE)
    if before == sha256_of(path / WEIGHTS_FILE):
        write_checksums(path)
    else:
        drift = {name: detector for name, detector in spec.drift.items() if detector.kind != "probabilities"}
        update_spec(path, calibration=None, drift=dict(drift))


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


def _array_name(layer: Any, weight: Any) -> str:
    return f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}"
