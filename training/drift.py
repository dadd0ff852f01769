"""`modelwatch train drift`: an encoder with random weights, and reference features for each drift detector."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.drift.detectors import ENCODER_PART, REFERENCE_ARRAY, encoder_of
from agents.network import Images
from runtime.model_folder import ModelFolder
from schemas.model_spec import DriftSpec, WindowSpec
from training.classifier import Classifier, in_blocks
from training.folder_update import new_files, update_spec
from training.image_folder import image_folder
from training.loop import progress_bar
from training.network_export import export_network
from training.splits import ENCODER_REFERENCE_SPLIT, REFERENCE_SPLIT

FILES = "drift"
REFERENCE_FILE = "reference.npz"
UNTRAINED_ENCODER = "untrained_encoder"
PROBABILITIES = "probabilities"
REFERENCES = {UNTRAINED_ENCODER: ENCODER_REFERENCE_SPLIT, PROBABILITIES: REFERENCE_SPLIT}


@dataclass(frozen=True)
class DriftOptions:
    """The encoder: convolutions (kernel 4, stride 2, relu) and a dense layer, in the article 64, 128, 512 and 32."""

    filters: tuple[int, ...] = (64, 128, 512)
    features: int = 32
    p_value: float = 0.05
    correction: Literal["bonferroni", "fdr"] = "bonferroni"
    window_size: int = 1000
    max_age_seconds: float = 3600.0
    stride: int | None = None
    seed: int = 0


def train_drift(path: Path, options: DriftOptions) -> dict[str, DriftSpec]:
    """Put both drift detectors into a model folder: nothing is learned, but the reference is measured.

    Raises:
        ConfigurationError: the folder is not usable, has no weights, or takes other images than CIFAR-10's.
    """
    folder = image_folder(path)
    classifier = Classifier(folder)
    with new_files(path, FILES) as fresh:
        export_network({ENCODER_PART: build_encoder(options).layers}, fresh / UNTRAINED_ENCODER)
        encoder = encoder_of(fresh / UNTRAINED_ENCODER, folder.spec.input)
        _write_reference(fresh / UNTRAINED_ENCODER, encoder)
        _write_reference(fresh / PROBABILITIES, classifier.predict)
    section = {name: _spec(name, options, folder) for name in (UNTRAINED_ENCODER, PROBABILITIES)}
    window = WindowSpec(window_size=options.window_size, max_age_seconds=options.max_age_seconds, stride=options.stride)
    update_spec(path, drift=dict(section), window=window)
    return section


def _spec(name: str, options: DriftOptions, folder: ModelFolder) -> DriftSpec:
    fields = {
        "kind": name,
        "version": folder.spec.version,
        "files": f"{FILES}/{name}" if name == UNTRAINED_ENCODER else None,
        "reference": f"{FILES}/{name}/{REFERENCE_FILE}",
        "p_value": options.p_value,
        "correction": options.correction,
        "source": str(REFERENCES[name]),
    }
    return DriftSpec.model_validate(fields)


def build_encoder(options: DriftOptions) -> Any:
    """A Keras encoder from images (32, 32, 3) to features, its weights random, drawn from the seed (Rabanser 2019)."""
    import tf_keras

    tf_keras.utils.set_random_seed(options.seed)
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            *(layers.Conv2D(n, 4, strides=2, padding="same", activation="relu") for n in options.filters),
            layers.Flatten(),
            layers.Dense(options.features),
        ]
    )


def _write_reference(folder: Path, function: Callable[[Images], NDArray[np.float32]]) -> None:
    folder.mkdir(exist_ok=True)
    images = REFERENCES[folder.name].load()[0]
    with progress_bar() as bar:
        task = bar.add_task(f"Reference of {folder.name}", total=len(images))
        features = in_blocks(function, images, lambda done: bar.advance(task, done))
    np.savez(folder / REFERENCE_FILE, **{REFERENCE_ARRAY: features})
