"""`model.yaml`: what a model is, what it accepts, and what watches it."""

from math import prod
from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Contract


class InputSpec(Contract):
    """What the model accepts. Callers send `uint8` (0..255) or floating point already in 0..1; the worker scales."""

    kind: Literal["image", "tabular"] = "image"
    shape: tuple[int, ...] = Field(min_length=1, max_length=3, description="Of one item: height, width, channels")
    scale: float = Field(255.0, gt=0, description="uint8 values are divided by this")

    @property
    def size(self) -> int:
        """Numbers in one item."""
        return prod(self.shape)


class WeightsSpec(Contract):
    """The file in the model's folder, and how it is loaded: a Keras file, or `null` (answers without computing)."""

    framework: Literal["keras", "null"] = "keras"
    file: str | None = None

    @model_validator(mode="after")
    def _file_where_needed(self) -> "WeightsSpec":
        if self.framework == "keras" and not self.file:
            raise ValueError("weights.file is missing; name the .keras or .h5 file in the model's folder")
        return self


class ModelSpec(Contract):
    """A model folder's `model.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    description: str = ""
    task: Literal["classification", "regression"] = "classification"
    input: InputSpec
    labels: tuple[str, ...] = Field(min_length=1)
    weights: WeightsSpec
    batch_sizes: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16, 32, 64, 128), description="Sizes computed; a batch is padded to the next one"
    )

    @model_validator(mode="after")
    def _ascending_batches(self) -> "ModelSpec":
        if not self.batch_sizes or list(self.batch_sizes) != sorted(set(self.batch_sizes)) or self.batch_sizes[0] < 1:
            raise ValueError(f"batch_sizes must ascend and be positive; got {self.batch_sizes}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self

    @property
    def max_batch(self) -> int:
        """The largest number of images computed together."""
        return self.batch_sizes[-1]
