"""From images to a model's outputs on whatever device there is: one interface over TensorFlow and the null model."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.settings import WorkerSettings
from runtime import tensorflow_environment
from runtime.errors import ConfigurationError
from runtime.logging import get_logger
from runtime.model_folder import ModelFolder
from runtime.model_loader import answers_of, brief_error, load_weights
from schemas.model_spec import ModelSpec
from schemas.pairs import ROUNDING

log = get_logger(__name__)

Images = NDArray[Any]
Outputs = NDArray[np.float32]


class Predictor(Protocol):
    """A loaded model; several threads may `predict` at the same time."""

    device: str

    def warm_up(self) -> None:
        """Compute every batch size once, so that no caller pays for it."""

    def predict(self, parts: Sequence[Images]) -> Outputs:
        """Outputs for the images of all `parts`, in order: probabilities, or values of a regression model.

        Args:
            parts: arrays (n_i, *shape), all uint8 or all float32 as the model takes them; at most the largest batch.

        Returns:
            (sum of n_i, labels) float32.
        """


class NullPredictor:
    """Answers the same without computing: what is left is the pipeline's own cost."""

    device = "none"

    def __init__(self, spec: ModelSpec) -> None:
        self._answer = np.full((spec.max_batch, len(spec.labels)), 1 / len(spec.labels), dtype=np.float32)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, parts: Sequence[Images]) -> Outputs:
        """Equal probabilities; of a regression model, 1."""
        return self._answer[: sum(len(part) for part in parts)]


def join_parts(parts: Sequence[Images], sizes: Sequence[int]) -> tuple[Images, int]:
    """One array whose length is a batch size, and the number of its real rows; the rest is padding.

    Args:
        parts: arrays (n_i, *shape) of one dtype. A single one that needs no padding is not copied.
        sizes: batch sizes, ascending.

    Raises:
        ValueError: the parts are more than the largest batch.
    """
    count = sum(len(part) for part in parts)
    size = next((size for size in sizes if size >= count), 0)
    if not size:
        raise ValueError(f"{count} images do not fit the largest batch of {sizes[-1]}")
    if len(parts) == 1 and size == count:
        return parts[0], count
    batch = np.empty((size, *parts[0].shape[1:]), dtype=parts[0].dtype)
    np.concatenate(parts, out=batch[:count])
    batch[count:] = 0
    return batch, count


class KerasPredictor:
    """A Keras model as one TensorFlow graph a dtype; scaling, and softmax of logits, are part of the graph."""

    def __init__(self, folder: ModelFolder, settings: WorkerSettings) -> None:
        import tensorflow as tf

        self._tf = tf
        self._spec = folder.spec
        self.device = _prepare_device(tf, settings)
        model = load_weights(folder)
        values = folder.spec.input.byte_values
        answer = answers_of(model, folder.spec)
        self._weights = model if folder.spec.outputs == "logits" else None
        self._graphs = {
            "uint8": self._trace(lambda x: answer(tf.gather(values, tf.cast(x, tf.int32))), tf.uint8),
            "float32": self._trace(answer, tf.float32),
        }

    def _trace(self, function: Callable[[Any], Any], dtype: Any) -> Any:
        """One graph for every batch size: a concrete function cannot be traced again, whatever comes in."""
        signature = [self._tf.TensorSpec([None, *self._spec.input.shape], dtype)]
        traced = self._tf.function(function, input_signature=signature, autograph=False)
        try:
            concrete = traced.get_concrete_function()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"model {self._spec.name} does not take inputs of the shape {self._spec.input.shape} that model.yaml "
                f"names: {brief_error(error)}"
            ) from error
        return concrete

    def warm_up(self) -> None:
        """Compute every batch size of every dtype once, and look at what the model answers about noise.

        Raises:
            ConfigurationError: it answers no probabilities, or nothing finite at all.
        """
        noise = np.random.default_rng(0).integers(0, 256, (self._spec.max_batch, *self._spec.input.shape), np.uint8)
        self._check_answers(self.predict([noise]))
        if self._weights is not None:
            self._check_logits(self._weights(self._spec.input.byte_values[noise], training=False))
        for dtype in self._graphs:
            for size in self._spec.batch_sizes:
                self.predict([np.zeros((size, *self._spec.input.shape), dtype=dtype)])

    def predict(self, parts: Sequence[Images]) -> Outputs:
        """See `Predictor`."""
        batch, count = join_parts(parts, self._spec.batch_sizes)
        [answer] = self._tf.nest.flatten(self._graphs[batch.dtype.name](self._tf.constant(batch)))
        outputs: Outputs = answer.numpy()[:count]
        return outputs

    def _check_answers(self, outputs: Outputs) -> None:
        finite = outputs[np.isfinite(outputs).all(axis=1)]
        if not len(finite):
            raise ConfigurationError(
                f"model {self._spec.name} answers nothing finite about {len(outputs)} images of noise: check its "
                "weights, and input.scale"
            )
        least, most = float(finite.min()), float(finite.max())
        if self._spec.classes and (least < -ROUNDING or most > 1 + ROUNDING):
            raise ConfigurationError(
                f"model {self._spec.name} answers numbers from {least:g} to {most:g}, which are no probabilities; if "
                "they are logits, write `outputs: logits` into its model.yaml"
            )

    def _check_logits(self, logits: Any) -> None:
        """Of what is probabilities already, the softmax would be between 1/n and e/n for ever."""
        found = np.asarray(self._tf.nest.flatten(logits)[0])
        if found.min() >= 0 and np.allclose(found.sum(axis=1), 1, atol=1e-3):
            raise ConfigurationError(
                f"model {self._spec.name} answers probabilities already; leave `outputs: logits` out of its model.yaml"
            )


def _prepare_device(tf: Any, settings: WorkerSettings) -> str:
    """Let a GPU's memory grow with need, and name the device. Not run on a GPU by this project's tests."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if settings.mixed_precision:
        if gpus:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
        else:
            log.warning("mixed_precision_ignored", reason="no GPU is visible")
    if not gpus:
        return "cpu"
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu"))


def configure_tensorflow(settings: WorkerSettings) -> None:
    """Set what TensorFlow reads when it is imported; call before any model is loaded."""
    tensorflow_environment.prepare()
    if settings.compute_threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(settings.compute_threads)


def gpu_memory_reader() -> Callable[[], float] | None:
    """Reads the bytes of GPU memory in use; None without a GPU. Call it when models are loaded. Not run on a GPU."""
    tf = sys.modules.get("tensorflow")
    if tf is None or not tf.config.list_physical_devices("GPU"):
        return None
    return lambda: float(tf.config.experimental.get_memory_info("GPU:0")["current"])


def load_predictor(folder: ModelFolder, settings: WorkerSettings) -> Predictor:
    """The model of a verified folder, not yet warm.

    Raises:
        ConfigurationError: the weights cannot be loaded or do not fit model.yaml.
    """
    if folder.spec.weights.framework == "null":
        return NullPredictor(folder.spec)
    configure_tensorflow(settings)
    return KerasPredictor(folder, settings)
