"""Model folders that the commands can train and measure on CIFAR-10. Needs no TensorFlow."""

from pathlib import Path

from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder, load_model_folder

SHAPE, CLASSES = (32, 32, 3), 10
OWN_DATA = "docs/add-a-model.md shows how to train on other data"


def image_folder(path: Path, by_class: bool = False) -> ModelFolder:
    """A model folder whose model takes CIFAR-10's images.

    Args:
        by_class: the answers are compared with CIFAR-10's ten classes as well.

    Raises:
        ConfigurationError: it is not usable, takes other inputs, or has other classes.
    """
    folder = load_model_folder(path)
    spec = folder.spec
    if (spec.input.kind, spec.input.shape) != ("image", SHAPE):
        raise ConfigurationError(
            f"{path} takes {spec.input.kind} inputs of shape {spec.input.shape}; this command works on CIFAR-10, "
            f"{SHAPE}: {OWN_DATA}"
        )
    if by_class and len(spec.classes) != CLASSES:
        raise ConfigurationError(
            f"{path} has {len(spec.classes)} classes; this command works on CIFAR-10, which has {CLASSES}: {OWN_DATA}"
        )
    return folder
