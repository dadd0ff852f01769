"""A copy of a model inside the agent: for where no worker can be asked, and for measurements."""

from agents.explanations.explainer import Predict
from agents.network import CompiledFunction
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from runtime.model_loader import load_weights


def load_private_model(folder: ModelFolder) -> Predict:
    """A model's own prediction, compiled; thread-safe.

    Raises:
        ConfigurationError: its files fail their checksums, or cannot be loaded.
    """
    if folder.spec.weights.framework == "null":
        raise ConfigurationError(f"{folder.spec.name} has no weights that could be loaded into the agent")
    import tensorflow as tf

    folder.verify()
    model = load_weights(folder)
    finish = tf.nn.softmax if folder.spec.outputs == "logits" else tf.identity
    return CompiledFunction(lambda x: finish(model(x, training=False)), folder.spec.input)
