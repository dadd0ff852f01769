"""Feedback messages: every form a truth may have, read into one, or refused with the reason."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from agents.confusion.entries import FEEDBACK_LANE, Answer, Entry, Form, PairHalf, Truth, answer_of, number_of
from schemas.framing import framing_hint
from schemas.messages import LARGEST, Feedback
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

MAX_ITEMS = 10_000
"""Feedback items in one message."""


@dataclass(frozen=True, slots=True)
class Told:
    """One item of feedback.

    Attributes:
        model: None if the sender did not say.
        response: of self-contained feedback: what was answered, probabilities or `(number,)`.
    """

    request_id: str
    model: str | None
    truth: Truth
    response: tuple[float, ...] | None = None


def read_feedback(value: bytes | None, offset: int) -> tuple[list[Told], list[tuple[bytes, Refusal]]]:
    """The items of one message: an object, or a list of objects (a batch). A bad item does not spoil the others.

    Returns:
        The good items; and the bad ones as JSON, each with why.

    Raises:
        Refusal: EMPTY_VALUE, INVALID_JSON, INVALID_FIELD: the message holds nothing to look at.
    """
    if not value:
        raise Refusal(Reason.EMPTY_VALUE, "the message has no value; expected Feedback, or a list of it")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Refusal(Reason.INVALID_JSON, f"not JSON: {error}{framing_hint(value)}") from error
    items = document if isinstance(document, list) else [document]
    if not 0 < len(items) <= MAX_ITEMS:
        raise Refusal(Reason.INVALID_FIELD, f"a batch of {len(items)} items; expected 1 to {MAX_ITEMS}")
    told: list[Told] = []
    refused: list[tuple[bytes, Refusal]] = []
    for number, item in enumerate(items):
        written = _written(item)
        raw = written if written is not None and items is document else value
        try:
            told.append(_told(item, written, raw, offset, number))
        except Refusal as refusal:
            which = f"item {number} of the batch: " if items is document else ""
            refused.append((raw, Refusal(refusal.reason, which + refusal.detail)))
    return told, refused


def resolve(form: Form, spec: ModelSpec) -> Answer:
    """The class index, or for a regression model the number, that a truth means.

    Raises:
        Refusal: OUT_OF_RANGE, WRONG_SHAPE, NOT_FINITE, INVALID_FIELD.
    """
    if not spec.classes:
        return _number(form, spec)
    labels = spec.labels
    if isinstance(form, str):
        if form not in labels:
            raise Refusal(Reason.INVALID_FIELD, f"truth {form!r} is no label of {spec.name}: {', '.join(labels)}")
        return labels.index(form)
    if isinstance(form, list):
        return _of_numbers(form, spec)
    if isinstance(form, float):
        raise Refusal(Reason.INVALID_FIELD, f"truth_value {form:g} is no class; {spec.name} is a classifier")
    return _class(form, spec)


def self_contained(told: Told, spec: ModelSpec, arrived: float) -> Entry:
    """The entry of feedback that brings the answer along.

    Args:
        arrived: timestamp of the message, seconds since the epoch.

    Raises:
        Refusal: as `resolve`.
    """
    answer = told.response or ()
    if len(answer) != len(spec.labels):
        raise Refusal(Reason.WRONG_SHAPE, f"response has {len(answer)} numbers; {spec.name} answers {len(spec.labels)}")
    if spec.classes and (min(answer) < 0 or max(answer) > 1):
        raise Refusal(Reason.OUT_OF_RANGE, "response holds probabilities, each in 0..1")
    if not spec.classes:
        _check_magnitude("response", answer[0])
    half = PairHalf(
        FEEDBACK_LANE,
        told.truth.offset,
        spec.name,
        spec.version,
        told.truth.given_at,
        arrived,
        *answer_of(answer, spec),
        value=spec.value_of({}),
    )
    return Entry(half, (replace(told.truth, form=resolve(told.truth.form, spec), letter=None),))


def _written(item: Any) -> bytes | None:
    """The item as JSON; None if it is nested deeper than what is read may be written again."""
    try:
        return orjson.dumps(item)
    except orjson.JSONEncodeError:
        return None


def _told(item: Any, written: bytes | None, raw: bytes, offset: int, number: int) -> Told:
    if written is None:
        raise Refusal(Reason.INVALID_JSON, "not Feedback: nested too deep")
    try:
        feedback = Feedback.model_validate_json(written) if isinstance(item, dict) else Feedback.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the item"
        reason = Reason.MISSING_FIELD if first["type"] == "missing" else Reason.INVALID_FIELD
        raise Refusal(reason, f"not Feedback: {where}: {first['msg'][:300]}") from error
    form = _form(feedback)
    truth = Truth(feedback.given_at.timestamp(), offset, number, form, feedback.source, raw.decode(errors="replace"))
    return Told(feedback.request_id, feedback.model, truth, feedback.response)


def _form(feedback: Feedback) -> Form:
    numbers = feedback.truth_one_hot if feedback.truth_one_hot is not None else feedback.truth_probabilities
    if numbers is not None:
        return list(numbers)
    exact = (feedback.truth_index, feedback.truth_label, feedback.truth_value)
    if (found := next((one for one in exact if one is not None), None)) is not None:
        return found
    # A number may be a class index or a regression model's: as a list of one, it waits for its model.
    loose = feedback.truth
    return loose if isinstance(loose, str) else list(loose) if isinstance(loose, tuple) else [loose or 0]


def _number(form: Form, spec: ModelSpec) -> float:
    """`truth_value`, or `truth` with one number."""
    if isinstance(form, list) and len(form) != 1:
        raise Refusal(Reason.WRONG_SHAPE, f"truth has {len(form)} numbers; {spec.name} answers one: {spec.labels[0]}")
    found = form[0] if isinstance(form, list) else form
    if isinstance(found, str) or isinstance(form, int):
        raise Refusal(
            Reason.INVALID_FIELD, f"truth {form!r} is a class; {spec.name} answers a number, {spec.labels[0]}"
        )
    _check_magnitude("truth", found)
    return number_of(found)


def _check_magnitude(what: str, number: float) -> None:
    if not math.isfinite(number):
        raise Refusal(Reason.NOT_FINITE, f"{what} is not finite")
    if abs(number) > LARGEST:
        raise Refusal(Reason.OUT_OF_RANGE, f"{what} is {number:g}; its magnitude may be {LARGEST:g} at most")


def _class(index: int, spec: ModelSpec) -> int:
    if not 0 <= index < len(spec.labels):
        raise Refusal(
            Reason.OUT_OF_RANGE, f"truth is class {index}; {spec.name} has classes 0 to {len(spec.labels) - 1}"
        )
    return index


def _of_numbers(numbers: list[float], spec: ModelSpec) -> int:
    """`[index]`, one-hot, or probabilities: the most probable, which must be one."""
    vector = np.asarray(numbers, np.float64)
    if not np.isfinite(vector).all():
        raise Refusal(Reason.NOT_FINITE, "truth has a number that is not finite")
    if len(vector) == 1:
        if not float(vector[0]).is_integer():
            raise Refusal(Reason.INVALID_FIELD, f"truth {numbers} is no class index")
        return _class(int(vector[0]), spec)
    if len(vector) != len(spec.labels):
        raise Refusal(
            Reason.WRONG_SHAPE, f"truth has {len(vector)} numbers; {spec.name} has {len(spec.labels)} classes"
        )
    if vector.min() < 0 or vector.max() > 1 or (vector == vector.max()).sum() != 1:
        raise Refusal(Reason.INVALID_FIELD, f"truth {numbers[:20]} names no single class: one-hot or probabilities")
    return int(vector.argmax())
