"""`model.yaml`: what a model is, what it accepts, and what watches it."""

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.base import Specification
from schemas.topics import MAX_MESSAGE_BYTES

Task = Literal["classification", "regression"]
OUTPUT_BYTES = 26
"""Of one number in JSON, with its comma."""
FACTS_BYTES = 64 << 10
"""Of all else in a pair: id, attributes with every character escaped, times, and the headers of the message."""
OTHER_VALUE, NO_VALUE = "other", "none"
"""In a breakdown: an attribute's value that the spec does not list; a request without the attribute."""
MAX_WINDOW = 100_000
MAX_AGE_SECONDS = 6 * 86_400.0
"""A day less than the log of features is kept."""
SMALLEST = 20

MAX_CLASSES = 5000
"""Reports, sums and folds of a model have terms by class, and must fit into messages."""


class InputSpec(Specification):
    """What the model accepts: bytes or numbers, by one rule in every payload format.

    A byte k reaches the model as k / scale + offset; so do the pixels of pictures. A floating-point number reaches it
    as it is, and must lie where bytes do: in 0..1 for scale 255, in -1..1 for scale 127.5 and offset -1, in 0..255 for
    scale 1.
    """

    kind: Literal["image", "tabular"] = "image"
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=3, description="Of one item: height, width, channels"
    )
    scale: float = Field(255.0, gt=0, description="uint8 values are divided by this, …")
    offset: float = Field(0.0, description="… and then this is added")

    @model_validator(mode="after")
    def _bytes_stay_apart(self) -> "InputSpec":
        with np.errstate(all="ignore"):
            values = _byte_values(self.scale, self.offset)
        if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise ValueError(
                f"scale {self.scale:g} and offset {self.offset:g} leave no 256 different numbers of the 256 bytes in "
                "float32; common are 255, 127.5 with offset -1, and 1"
            )
        return self

    @property
    def size(self) -> int:
        """Numbers in one item."""
        return prod(self.shape)

    def pair_bytes(self, outputs: int) -> int:
        """Most bytes of JSON that a pair of one item of bytes may have; floats are bounded by the size of a request.

        Args:
            outputs: how many the model has.
        """
        return 4 * (self.size + 2) // 3 + outputs * OUTPUT_BYTES + FACTS_BYTES

    @cached_property
    def byte_values(self) -> NDArray[np.float32]:
        """What each of the 256 bytes is to the model, (256,) float32, ascending.

        Everybody takes them from here instead of dividing: a graph may multiply by the reciprocal instead, and then a
        byte and the equal float would not be the same to the last bit.
        """
        return _byte_values(self.scale, self.offset)


def _byte_values(scale: float, offset: float) -> NDArray[np.float32]:
    return np.arange(256, dtype=np.float32) / np.float32(scale) + np.float32(offset)


class WeightsSpec(Specification):
    """The file in the model's folder, and how it is loaded; `null` answers without computing, and has none."""

    framework: Literal["keras", "saved_model", "null"] = "keras"
    file: str | None = Field(None, description="A .keras or .h5 file of Keras 2 or 3, or the folder of a SavedModel")
    signature: str = Field("serving_default", description="Of a SavedModel: the one that is asked")

    @model_validator(mode="after")
    def _file_where_needed(self) -> "WeightsSpec":
        if self.framework != "null" and not self.file:
            raise ValueError(
                "weights.file is missing; name the .keras or .h5 file, or the SavedModel's folder, inside the model's"
            )
        return self


class ThresholdCalibration(Specification):
    """How an outlier threshold was measured: the quantile of scores that leaves `false_positive_rate` above it."""

    false_positive_rate: float = Field(gt=0, lt=1, description="Nominal share of clean images flagged")
    images: int = Field(gt=0, description="Clean held-out images, none of them trained on")
    source: str = Field("", description="Which images they were")


class OutliersSpec(Specification):
    """The outlier detector. `vae`: mean squared error of a variational auto-encoder's reconstruction."""

    kind: Literal["vae"] = "vae"
    version: str = "1"
    files: str = Field(description="Folder, inside the model's, of `config.json` and `weights.npz`")
    threshold: float = Field(gt=0, description="An image whose score is above it is an outlier")
    calibration: ThresholdCalibration | None = None


