"""Feedback messages: every form a truth may have, read into one, or refused with the reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from agents.confusion.entries import (
    FEEDBACK_LANE,
    Answer,
    ClassOf,
    Entry,
    Form,
    PairHalf,
    Truth,
    answer_of,
    number_of,
)
from schemas.framing import framing_hint
from schemas.identity import labels_id
from schemas.messages import LARGEST, Feedback, Row
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

MAX_ITEMS = 10_000
"""Truths in one message."""
MAX_LETTER_BYTES = 4096
"""Of an item's own JSON, kept while its answer is waited for. Of a longer one, what was understood is kept instead."""


@dataclass(frozen=True, slots=True)
class Told:
    """One item of feedback.

    Attributes:
        model: None if the sender did not say.
        raw: the item as JSON; of a row, the item of that row alone.
        response: of self-contained feedback: what was answered, probabilities or `(number,)`.
    """

    request_id: str
    model: str | None
    truth: Truth
    raw: bytes
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
            found = _told(item, written, raw, offset, number)
            if len(told) + len(found) > MAX_ITEMS:
                raise Refusal(Reason.INVALID_FIELD, f"a message has more than {MAX_ITEMS} truths, rows counted")
            told.extend(found)
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
    if isinstance(form, str):
        return _labelled(form, spec)
    if isinstance(form, list):
        if len(form) == 1:
            _check_unambiguous(form[0], spec)
        return _of_numbers(form, spec.name, len(spec.labels))
    if isinstance(form, float):
        raise Refusal(Reason.INVALID_FIELD, f"truth_value {form:g} is no class; {spec.name} is a classifier")
    if isinstance(form, ClassOf):
        return _one_of(form, spec.name, len(spec.labels))
    return _class(form, spec.name, len(spec.labels))


def resolve_unnamed(form: Form, half: PairHalf, reason: Reason = Reason.UNKNOWN_MODEL) -> Answer:
    """As `resolve`, of an answer by labels that are not here any more: they are not known, but how many there were is.

    Raises:
        Refusal: of the reason, for a label and for a number that may be one; else as `resolve`.
    """
    if isinstance(half.predicted, float) and isinstance(form, list) and len(form) == 1:
        form = number_of(form[0])
    if isinstance(form, str) or (isinstance(form, list) and len(form) == 1):
        whose = f"version {half.version[:64]!r} of model {half.model[:64]!r}"
        raise Refusal(reason, f"the labels by which {whose} answered are not here any more; give truth_index")
    if isinstance(form, list):
        return _of_numbers(form, half.model, half.classes)
    if isinstance(form, ClassOf):
        return _one_of(form, half.model, half.classes)
    return form


def resolve_any(told: "Told", candidates: Sequence[ModelSpec]) -> None:
    """Refuse what can be the truth of no model; the others are checked against their pair's.

    Raises:
        Refusal: of the first one's reason; with a few more models, in their words.
    """
    refusals: list[Refusal] = []
    for spec in candidates:
        try:
            resolve(told.truth.form, spec)
            return
        except Refusal as refused:
            refusals.append(refused)
    if not refusals:
        raise Refusal(Reason.UNKNOWN_MODEL, "no model is loaded")
    if len(refusals) == 1:
        raise refusals[0]
    details = "; ".join(one.detail[:200] for one in refusals[:3]) + ("; …" if len(refusals) > 3 else "")
    raise Refusal(refusals[0].reason, f"it can be the truth of none of the {len(refusals)} models here: {details}")


