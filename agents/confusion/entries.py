"""What is known about one request: its pair and its truth, merged so that order and repetition do not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

PAIRS_LANE, FEEDBACK_LANE = 0, 1
"""Whether a pair half came by `inference.pairs`, or by feedback: self-contained, or joined through its old record."""
MAX_WAITING = 8
"""Truths kept of a request whose pair has not come; those of the lowest rank go first."""
DIGITS = 15

Answer = int | float
"""A class index, always an `int`; or the number of a regression model, always a `float`: JSON keeps them apart."""
Form = int | float | str | list[float]
"""A truth as it was given: class index; number; label; or a list: one number a class, or one that the model tells."""


@dataclass(frozen=True, slots=True)
class PairHalf:
    """What a request's answer contributes.

    Attributes:
        lane: one of `PAIRS_LANE`, `FEEDBACK_LANE`; with `offset`, the place in the input that brought it.
        time: of the answer, seconds since the epoch; decides the window.
        kept_from: seconds since the epoch; from when the time to live counts.
        probabilities: base64 of float32, little endian, one a class; empty for a regression model.
        counted: joined late: the truth under which the lifetime counts it already; `UNLABELLED` if under none.
        value: of the attribute by which the model is broken down; None for a model that is not.
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

    @property
    def place(self) -> tuple[int, int]:
        """The least one wins where one id has two pairs."""
        return self.lane, self.offset

    @property
    def counted_truth(self) -> Answer | None:
        """The truth under which the lifetime counts a pair that was joined late."""
        return None if isinstance(self.counted, int) and self.counted == UNLABELLED else self.counted

    def check_comparable(self, truth: Answer) -> None:
        """Raise `Refusal` for a truth that this answer cannot be compared with: its version had other classes."""
        kind = float if isinstance(self.predicted, float) else int
        if not isinstance(truth, kind) or (kind is int and truth >= len(self.vector())):
            raise Refusal(Reason.INVALID_FIELD, f"truth {truth} cannot be what version {self.version} was asked for")

    def vector(self) -> NDArray[np.float64]:
        """Probabilities (classes,)."""
        return np.frombuffer(pybase64.b64decode(self.probabilities), "<f4").astype(np.float64)


UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Truth:
    """A truth that was told.

    Attributes:
        given_at: seconds since the epoch, by whoever told.
        offset: of the message in `inference.feedback`, and `item` within it.
        form: as given; once the model is known, an `Answer`.
        letter: while the pair is waited for: the feedback's own JSON, for the dead letters.
    """

    given_at: float
    offset: int
    item: int
    form: Form
    source: str = "unknown"
    letter: str | None = None

    @property
    def rank(self) -> tuple[float, int, int]:
        """The truth of the highest rank holds: the last one given, and of these the last one in the log."""
        return self.given_at, self.offset, self.item


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: the merge of all that came about it.

    Attributes:
        truths: highest rank first; with a pair, at most one, and its form is an `Answer`.
        since: while only the truth is there: when it came, seconds since the epoch.
        due: then: when to look elsewhere for the pair.
    """

    pair: PairHalf | None = None
    truths: tuple[Truth, ...] = ()
    since: float = 0.0
    due: float = 0.0

    @property
    def truth(self) -> Answer | None:
        """Of a joined entry."""
        if self.pair is None or not self.truths:
            return None
        form = self.truths[0].form
        return form if isinstance(form, (int, float)) else None


EMPTY = Entry()


def answer_of(outputs: Sequence[float], spec: ModelSpec) -> tuple[Answer, str]:
    """What a model answered, a float32 an output, as the fields `predicted` and `probabilities` of its pair half."""
    vector = np.asarray(outputs, "<f4")
    if not spec.classes:
        return float(vector[0]), ""
    return int(vector.argmax()), pybase64.b64encode_as_string(vector.tobytes())


def number_of(value: float) -> float:
    """A truth as it is counted, to 15 digits: a record store may change the last digit of a double, and what it gives
    back must be what was counted."""
    return float(f"{value:.{DIGITS}g}")


def earlier(one: PairHalf | None, other: PairHalf | None) -> PairHalf | None:
    """Of two pair halves of one id, the one that counts."""
    halves = [half for half in (one, other) if half is not None]
    return min(halves, key=lambda half: half.place, default=None)


def highest(truths: tuple[Truth, ...]) -> tuple[Truth, ...]:
    """Distinct truths, the highest rank first."""
    by_rank = {truth.rank: truth for truth in truths}
    return tuple(by_rank[rank] for rank in sorted(by_rank, reverse=True))


def encode(entry: Entry) -> bytes:
    """The entry as JSON, as the store and the log hold it."""
    return orjson.dumps(entry)


def decode(value: bytes) -> Entry:
    """What `encode` wrote."""
    return entry_of(orjson.loads(value))


def entry_of(document: dict[str, Any]) -> Entry:
    """The entry in a document; fields of a later version are ignored."""
    pair, truths = document["pair"], document["truths"]
    return Entry(
        PairHalf(**{name: pair[name] for name in PairHalf.__slots__ if name in pair}) if pair else None,
        tuple(Truth(**{name: one[name] for name in Truth.__slots__ if name in one}) for one in truths),
        document["since"],
        document["due"],
    )
