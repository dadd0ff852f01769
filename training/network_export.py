"""From Keras layers to a detector's folder: layers as JSON and weights as arrays, with nothing to unpickle."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import CONFIG_FILE, WEIGHTS_FILE
from runtime.errors import ConfigurationError
from schemas.network_spec import LayerSpec, NetworkSpec

KINDS = {"Conv2D": "convolution", "Conv2DTranspose": "transposed_convolution", "Dense": "dense"}
Arrays = dict[str, NDArray[np.generic]]


def export_network(parts: Mapping[str, Iterable[Any]], folder: Path) -> None:
    """Write `config.json` and `weights.npz` for parts that are sequences of Keras layers. Weights become float16.

    Supported: Conv2D, Conv2DTranspose, Dense, Flatten, Reshape, with relu, sigmoid, tanh or no activation.

    Raises:
        ConfigurationError: another layer, or an option of one that the format cannot carry.
    """
    spec: dict[str, list[LayerSpec]] = {}
    arrays: Arrays = {}
    for part, layers in parts.items():
        kept = [layer for layer in layers if type(layer).__name__ != "InputLayer"]
        spec[part] = [_layer_spec(layer) for layer in kept]
        for index, layer in enumerate(kept):
            for name, weight in zip(("kernel", "bias"), layer.get_weights(), strict=False):
                arrays[f"{part}/{index}/{name}"] = weight.astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    network = NetworkSpec.model_validate({"parts": spec})
    (folder / CONFIG_FILE).write_text(network.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")
    np.savez_compressed(folder / WEIGHTS_FILE, **arrays)


def _layer_spec(layer: Any) -> LayerSpec:
    kind = type(layer).__name__
    if kind == "Flatten":
        return LayerSpec(kind="flatten")
    if kind == "Reshape":
        return LayerSpec(kind="reshape", shape=tuple(layer.target_shape))
    if kind not in KINDS:
        raise ConfigurationError(
            f"layer {layer.name} is a {kind}; a detector's network is made of Flatten, Reshape, {', '.join(KINDS)}"
        )
    fields: dict[str, Any] = {"kind": KINDS[kind], "activation": layer.activation.__name__}
    if kind != "Dense":
        if len(set(layer.strides)) != 1 or set(layer.dilation_rate) != {1} or getattr(layer, "groups", 1) != 1:
            raise ConfigurationError(
                f"layer {layer.name} has strides {layer.strides}, dilation {layer.dilation_rate}, groups "
                f"{getattr(layer, 'groups', 1)}; needed are equal strides, no dilation and no groups"
            )
        fields |= {"stride": layer.strides[0], "padding": layer.padding}
    return LayerSpec.model_validate(fields)
