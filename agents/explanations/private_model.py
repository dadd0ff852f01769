"""A copy of a model inside the agent: for where no worker can be asked, and for measurements."""

from agents.explanations.explainer import Predict
from agents.network import CompiledFunction
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from runtime.model_loader import answers_of, load_weights


def load_private_model(folder: ModelFolder) -> Predict:
    """A model's own prediction, compiled; thread-safe.

    Raises:
        ConfigurationError: its files fail their checksums, or cannot be loaded.
    """
    if folder.spec.weights.framework == "null":
        raise ConfigurationError(f"{folder.spec.name} has no weights that could be loaded into the agent")
    folder.verify()
    return CompiledFunction(answers_of(load_weights(folder), folder.spec), folder.spec.input)
