"""Questions as messages: read, checked against the model, and put by policy."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agents.explanations.explainer import Pixels, Predict
from schemas.explanation_options import Options, read_options
from schemas.framing import framing_hint
from schemas.messages import ExplanationRequest, ImageDtype, Tensor
from schemas.model_spec import ModelSpec
from schemas.payloads.tensors import check_range
from schemas.refusal import Reason, Refusal

MAX_SECONDS = 3600.0
"""Longest time that a deadline can give: one in the year 9999 is a wish, and the search is given up after this."""


def read_question(value: bytes | None) -> ExplanationRequest:
    """The question in a message.

    Raises:
        Refusal: EMPTY_VALUE, INVALID_JSON, MISSING_FIELD, INVALID_FIELD: it is none, so nobody can be answered by it.
    """
    if not value:
        raise Refusal(Reason.EMPTY_VALUE, "the message has no value; expected an ExplanationRequest")
    try:
        return ExplanationRequest.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reasons = {"json_invalid": Reason.INVALID_JSON, "missing": Reason.MISSING_FIELD}
        where = ".".join(map(str, first["loc"])) or "the message"
        raise Refusal(
            reasons.get(first["type"], Reason.INVALID_FIELD),
            f"not an ExplanationRequest: {where}: {first['msg'][:300]} ({error.error_count()} problems)"
            f"{framing_hint(value)}",
        ) from error


def spec_of(model: str, specs: Mapping[str, ModelSpec]) -> ModelSpec:
    """The model's.

    Raises:
        Refusal: UNKNOWN_MODEL, or one whose answers cannot be explained.
    """
    if model not in specs:
        raise Refusal(Reason.UNKNOWN_MODEL, f"no model {model[:64]!r}; there are {', '.join(sorted(specs))}")
    spec = specs[model]
    if not spec.is_explainable:
        raise Refusal(
            Reason.INVALID_FIELD, f"{model} is no classifier of images of three dimensions; others are not explained"
        )
    return spec


def options_of(question: ExplanationRequest, spec: ModelSpec) -> Options:
    """The question's options over the model's over the method's defaults; `Refusal` for a wrong method or option."""
    return read_options(question.method, spec.explanations.options.get(question.method, {}), question.options)


def pixels_of(image: Tensor, spec: ModelSpec) -> Pixels:
    """The image (h, w, c) float32 in 0..1: explainers know no other range, whatever the model takes.

    Raises:
        Refusal: WRONG_SHAPE, OUT_OF_RANGE, NOT_FINITE.
    """
    if image.shape != spec.input.shape:
        raise Refusal(Reason.WRONG_SHAPE, f"image.shape is {image.shape}; {spec.name} takes {spec.input.shape}")
    raw: NDArray[np.generic] = np.frombuffer(image.data, np.dtype(image.dtype.value).newbyteorder("<"))
    pixels = raw.reshape(image.shape).astype(np.float32)
    if image.dtype is ImageDtype.UINT8:
        return pixels / np.float32(255)
    check_range(pixels.min(), pixels.max(), spec.input)
    least, most = _ends(spec)
    return pixels if (least, most) == (0, 1) else np.clip((pixels - np.float32(least)) / np.float32(most - least), 0, 1)


def takes_unit_range(predict: Predict, spec: ModelSpec) -> Predict:
    """The same model, asked about images in 0..1 instead of the range that it takes."""
    least, most = _ends(spec)
    if (least, most) == (0, 1):
        return predict
    return lambda images: predict(images * np.float32(most - least) + np.float32(least))


def _ends(spec: ModelSpec) -> tuple[float, float]:
    """Of the range that the model takes."""
    values = spec.input.byte_values
    return float(values[0]), float(values[-1])


def seconds_left(question: ExplanationRequest, now: float, default: float) -> float:
    """Until the deadline, at most `MAX_SECONDS`; what is not above 0 has passed.

    Args:
        now: seconds since the epoch.
        default: for a question that brings no deadline.

    Raises:
        Refusal: a deadline that is not after the question.
    """
    if question.deadline is None:
        return default
    if question.deadline <= question.asked_at:
        raise Refusal(
            Reason.INVALID_FIELD,
            f"deadline {question.deadline.isoformat()} is not after the question, which was asked "
            f"{question.asked_at.isoformat()}",
        )
    return min(question.deadline.timestamp() - now, MAX_SECONDS)
