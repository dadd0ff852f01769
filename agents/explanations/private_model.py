"""A copy of a model inside the agent: for where no worker can be asked, and for measurements."""

from agents.explanations.explainer import Predict
from agents.network import CompiledFunction
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder


def load_private_model(folder: ModelFolder) -> Predict:
    """A model's own prediction, compiled; thread-safe.

    Raises:
        ConfigurationError: its files fail their checksums, or cannot be loaded.
    """
    if folder.spec.weights.framework != "keras":
        raise ConfigurationError(f"{folder.spec.name} has no weights that could be loaded into the agent")
    folder.verify()
    import tf_keras

    path = folder.file(str(folder.spec.weights.file))
    try:
        model = tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # what the framework raises for a wrong file is of any kind
        reason = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{path} is not a Keras model that can be loaded: {reason}") from error
    return CompiledFunction(lambda x: model(x, training=False), folder.spec.input)
