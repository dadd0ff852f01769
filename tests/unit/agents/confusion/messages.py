"""Messages about a few models that come and go, and what they mean by the plainest reading."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson

from agents.confusion.entries import Answer, PairHalf, answer_of
from schemas.identity import labels_id
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.topics import FEEDBACK, PAIRS
from tests.unit.agents.confusion.world import NUMBERS, SITES, SPEC

SERVED = {
    "m1": SPEC,
    "m2": SPEC.model_copy(update={"version": "2"}),
    "m3": SPEC.model_copy(update={"version": "3", "labels": ("a", "b")}),
    "m4": SPEC.model_copy(update={"version": "4", "labels": ("c", "a", "b")}),
    "n1": NUMBERS,
    "s1": SPEC.model_copy(update={"name": "s", "breakdown": None}),
}
"""What answers: versions of a classifier, of the same labels, of fewer and in another order; a regression model, and a
shadow."""
WRITERS = {
    (one.name, one.version): PairWriter(one.name, one.version, "0" * 64, one.labels, "cpu", one.task, one.name == "m")
    for one in SERVED.values()
}
KINDS = ("truth_index", "truth_label", "truth_one_hot", "truth_probabilities", "number", "label", "list", "truth_value")
OUTPUTS = {2: (0.7, 0.3), 3: (0.7, 0.2, 0.1)}
"""By number of classes."""
IMAGE = np.zeros((1, 2, 2, 3), np.uint8)
Form = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """As Faust hands it over."""

    topic: str
    key: bytes
    value: bytes
    offset: int
    timestamp: float
    partition: int = 0
    headers: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answer to a request.

    Attributes:
        half: what the join makes of it where the model is known.
        ahead: its moment, or Kafka's, is one that is refused.
    """

    name: str
    spec: ModelSpec
    half: PairHalf
    message: Message
    ahead: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A truth about a request; with `model`, about that one's answers."""

    name: str
    form: Form
    model: str | None
    given_at: float
    message: Message
    ahead: bool

    @property
    def rank(self) -> tuple[float, int]:
        """The last one given holds, and of these the last one in the log."""
        return self.given_at, self.message.offset

    def is_about(self, model: str) -> bool:
        """Whether it is about a model's answers."""
        return self.model in (None, model)


Sent = Answered | Told


def answered(
    number: int, turn: int, spec: ModelSpec, offset: int, moment: float, kafka: float, ahead: bool
) -> Answered:
    """An answer to request `number`, which differs by `turn`, given at a moment; with Kafka's timestamp of it."""
    moment = datetime.fromtimestamp(moment, timezone.utc).timestamp()
    classes, site = len(spec.classes), SITES[number % len(SITES)]
    outputs = np.roll(OUTPUTS[classes], turn) if classes else [1.1 * turn - 6]
    writer, name = WRITERS[spec.name, spec.version], f"id-{number}"
    vector = np.asarray([outputs], np.float32)
    [value] = writer.encode([name], IMAGE, [site], [moment], [None], vector, [0.0], [0.0], 0.0, 1, moment)
    half = PairHalf(
        0,
        offset,
        spec.name,
        spec.version,
        moment,
        0.0,
        *answer_of(vector[0].tolist(), bool(classes)),
        value=spec.value_of(site),
        primary=spec.name == "m",
        labels=labels_id(spec.labels) if classes else None,
    )
    return Answered(name, spec, half, Message(PAIRS.name, name.encode(), value, offset, kafka), ahead)


def told(name: str, form: Form, model: str | None, given_at: float, offset: int, kafka: float, ahead: bool) -> Told:
    """A truth about a request."""
    moment = datetime.fromtimestamp(given_at, timezone.utc)
    item = {"request_id": name, **form, "model": model, "given_at": moment.isoformat()}
    value = orjson.dumps({field: said for field, said in item.items() if said is not None})
    message = Message(FEEDBACK.name, name.encode(), value, offset, kafka)
    return Told(name, form, model, moment.timestamp(), message, ahead)


def form_of(kind: str, number: int, classes: int) -> Form:
    """A truth in one of its forms: class `number` of so many, or a number."""
    vector = [int(place == number) for place in range(classes)]
    forms: dict[str, Form] = {
        "truth_index": {"truth_index": number},
        "truth_label": {"truth_label": "abc"[number]},
        "truth_one_hot": {"truth_one_hot": vector},
        "truth_probabilities": {"truth_probabilities": [0.5 * one + 0.1 * (1 - one) for one in vector]},
        "number": {"truth": number},
        "label": {"truth": "abc"[number]},
        "list": {"truth": vector},
        "truth_value": {"truth_value": (-1.0, 0.3, 4096.7)[number]},
    }
    return forms[kind]


def meaning(form: Form, answer: ModelSpec, registered: ModelSpec | None) -> Answer | None:
    """What a truth says about an answer of a version, to one who has this version of the model, or none; None: nothing.

    Labels are known if the version that is registered has the same ones.
    """
    if registered is not None and registered.labels != answer.labels:
        registered = None
    [(kind, said)] = form.items()
    if not answer.classes:
        number = said if kind in ("truth", "truth_value") else None
        return float(number) if isinstance(number, (int, float)) else None
    labels = () if registered is None else registered.labels
    if isinstance(said, str):
        found = labels.index(said) if said in labels else None
    elif isinstance(said, list):
        of = len(answer.labels) if registered is None else len(labels)
        found = int(np.argmax(said)) if len(said) == of and max(said) > 0 and said.count(max(said)) == 1 else None
    elif kind == "truth" and registered is None:
        found = None  # it might be a label
    else:
        found = said if isinstance(said, int) and (registered is None or said < len(labels)) else None
    return found if found is not None and found < len(answer.labels) else None


def is_watched(one: Answered, specs: Mapping[str, ModelSpec]) -> bool:
    """Whether an agent with these models counts an answer: it has the model, and that gives answers of that kind."""
    spec = specs.get(one.spec.name)
    return not one.ahead and spec is not None and bool(spec.classes) == bool(one.spec.classes)


def is_taken(one: Told, specs: Mapping[str, ModelSpec], unlabelled: Collection[str]) -> bool:
    """Whether an agent with these models takes a truth: it can be that of a model which it is about; or of one that has
    answered by labels which are not there any more, and is no label."""
    if any(map(one.is_about, unlabelled)) and not one.ahead:
        return not isinstance(*one.form.values(), str) or is_taken(one, specs, ())
    about = [spec for spec in specs.values() if one.is_about(spec.name)]
    return not one.ahead and any(meaning(one.form, spec, spec) is not None for spec in about)
