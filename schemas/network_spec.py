"""A small feed-forward network as data: its layers in JSON, its weights in an .npz file, nothing to unpickle."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Specification


class LayerSpec(Specification):
    """One layer. Weights are `kernel` and, where there is one, `bias`, in the layout that Keras uses.

    Kernels: convolution (height, width, in, out); transposed convolution (height, width, out, in); dense (in, out).
    """

    kind: Literal["convolution", "transposed_convolution", "dense", "flatten", "reshape"]
    stride: int = Field(1, ge=1)
    padding: Literal["same", "valid"] = "same"
    activation: Literal["linear", "relu", "sigmoid", "tanh"] = "linear"
    shape: tuple[int, ...] | None = Field(None, description="Of one item, for `reshape`")

    @model_validator(mode="after")
    def _shape_where_needed(self) -> "LayerSpec":
        if (self.kind == "reshape") != (self.shape is not None):
            raise ValueError(f"`shape` belongs to a reshape layer and to no other; this is {self.kind}")
        if self.kind == "transposed_convolution" and self.padding != "same":
            raise ValueError("a transposed convolution needs padding `same`")
        return self


class NetworkSpec(Specification):
    """`config.json` of a detector's folder: its parts by name, each a sequence of layers.

    A layer's arrays in `weights.npz` are named `<part>/<index of the layer>/<kernel or bias>`.
    """

    parts: dict[str, tuple[LayerSpec, ...]] = Field(min_length=1)