class DriftSpec(Specification):
    """One drift detector: Kolmogorov-Smirnov tests of each feature of a window against the reference.

    Features are the output of an `untrained_encoder`, or the classifier's own `probabilities` (black-box shift
    detection, Lipton et al. 2018; compared with others in Rabanser et al. 2019).
    """

    kind: Literal["untrained_encoder", "probabilities"]
    version: str = "1"
    reference: str = Field(description="An .npz file, inside the model's folder, with `features` (n, d) float32")
    files: str | None = Field(None, description="Folder of `config.json` and `weights.npz`, for an encoder")
    p_value: float = Field(0.05, gt=0, lt=1, description="Chance of a false alarm in a window without drift")
    correction: Literal["bonferroni", "fdr"] = Field("bonferroni", description="For testing many features at once")
    source: str = Field("", description="Which images the reference is made of")

    @model_validator(mode="after")
    def _files_where_needed(self) -> "DriftSpec":
        if (self.kind == "untrained_encoder") != (self.files is not None):
            raise ValueError("`files` names the encoder's folder: needed for kind untrained_encoder, and for no other")
        return self


class WindowSpec(Specification):
    """Which pairs a drift test sees together."""

    window_size: int = Field(1000, ge=20, le=MAX_WINDOW, description="Consecutive pairs of a window")
    max_age_seconds: float = Field(
        3600.0,
        gt=0,
        le=MAX_AGE_SECONDS,
        description="A window is closed this long after its first pair; the log of features is kept for a day longer",
    )
    stride: int | None = Field(None, ge=1, description="Pairs between the starts of windows; none: they do not overlap")
    minimum_size: int | None = Field(
        None,
        ge=1,
        description="A smaller window says nothing; none: a tenth of window_size, and at least 20",
    )

    @property
    def smallest(self) -> int:
        """Pairs of the smallest window that is tested."""
        return self.minimum_size or max(SMALLEST, self.window_size // 10)

    @model_validator(mode="after")
    def _stride_within_window(self) -> "WindowSpec":
        if self.stride is not None and self.stride > self.window_size:
            raise ValueError(f"stride {self.stride} is larger than window_size {self.window_size}: pairs would be lost")
        if self.smallest > self.window_size:
            raise ValueError(f"minimum_size {self.minimum_size} is larger than window_size {self.window_size}")
        return self


class CalibrationSpec(Specification):
    """Temperature scaling of the classifier's confidence: softmax(log(probabilities) / temperature).

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """

    temperature: float = Field(gt=0)
    images: int = Field(gt=0, description="Labelled images it was fitted on, none of them trained on")
    source: str = Field("", description="Which images they were")


class ExplanationPolicies(Specification):
    """Which answers ask for an explanation by themselves. A model's share one rate; what is over it is dropped."""

    outliers: bool = Field(False, description="Those that the outlier detector flags")
    low_confidence: float | None = Field(None, gt=0, le=1, description="Those with a confidence below this")
    wrong_answers: bool = Field(False, description="Those that feedback says are wrong")
    one_in: int | None = Field(None, ge=1, description="One in so many, chosen by the request id")
    per_minute: float = Field(6.0, gt=0, description="Most in a minute, over all policies and in the long run")
    burst: int = Field(5, ge=1, description="Most at once")


class ExplanationsSpec(Specification):
    """How this model's answers are explained."""

    method: str = Field("anchors", description="Method of the questions that policies ask")
    options: dict[str, dict[str, float | int | str | bool]] = Field(
        default_factory=dict, description="Options by method, instead of its defaults; a question's own come on top"
    )
    backgrounds: str | None = Field(
        None, description="An .npz file, inside the model's folder, with `images` for perturbation `backgrounds`"
    )
    policies: ExplanationPolicies = Field(default_factory=lambda: ExplanationPolicies())


class BreakdownSpec(Specification):
    """By which attribute of the request the accuracy is broken down.

    The values are listed here, so that every process agrees on them, and their number has a bound.
    """

    attribute: str = Field(min_length=1, max_length=64)
    values: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _distinct_values(self) -> "BreakdownSpec":
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"breakdown.values must be distinct; got {self.values}")
        if taken := sorted({OTHER_VALUE, NO_VALUE} & set(self.values)):
            raise ValueError(
                f"breakdown.values has {', '.join(taken)}, which stand for values not listed, and for none"
            )
        return self

    def value_of(self, attributes: Mapping[str, str]) -> str:
        """The listed value that a request has, `OTHER_VALUE` for one that is not listed, `NO_VALUE` for none."""
        value = attributes.get(self.attribute)
        if value is None:
            return NO_VALUE
        return value if value in self.values else OTHER_VALUE


