"""Small networks from arrays and JSON, compiled to graphs that always give an image the same answer."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from runtime import tensorflow_environment
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder, sha256_of
from schemas.model_spec import InputSpec
from schemas.network_spec import LayerSpec, NetworkSpec

tensorflow_environment.prepare()  # TensorFlow is imported later

Images = NDArray[np.generic]
Arrays = dict[str, NDArray[np.float32]]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.npz"
BATCH_SIZES = (8, 16, 32, 64, 128)
"""Sizes computed; a batch is padded to the next one, a larger one is cut."""
DTYPES = ("uint8", "float32")


class Network:
    """A detector's folder: parts by name, each to be applied to a tensor."""

    def __init__(self, spec: NetworkSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._spec = spec
        self._arrays: Arrays = {name: array.astype(np.float32) for name, array in arrays.items()}

    def apply(self, part: str, x: Any) -> Any:
        """The output of one part for a float32 tensor (n, ...).

        Raises:
            ConfigurationError: there is no such part, or an array is missing or of a shape that does not fit.
        """
        try:
            for index, layer in enumerate(self._spec.parts[part]):
                x = _apply(layer, x, self._arrays, f"{part}/{index}")
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"part {part!r} of the detector's network cannot be computed: {' '.join(str(error).split())[:300]}; "
                f"do {CONFIG_FILE} and {WEIGHTS_FILE} belong together, and to this model's input shape?"
            ) from error
        return x


class CompiledFunction:
    """A function of images as one graph for each of uint8 and float32, scaling of uint8 included.

    Args:
        function: from a float32 tensor (n, *shape), as the model takes it, to a tensor (n, ...).
        images: what the model takes.
    """

    def __init__(self, function: Callable[[Any], Any], images: InputSpec) -> None:
        import tensorflow as tf

        self._tf = tf
        self._shape = images.shape
        self._function = function  # a graph does not keep the variables alive that it reads
        values = images.byte_values
        self._graphs = {
            "uint8": self._trace(lambda x: function(tf.gather(values, tf.cast(x, tf.int32))), tf.uint8),
            "float32": self._trace(function, tf.float32),
        }

    def _trace(self, function: Callable[[Any], Any], dtype: Any) -> Any:
        """A concrete function, which cannot be traced again; a `Network`'s arrays are constants in it."""
        signature = [self._tf.TensorSpec([None, *self._shape], dtype)]
        return self._tf.function(function, input_signature=signature, autograph=False).get_concrete_function()

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Results (n, ...) for images (n, *shape), uint8, or float32 as the model takes them.

        Raises:
            ValueError: images of another shape or type.
        """
        if images.shape[1:] != self._shape or images.dtype.name not in DTYPES:
            raise ValueError(
                f"images must be (n, {', '.join(map(str, self._shape))}), uint8 or float32; got {images.shape} "
                f"{images.dtype}"
            )
        graph, largest = self._graphs[images.dtype.name], BATCH_SIZES[-1]
        starts = range(0, max(len(images), 1), largest)
        results = [self._compute(graph, images[start : start + largest]) for start in starts]
        return results[0] if len(results) == 1 else np.concatenate(results)

    def _compute(self, graph: Any, images: Images) -> NDArray[np.float32]:
        size = next(size for size in BATCH_SIZES if size >= len(images))
        batch = images
        if size != len(images):
            batch = np.zeros((size, *self._shape), images.dtype)
            batch[: len(images)] = images
        answer: NDArray[np.float32] = graph(self._tf.constant(batch)).numpy()
        return answer[: len(images)]

    def warm_up(self) -> None:
        """Compute every batch size of both types once, so that no image pays for it."""
        for dtype in DTYPES:
            for size in BATCH_SIZES:
                self(np.zeros((size, *self._shape), dtype))


def network_files(files: str) -> tuple[str, str]:
    """Names of a network's two files, relative to the model's folder."""
    return f"{files}/{CONFIG_FILE}", f"{files}/{WEIGHTS_FILE}"


def load_network(files: Path) -> Network:
    """The network in a folder whose files have been verified.

    Raises:
        ConfigurationError: a file is missing, damaged or not valid.
    """
    config = files / CONFIG_FILE
    try:
        spec = NetworkSpec.model_validate_json(config.read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{config} is not a usable description of a network: {reason}") from error
    return Network(spec, load_arrays(files / WEIGHTS_FILE))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a verified .npz file; pickled objects in it are refused.

    Raises:
        ConfigurationError: the file is missing or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path} is not a readable .npz file of arrays: {error}") from error


def sha256_of_files(folder: ModelFolder, names: Iterable[str]) -> str:
    """One hash for several files: of the lines that `sha256sum` prints for them, in order of their names."""
    lines = (f"{sha256_of(folder.file(name))}  {name}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _apply(layer: LayerSpec, x: Any, arrays: Arrays, name: str) -> Any:
    import tensorflow as tf

    if layer.kind in ("flatten", "reshape"):
        return tf.reshape(x, [-1, *(layer.shape or [_size(x.shape[1:])])])
    kernel, bias = arrays[f"{name}/kernel"], arrays.get(f"{name}/bias")
    if layer.kind == "dense":
        x = tf.matmul(x[:, None, :], kernel)[:, 0]  # one product an image: in one for all, the sums depend on the batch
    elif layer.kind == "convolution":
        x = tf.nn.conv2d(x, kernel, layer.stride, layer.padding.upper())
    else:
        shape = [tf.shape(x)[0], *(side * layer.stride for side in x.shape[1:3]), kernel.shape[2]]
        x = tf.nn.conv2d_transpose(x, kernel, shape, layer.stride, "SAME")
    x = x if bias is None else x + bias
    return x if layer.activation == "linear" else getattr(tf.nn, layer.activation)(x)


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))