def self_contained(told: Told, spec: ModelSpec, arrived: float, primary: bool) -> Entry:
    """The entry of feedback that brings the answer along.

    Args:
        arrived: when it was read, seconds since the epoch.
        primary: whether the model is the one that requests without a model are for.

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
        *answer_of(answer, bool(spec.classes)),
        value=spec.value_of({}),
        primary=primary,
        labels=labels_id(spec.classes) if spec.classes else None,
    )
    resolve(told.truth.form, spec)
    return Entry((half,), (replace(told.truth, letter=None),))


def _written(item: Any) -> bytes | None:
    """The item as JSON; None if it is nested deeper than what is read may be written again."""
    try:
        return orjson.dumps(item)
    except orjson.JSONEncodeError:
        return None


def _told(item: Any, written: bytes | None, raw: bytes, offset: int, number: int) -> list[Told]:
    """What an item says: one truth, or one a row."""
    if written is None:
        raise Refusal(Reason.INVALID_JSON, "not Feedback: nested too deep")
    try:
        feedback = Feedback.model_validate_json(written) if isinstance(item, dict) else Feedback.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the item"
        reason = Reason.MISSING_FIELD if first["type"] == "missing" else Reason.INVALID_FIELD
        raise Refusal(reason, f"not Feedback: {where}: {first['msg'][:300]}") from error
    rows = feedback.rows
    if rows is None:
        return [_one(feedback, _form(feedback), raw, offset, number)]
    if feedback.response is not None:
        raise Refusal(
            Reason.INVALID_FIELD, "truths of several rows with one response: give each row an item of its own"
        )
    names = row_ids(feedback.request_id, len(rows))
    return [_row(feedback, name, row, offset, number) for name, row in zip(names, rows, strict=True)]


def row_ids(request_id: str, rows: int) -> list[str]:
    """Ids of the answers to a message of several images, as the worker makes them."""
    return [request_id] if rows == 1 else [f"{request_id}-{row}" for row in range(rows)]


def _row(feedback: Feedback, request_id: str, row: Row, offset: int, number: int) -> Told:
    fields = {"request_id": request_id, "model": feedback.model, "truth": row, "source": feedback.source}
    try:
        own = Feedback.model_validate({**fields, "given_at": feedback.given_at})
    except ValidationError as error:
        raise Refusal(Reason.INVALID_FIELD, f"row {request_id!r}: {error.errors()[0]['msg'][:300]}") from error
    return _one(own, _form(own), own.model_dump_json(exclude_none=True).encode(), offset, number)


def _one(feedback: Feedback, form: Form, raw: bytes, offset: int, number: int) -> Told:
    letter = raw if len(raw) <= MAX_LETTER_BYTES else _short(feedback, form)
    truth = Truth(
        feedback.given_at.timestamp(),
        offset,
        number,
        form,
        feedback.source,
        letter.decode(errors="replace"),
        feedback.model,
    )
    return Told(feedback.request_id, feedback.model, truth, raw, feedback.response)


def _short(feedback: Feedback, form: Form) -> bytes:
    """What was understood of an item, as another item that says the same."""
    names = {"request_id", "model", "source", "given_at"}
    fields = feedback.model_dump(mode="json", include=names, exclude_none=True)
    truth = {"truth_index": form.index} if isinstance(form, ClassOf) else {"truth": form}
    return orjson.dumps({**fields, **truth})[:MAX_LETTER_BYTES]


def _form(feedback: Feedback) -> Form:
    """The form of a truth; of one number a class, no more is kept than which is the greatest."""
    numbers = feedback.truth_one_hot if feedback.truth_one_hot is not None else feedback.truth_probabilities
    exact = (feedback.truth_index, feedback.truth_label, feedback.truth_value)
    if numbers is None and (found := next((one for one in exact if one is not None), None)) is not None:
        return found
    # A number may be a class index or a regression model's: as a list of one, it waits for its model.
    loose = numbers if numbers is not None else feedback.truth
    if isinstance(loose, str):
        return loose
    given = [_float(one) for one in loose] if isinstance(loose, tuple) else [_float(loose)]
    try:
        return given if len(given) == 1 else ClassOf(_of_numbers(given, "the model", len(given)), len(given))
    except Refusal:
        return given  # no model takes it, and each says why


def _float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # JSON has whole numbers of any length
        return math.inf


def _number(form: Form, spec: ModelSpec) -> float:
    """`truth_value`, or `truth` with one number."""
    count = form.of if isinstance(form, ClassOf) else len(form) if isinstance(form, list) else 1
    if count != 1 or isinstance(form, ClassOf):
        raise Refusal(Reason.WRONG_SHAPE, f"truth has {count} numbers; {spec.name} answers one: {spec.labels[0]}")
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


def _labelled(label: str, spec: ModelSpec) -> int:
    if label not in spec.labels:
        some = ", ".join(spec.labels[:50]) + (", …" if len(spec.labels) > 50 else "")
        raise Refusal(Reason.INVALID_FIELD, f"truth {label[:64]!r} is no label of {spec.name}: {some}")
    return spec.labels.index(label)


def _check_unambiguous(number: float, spec: ModelSpec) -> None:
    """Refuse a bare number where labels are numbers themselves, and not each that of its own place."""
    for index, label in enumerate(spec.labels):
        if label.removeprefix("-").isdigit() and label != str(index):
            raise Refusal(
                Reason.INVALID_FIELD,
                f"truth {number:g} may be a class's index or its label: {spec.name} has the label {label[:64]!r} for "
                f"class {index}; say truth_index or truth_label",
            )


def _class(index: int, name: str, classes: int) -> int:
    if not 0 <= index < classes:
        raise Refusal(Reason.OUT_OF_RANGE, f"truth is class {index}; {name} has classes 0 to {classes - 1}")
    return index


def _one_of(form: ClassOf, name: str, classes: int) -> int:
    if form.of != classes:
        raise Refusal(Reason.WRONG_SHAPE, f"truth has {form.of} numbers; {name} has {classes} classes")
    return _class(form.index, name, classes)


def _of_numbers(numbers: list[float], name: str, classes: int) -> int:
    """`[index]`, one-hot, or probabilities: the most probable, which must be one."""
    vector = np.asarray(numbers, np.float64)
    if not np.isfinite(vector).all():
        raise Refusal(Reason.NOT_FINITE, "truth has a number that is not finite")
    if len(vector) == 1:
        if not float(vector[0]).is_integer():
            raise Refusal(Reason.INVALID_FIELD, f"truth {numbers} is no class index")
        return _class(int(vector[0]), name, classes)
    if len(vector) != classes:
        raise Refusal(Reason.WRONG_SHAPE, f"truth has {len(vector)} numbers; {name} has {classes} classes")
    if vector.min() < 0 or vector.max() > 1 or (vector == vector.max()).sum() != 1:
        raise Refusal(Reason.INVALID_FIELD, f"truth {numbers[:20]} names no single class: one-hot or probabilities")
    return int(vector.argmax())