class ModelSpec(Specification):
    """A model folder's `model.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    description: str = ""
    task: Task = "classification"
    input: InputSpec
    labels: tuple[Annotated[str, Field(max_length=256, pattern=r"\S")], ...] = Field(
        min_length=1,
        description="One an output: the classes, at most 5,000; or, for regression, the number's name and unit",
    )
    weights: WeightsSpec
    outputs: Literal["probabilities", "logits"] = Field(
        "probabilities", description="What a classifier's weights answer; the worker makes probabilities of logits"
    )
    batch_sizes: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16, 32, 64, 128), description="Sizes computed; a batch is padded to the next one"
    )
    calibration: CalibrationSpec | None = None
    outliers: OutliersSpec | None = None
    drift: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], DriftSpec] = Field(
        default_factory=dict, description="Drift detectors by name"
    )
    breakdown: BreakdownSpec | None = None
    window: WindowSpec = Field(default_factory=lambda: WindowSpec(), description="Windows of the drift detectors")
    explanations: ExplanationsSpec = Field(default_factory=lambda: ExplanationsSpec())

    @model_validator(mode="after")
    def _ascending_batches(self) -> "ModelSpec":
        if not self.batch_sizes or list(self.batch_sizes) != sorted(set(self.batch_sizes)) or self.batch_sizes[0] < 1:
            raise ValueError(f"batch_sizes must ascend and be positive; got {self.batch_sizes}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        if len(self.labels) > MAX_CLASSES:
            raise ValueError(
                f"{len(self.labels)} labels; a model has at most {MAX_CLASSES} classes here: its reports and sums must "
                "fit into messages. Group rare classes, or split the model"
            )
        return self

    @model_validator(mode="after")
    def _regression_has_no_classes(self) -> "ModelSpec":
        if self.task != "regression":
            return self
        if len(self.labels) != 1:
            raise ValueError(f"task regression has one label, the name of its number; got {', '.join(self.labels)}")
        by_class = [f"drift.{name}" for name, drift in self.drift.items() if drift.kind == "probabilities"]
        by_class += ["calibration"] * (self.calibration is not None)
        by_class += ["outputs"] * (self.outputs != "probabilities")
        by_class += ["explanations.policies"] * (self.explanations.policies != ExplanationPolicies())
        if by_class:
            raise ValueError(f"task regression has no classes, which {', '.join(by_class)} needs; leave it out")
        return self

    @model_validator(mode="after")
    def _pair_fits(self) -> "ModelSpec":
        if (size := self.input.pair_bytes(len(self.labels))) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"input.shape {self.input.shape} is too large: a pair of it would have up to {size} bytes; a message "
                f"may have {MAX_MESSAGE_BYTES}; let callers scale their pictures down, and the model take smaller ones"
            )
        return self

    def value_of(self, attributes: Mapping[str, str]) -> str | None:
        """The value by which a request of this model is broken down; None if the model is not."""
        return None if self.breakdown is None else self.breakdown.value_of(attributes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels of a classifier's classes, in order; none of a regression model."""
        return self.labels if self.task == "classification" else ()

    @property
    def temperature(self) -> float:
        """Of the calibration; 1 changes nothing."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def is_explainable(self) -> bool:
        """Whether there are methods to explain its answers: it classifies images."""
        return self.input.kind == "image" and len(self.input.shape) == 3 and self.task == "classification"

    @property
    def breakdown_values(self) -> tuple[str, ...]:
        """Every value that `value_of` may give."""
        return () if self.breakdown is None else (*self.breakdown.values, OTHER_VALUE, NO_VALUE)

    @property
    def max_batch(self) -> int:
        """The largest number of images computed together."""
        return self.batch_sizes[-1]
