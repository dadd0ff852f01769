"""From the weights of a verified model folder to something to call: Keras 2 and 3, in either of their formats, and
SavedModel folders. Nothing is loaded that was not looked at first: a model's file brings no code along."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from runtime import tensorflow_environment
from runtime.errors import ConfigurationError
from runtime.keras_files import inspect_keras_file
from runtime.model_folder import ModelFolder
from runtime.saved_models import check_saved_model
from schemas.model_spec import ModelSpec


def load_weights(folder: ModelFolder) -> Any:
    """A model to call in a TensorFlow graph: `model(x, training=False)`, x float32 (n, *shape).

    Raises:
        ConfigurationError: the file is not what `weights.framework` says, could run code, or cannot be loaded.
    """
    weights = folder.spec.weights
    path = folder.file(str(weights.file))
    tensorflow_environment.prepare()
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras 3 reads it when imported; another could not be in our graph
    if weights.framework == "saved_model":
        check_saved_model(path)
        return _SavedModel(path, weights.signature)
    package = import_module(inspect_keras_file(path))
    try:
        return package.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # what the framework raises for a wrong file is of any kind
        raise ConfigurationError(f"{path} is not a Keras model that can be loaded: {brief_error(error)}") from error


def answers_of(model: Any, spec: ModelSpec) -> Callable[[Any], Any]:
    """What is answered of float32 tensors (n, *shape): probabilities (n, labels), also where the weights answer logits;
    of a regression model, its number (n, 1). To be traced into a graph, which raises a `ConfigurationError` where the
    weights answer something else than `model.yaml` names."""
    import tensorflow as tf

    def answer(x: Any) -> Any:
        outputs = tf.nest.flatten(model(x, training=False))
        shapes = [tuple(output.shape) for output in outputs]
        if [shape[1:] for shape in shapes] != [(len(spec.labels),)]:
            raise ConfigurationError(_unlike_labels(spec, shapes))
        return tf.nn.softmax(outputs[0]) if spec.outputs == "logits" else outputs[0]

    return answer


def _unlike_labels(spec: ModelSpec, shapes: Sequence[tuple[int | None, ...]]) -> str:
    """What weights answer that are not one number a label, and what to do."""
    if len(shapes) == 1 and len(shapes[0]) == 2:
        found, remedy = f"{shapes[0][1]} numbers", "name each of them in its order"
        if shapes[0][1] == 1 and len(spec.labels) == 2:
            remedy = "of a sigmoid p, save a model that answers [1 - p, p]; or call the task regression"
    else:
        found = " and ".join(f"({', '.join('n' if size is None else str(size) for size in shape)})" for shape in shapes)
        remedy = f"it must answer one tensor (n, {len(spec.labels)}): is a Flatten or a pooling layer missing?"
    return f"model {spec.name} answers {found} but model.yaml has {len(spec.labels)} labels; {remedy}"


def brief_error(error: Exception) -> str:
    """One line of what the framework says, which may be pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


class _SavedModel:
    """One signature of a SavedModel, called as Keras models are."""

    def __init__(self, path: Path, signature: str) -> None:
        import tensorflow as tf

        self._tf = tf
        try:
            self._model = tf.saved_model.load(path)  # kept: its functions do not keep its variables alive
        except Exception as error:  # likewise
            raise ConfigurationError(f"{path} is not a SavedModel that can be loaded: {brief_error(error)}") from error
        signatures = self._model.signatures
        if signature not in signatures:
            raise ConfigurationError(
                f"{path} has no signature {signature!r}; set weights.signature to one of "
                f"{', '.join(sorted(signatures)) or 'none: export the model with one'}"
            )
        self._function = signatures[signature]
        inputs = self._function.structured_input_signature[1]
        if len(inputs) != 1 or not next(iter(inputs.values())).dtype.is_floating:
            found = ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in inputs.items())
            raise ConfigurationError(
                f"{path}, signature {signature}: it takes {found or 'nothing'}; what can be asked takes one tensor of "
                "floating point (n, ...)"
            )
        self._name, self._spec = next(iter(inputs.items()))

    def count_params(self) -> int:
        """Numbers in its variables."""
        return sum(variable.shape.num_elements() for variable in self._model.variables)

    def __call__(self, x: Any, training: bool = False) -> Any:
        answers = self._function(**{self._name: self._tf.cast(x, self._spec.dtype)})
        return list(answers.values()) if len(answers) > 1 else next(iter(answers.values()))
