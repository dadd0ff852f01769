"""The classifier of a model folder, asked in bulk: a compiled graph, and progress for whoever waits."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import CompiledFunction, Images
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from runtime.model_loader import answers_of, load_weights


class Classifier:
    """Answers of the weights that a folder's `model.yaml` names, loaded and computed as the inference worker does.

    Raises:
        ConfigurationError: the folder has no weights, or they are not those of its checksums, or cannot be loaded.
    """

    def __init__(self, folder: ModelFolder) -> None:
        if not folder.spec.weights.file:
            raise ConfigurationError(f"{folder.path} has no weights: its classifier answers without computing")
        folder.verify()
        model: Any = load_weights(folder)
        self.parameters: int = model.count_params()
        self._compiled = CompiledFunction(answers_of(model, folder.spec), folder.spec.input)

    def predict(self, images: Images) -> NDArray[np.float32]:
        """Probabilities (n, classes) for images (n, *shape), uint8, or float32 as the model takes them."""
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
