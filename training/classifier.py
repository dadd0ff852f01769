"""The classifier of a model folder, asked in bulk: a compiled graph, and progress for whoever waits."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import CompiledFunction, Images
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from training.reference_model import load_keras


class Classifier:
    """Answers of the weights that a folder's `model.yaml` names, checked against their checksum first.

    Raises:
        ConfigurationError: the folder has no Keras weights, or they are not those of its checksums.
    """

    def __init__(self, folder: ModelFolder) -> None:
        if not folder.spec.weights.file:
            raise ConfigurationError(f"{folder.path} has no weights: its classifier answers without computing")
        folder.verify()
        model: Any = load_keras(folder.file(folder.spec.weights.file))
        self.parameters: int = model.count_params()
        spec = folder.spec.input
        self._compiled = CompiledFunction(lambda x: model(x, training=False), spec)

    def predict(self, images: Images) -> NDArray[np.float32]:
        """Probabilities (n, classes) for images (n, *shape), uint8 or float32 in 0..1."""
        return self._compiled(images)


def in_blocks(
    function: Callable[[Images], NDArray[np.generic]], images: Images, advance: Callable[[int], None], block: int = 512
) -> NDArray[Any]:
    """`function` of all images, `block` at a time, telling `advance` how many are done after each."""
    results = []
    for start in range(0, len(images), block):
        results.append(function(images[start : start + block]))
        advance(len(results[-1]))
    return np.concatenate(results)
