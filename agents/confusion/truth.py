"""Feedback messages: every form a truth may have, read into one, or refused with the reason."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pybase64
from pydantic import ValidationError

from agents.confusion.entries import FEEDBACK_LANE, Entry, Form, PairHalf, Truth
from schemas.messages import Feedback
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

MAX_ITEMS = 10_000
"""Feedback items in one message."""


@dataclass(frozen=True, slots=True)
class Told:
    """One item of feedback.

    Attributes:
        model: None if the sender did not say.
        response: of self-contained feedback: the probabilities that were answered.
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
        raise Refusal(Reason.INVALID_JSON, f"not JSON: {error}") from error
    items = document if isinstance(document, list) else [document]
    if not 0 < len(items) <= MAX_ITEMS:
        raise Refusal(Reason.INVALID_FIELD, f"a batch of {len(items)} items; expected 1 to {MAX_ITEMS}")
    told: list[Told] = []
    refused: list[tuple[bytes, Refusal]] = []
    for number, item in enumerate(items):
        raw = value if items is not document else orjson.dumps(item)
        try:
            told.append(_told(item, raw, offset, number))
        except Refusal as refusal:
            refused.append((raw, refusal))
    return told, refused


def resolve(form: Form, spec: ModelSpec) -> int:
    """The class index that a truth means for a model.

    Raises:
        Refusal: OUT_OF_RANGE, WRONG_SHAPE, NOT_FINITE, INVALID_FIELD.
    """
    labels = spec.labels
    if isinstance(form, str):
        if form not in labels:
            raise Refusal(Reason.INVALID_FIELD, f"truth {form!r} is no label of {spec.name}: {', '.join(labels)}")
        return labels.index(form)
    if isinstance(form, list):
        return _of_numbers(form, spec)
    if not 0 <= form < len(labels):
        raise Refusal(Reason.OUT_OF_RANGE, f"truth is class {form}; {spec.name} has classes 0 to {len(labels) - 1}")
    return form


def self_contained(told: Told, spec: ModelSpec, arrived: float) -> Entry:
    """The entry of feedback that brings the answer along.

    Args:
        arrived: timestamp of the message, seconds since the epoch.

    Raises:
        Refusal: as `resolve`.
    """
    answer = told.response or ()
    if len(answer) != len(spec.labels):
        raise Refusal(
            Reason.WRONG_SHAPE, f"response has {len(answer)} numbers; {spec.name} has {len(spec.labels)} classes"
        )
    if min(answer) < 0 or max(answer) > 1:
        raise Refusal(Reason.OUT_OF_RANGE, "response holds probabilities, each in 0..1")
    vector = np.asarray(answer, "<f4")
    half = PairHalf(
        FEEDBACK_LANE,
        told.truth.offset,
        spec.name,
        spec.version,
        told.truth.given_at,
        arrived,
        int(vector.argmax()),
        pybase64.b64encode_as_string(vector.tobytes()),
        value=spec.value_of({}),
    )
    return Entry(half, (replace(told.truth, form=resolve(told.truth.form, spec), letter=None),))


def _told(item: Any, raw: bytes, offset: int, number: int) -> Told:
    try:
        feedback = Feedback.model_validate(item) if not isinstance(item, dict) else _validated(item)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the item"
        reason = Reason.MISSING_FIELD if first["type"] == "missing" else Reason.INVALID_FIELD
        raise Refusal(reason, f"not Feedback: {where}: {first['msg'][:300]}") from error
    form = _form(feedback)
    truth = Truth(feedback.given_at.timestamp(), offset, number, form, feedback.source, raw.decode(errors="replace"))
    return Told(feedback.request_id, feedback.model, truth, feedback.response)


def _validated(item: dict[str, Any]) -> Feedback:
    return Feedback.model_validate_json(orjson.dumps(item))


def _form(feedback: Feedback) -> Form:
    numbers = feedback.truth_one_hot if feedback.truth_one_hot is not None else feedback.truth_probabilities
    given = (feedback.truth_index, feedback.truth_label, None if numbers is None else list(numbers), feedback.truth)
    found = next(one for one in given if one is not None)
    return list(found) if isinstance(found, tuple) else found


def _of_numbers(numbers: list[float], spec: ModelSpec) -> int:
    """`[index]`, one-hot, or probabilities: the most probable, which must be one."""
    vector = np.asarray(numbers, np.float64)
    if not np.isfinite(vector).all():
        raise Refusal(Reason.NOT_FINITE, "truth has a number that is not finite")
    if len(vector) == 1:
        if not float(vector[0]).is_integer():
            raise Refusal(Reason.INVALID_FIELD, f"truth {numbers} is no class index")
        return resolve(int(vector[0]), spec)
    if len(vector) != len(spec.labels):
        raise Refusal(
            Reason.WRONG_SHAPE, f"truth has {len(vector)} numbers; {spec.name} has {len(spec.labels)} classes"
        )
    if vector.min() < 0 or vector.max() > 1 or (vector == vector.max()).sum() != 1:
        raise Refusal(Reason.INVALID_FIELD, f"truth {numbers[:20]} names no single class: one-hot or probabilities")
    return int(vector.argmax())
