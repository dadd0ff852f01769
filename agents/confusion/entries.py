"""What is known about one request: its answers and its truths, merged so that order and repetition do not matter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from schemas.identity import labels_id
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

PAIRS_LANE, FEEDBACK_LANE = 0, 1
"""Whether a pair half came by `inference.pairs`, or by feedback: self-contained, or joined through its old record."""
DIGITS = 15
LATEST = 8 * 86_400.0
"""Seconds after which no honest clock tells the truth about a pair in the state: 7 days of log, and a day ahead."""

Answer = int | float
"""A class index, always an `int`; or the number of a regression model, always a `float`: JSON keeps them apart."""
Rank = tuple[float, int, int]
Identity = tuple[str, str]
"""Model and version: with the request id, what tells one answer from another."""


@dataclass(frozen=True, slots=True)
class ClassOf:
    """A truth that was one number a class: the place of the greatest, and how many there were."""

    index: int
    of: int


Form = int | float | str | list[float] | ClassOf
"""A truth as it was given: class index; number; label; one number a class; or a list of one number, which the model
tells: a class index, or a regression model's number."""


@dataclass(frozen=True, slots=True)
class Truth:
    """A truth that was told.

    Attributes:
        given_at: seconds since the epoch, by whoever told.
        offset: of the message in `inference.feedback`, and `item` within it.
        form: as given; of an answer, an `Answer`.
        letter: while an answer is waited for: the feedback's own JSON, for the dead letters.
        model: whose answers it is about; None: everyone's.
    """

    given_at: float
    offset: int
    item: int
    form: Form
    source: str = "unknown"
    letter: str | None = None
    model: str | None = None

    @property
    def rank(self) -> Rank:
        """The truth of the highest rank holds: the last one given, and of these the last one in the log."""
        return self.given_at, self.offset, self.item

    def is_about(self, model: str) -> bool:
        """Whether it is about a model's answers."""
        return self.model is None or self.model == model


@dataclass(frozen=True, slots=True)
class PairHalf:
    """What an answer contributes.

    Attributes:
        lane: one of `PAIRS_LANE`, `FEEDBACK_LANE`; with `offset`, the place in the input that brought it.
        time: of the answer, seconds since the epoch; decides the window.
        kept_from: seconds since the epoch; from when the time to live counts.
        probabilities: base64 of float32, little endian, one a class; empty for a regression model.
        counted: joined late: the truth under which the lifetime counts it already; `UNLABELLED` if under none.
        value: of the attribute by which the model is broken down; None for a model that is not.
        primary: whether its record's id is the request id alone.
        era: of the input: of one era, no two have the same place (`agents.confusion.fold`).
        told: the truth that holds, its form an `Answer`.
        labels: by which labels a classifier answered, their `labels_id`; None in pairs of earlier versions.
    """

    lane: int
    offset: int
    model: str
    version: str
    time: float
    kept_from: float
    predicted: Answer
    probabilities: str
    counted: Answer | None = None
    value: str | None = None
    primary: bool = True
    era: int = 0
    told: Truth | None = None
    labels: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        """In the input that brought it."""
        return self.lane, self.offset

    @property
    def identity(self) -> Identity:
        """Which of the request's answers it is."""
        return self.model, self.version

    @property
    def truth(self) -> Answer | None:
        """That holds; None if none is known."""
        form = None if self.told is None else self.told.form
        return form if isinstance(form, (int, float)) else None

    @property
    def standing(self) -> tuple[int, int, int]:
        """The greatest one counts where one request was answered twice by one model version: the last in the log.

        One that was joined through its record is counted since the first time.
        """
        if self.lane == PAIRS_LANE:
            return 2, self.era, self.offset
        return (0, self.era, self.offset) if self.counted is None else (1, -self.era, -self.offset)

    @property
    def counted_truth(self) -> Answer | None:
        """The truth under which the lifetime counts a pair that was joined late."""
        return None if isinstance(self.counted, int) and self.counted == UNLABELLED else self.counted

    def has_labels_of(self, spec: ModelSpec) -> bool:
        """Whether it was answered by the labels that a spec of its model has; of earlier versions' pairs it may."""
        return self.labels is None or self.labels == labels_id(spec.classes)

    def check_comparable(self, truth: Answer) -> None:
        """Raise `Refusal` for a truth that this answer cannot be compared with: its version had other classes."""
        kind = float if isinstance(self.predicted, float) else int
        if not isinstance(truth, kind) or (kind is int and truth >= self.classes):
            raise Refusal(Reason.INVALID_FIELD, f"truth {truth} cannot be what version {self.version} was asked for")

    @property
    def classes(self) -> int:
        """How many its version had; 0 for a regression model."""
        return len(pybase64.b64decode(self.probabilities)) // 4

    def vector(self) -> NDArray[np.float64]:
        """Probabilities (classes,)."""
        return np.frombuffer(pybase64.b64decode(self.probabilities), "<f4").astype(np.float64)


UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Gone:
    """An answer that has left the state, of a request that has others in it.

    Attributes:
        rank: of the highest truth that it has seen; None if of none.
    """

    model: str
    version: str
    rank: Rank | None

    @property
    def identity(self) -> Identity:
        """Which of the request's answers it was."""
        return self.model, self.version


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: the merge of all that came about it.

    Attributes:
        pairs: its answers, by model and version.
        truths: as they were given, highest rank first: other answers may still come.
        since: while a truth waits for an answer: when it came, seconds since the epoch.
        due: then: when to look elsewhere; else 0.
        gone: answers that have left the state before these.
    """

    pairs: tuple[PairHalf, ...] = ()
    truths: tuple[Truth, ...] = ()
    since: float = 0.0
    due: float = 0.0
    gone: tuple[Gone, ...] = ()

    def pair_at(self, place: tuple[int, int]) -> PairHalf | None:
        """The answer that a place in the input brought."""
        return next((half for half in self.pairs if half.place == place), None)


EMPTY = Entry()


def answer_of(outputs: Sequence[float], is_classifier: bool) -> tuple[Answer, str]:
    """What a model answered, a float32 an output, as the fields `predicted` and `probabilities` of its pair half."""
    vector = np.asarray(outputs, "<f4")
    if not is_classifier:
        return float(vector[0]), ""
    return int(vector.argmax()), pybase64.b64encode_as_string(vector.tobytes())


def number_of(value: float) -> float:
    """A truth as it is counted, to 15 digits: a record store may change the last digit of a double, and what it gives
    back must be what was counted."""
    return float(f"{value:.{DIGITS}g}")


def encode(entry: Entry) -> bytes:
    """The entry as JSON, as the store and the log hold it."""
    return orjson.dumps(entry)


def decode(value: bytes) -> Entry:
    """What `encode` wrote."""
    return entry_of(orjson.loads(value))


def entry_of(document: dict[str, Any]) -> Entry:
    """The entry in a document, of this version or of an earlier one; fields of a later version are ignored."""
    since, due = document["since"], document["due"]
    truths = tuple(_truth_of(one) for one in document["truths"])
    if "pairs" not in document:
        return _of_one_answer(document["pair"], truths, since, due)
    gone = tuple(Gone(one["model"], one["version"], _rank_of(one["rank"])) for one in document["gone"])
    return Entry(tuple(_half_of(one) for one in document["pairs"]), truths, since, due, gone)


def _of_one_answer(pair: dict[str, Any] | None, truths: tuple[Truth, ...], since: float, due: float) -> Entry:
    """An entry of the first version: of one answer, and with it one truth at most, in the answer's own form.

    It did not yet refuse moments in the future, which would outrank every correction and close every window.
    """
    if pair is None:
        return Entry((), tuple(_not_after(one, since) for one in truths), since, due if truths else 0.0)
    half = _half_of(pair)
    told = _not_after(truths[0], half.kept_from) if truths else None
    return Entry((replace(half, told=told, time=half.kept_from if half.time > half.kept_from + LATEST else half.time),))


def _not_after(truth: Truth, moment: float) -> Truth:
    return replace(truth, given_at=moment) if truth.given_at > moment + LATEST else truth


def _half_of(document: dict[str, Any]) -> PairHalf:
    fields = {name: document[name] for name in PairHalf.__slots__ if name in document}
    told = fields.get("told")
    return PairHalf(**{**fields, "told": None if told is None else _truth_of(told)})


def _truth_of(document: dict[str, Any]) -> Truth:
    fields = {name: document[name] for name in Truth.__slots__ if name in document}
    form = fields["form"]
    return Truth(**{**fields, "form": ClassOf(form["index"], form["of"]) if isinstance(form, dict) else form})


def _rank_of(rank: list[Any] | None) -> Rank | None:
    return None if rank is None else (rank[0], rank[1], rank[2])
