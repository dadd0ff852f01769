"""Pairs as arrays: what both agents that look at images do first with a batch of messages."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.clock import check_not_ahead
from schemas.identity import MAX_ID_BYTES, record_id
from schemas.messages import ImageDtype, InferencePair, Outcome
from schemas.model_spec import MAX_CLASSES, ModelSpec
from schemas.pairs import read_pair
from schemas.refusal import Reason, Refusal

SLACK = 2e-6
"""How far outside its range rounding may carry a number, as a share of that range."""


@dataclass(frozen=True, slots=True)
class ReadPair:
    """A pair, and the message it was read from (`topic`, `partition`, `offset`, `timestamp`, `value`, …).

    Attributes:
        unwatched: why this agent cannot look at it: `unknown_model`, or `other_version` for one of another shape or
            with other classes than the version here; None: it fits its model's spec.
    """

    pair: InferencePair
    message: Any
    unwatched: str | None = None

    @property
    def time(self) -> float:
        """Kafka's timestamp, seconds since the epoch; where the message has none, the moment of the answer."""
        timestamp = float(self.message.timestamp)
        return timestamp if timestamp >= 0 else self.pair.response.answered_at.timestamp()


def record_id_of(pair: InferencePair) -> str:
    """Id of the pair's record: another one for each model and version that answered."""
    response = pair.response
    return record_id(pair.request.request_id, response.model, response.model_version, response.primary)


@dataclass(frozen=True, slots=True)
class PairGroup:
    """Pairs of one model that can be computed together.

    Attributes:
        rows: where they stand among the pairs read.
        images: (n, *shape) uint8, or float32 as the model takes them.
        probabilities: (n, classes) float32; (n, 0) of a regression model.
    """

    model: str
    rows: list[int]
    images: NDArray[np.generic]
    probabilities: NDArray[np.float32]


def read_pairs(
    messages: Iterable[Any], specs: Mapping[str, ModelSpec], now: float, max_ahead: float
) -> tuple[list[ReadPair], list[tuple[Any, Refusal]]]:
    """The pairs in order, and the messages that hold none, each with why.

    A pair of a model or version that is not in `specs` is a pair; an image or an answer that does not fit the spec of
    its own version is not, nor is one whose clocks are ahead: windows and names of indices follow them.

    Args:
        now: the reader's clock, seconds since the epoch.
        max_ahead: seconds that Kafka's timestamp may be ahead of `now`, and `answered_at` of Kafka's timestamp.
    """
    pairs, refused = [], []
    for message in messages:
        try:
            pair = read_pair(message.value)
            _check_identity(pair)
            _check_clocks(pair, message.timestamp, now, max_ahead)
            pairs.append(ReadPair(pair, message, _unwatched(pair, specs.get(pair.request.model))))
        except Refusal as refusal:
            refused.append((message, refusal))
    return pairs, refused


def unwatched(pairs: Iterable[ReadPair]) -> Counter[str]:
    """How many pairs cannot be looked at, by why."""
    return Counter(read.unwatched for read in pairs if read.unwatched is not None)


def _unwatched(pair: InferencePair, spec: ModelSpec | None) -> str | None:
    if spec is None:
        return "unknown_model"
    try:
        _check(pair, spec)
    except Refusal:
        if pair.response.model_version == spec.version:
            raise
        return "other_version"  # as on the topic after the model was replaced
    return None


def is_countable(read: ReadPair, spec: ModelSpec | None) -> bool:
    """Whether a pair's answer can be counted: also one of a version with other inputs or classes, if it is whole by
    itself. While a model is rolled out, agents have the next version before the worker does."""
    answer = read.pair.response
    if answer.outcome is not Outcome.OK or spec is None:
        return False
    if read.unwatched is None:
        return True
    if bool(spec.classes) != (answer.value is None):
        return False
    if answer.value is not None:
        return True
    numbers, predicted = answer.probabilities or (), answer.predicted
    if answer.labels_id is None and len(numbers) != len(spec.classes):
        return False  # nothing says that its labels are others
    is_answer = 0 < len(numbers) <= MAX_CLASSES and min(numbers) >= 0 and max(numbers) <= 1 + SLACK
    return is_answer and (predicted is None or 0 <= predicted < len(numbers))


def groups(pairs: Sequence[ReadPair], models: Iterable[str]) -> list[PairGroup]:
    """The answered pairs of these models, by model and type of pixels; expired ones have nothing to look at."""
    wanted, rows = set(models), defaultdict[tuple[str, str], list[int]](list)
    for row, read in enumerate(pairs):
        request, response = read.pair.request, read.pair.response
        if request.model in wanted and response.outcome is Outcome.OK and pairs[row].unwatched is None:
            rows[request.model, request.image.dtype.value].append(row)
    return [_group(model, dtype, [pairs[row].pair for row in own], own) for (model, dtype), own in rows.items()]


def _group(model: str, dtype: str, pairs: list[InferencePair], rows: list[int]) -> PairGroup:
    shape = pairs[0].request.image.shape
    data = b"".join(pair.request.image.data for pair in pairs)
    images = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(len(pairs), *shape)
    probabilities = np.array([pair.response.probabilities or () for pair in pairs], np.float32)
    return PairGroup(model, rows, images, probabilities)


def _check_identity(pair: InferencePair) -> None:
    response = pair.response
    if response.model != pair.request.model:
        found = f"response.model is {response.model[:64]!r}"
        raise Refusal(Reason.INVALID_FIELD, f"{found}, request.model {pair.request.model[:64]!r}: one answers")
    if (size := len(record_id_of(pair).encode())) > MAX_ID_BYTES:
        raise Refusal(
            Reason.INVALID_ID,
            f"request id, model and model_version together have {size} bytes; a record's id has at most {MAX_ID_BYTES}",
        )


def _check_clocks(pair: InferencePair, timestamp: float, now: float, max_ahead: float) -> None:
    check_not_ahead("Kafka's timestamp", timestamp, now, max_ahead)
    arrived = timestamp if timestamp >= 0 else now  # -1: its producer gave none
    check_not_ahead("response.answered_at", pair.response.answered_at.timestamp(), arrived, max_ahead)


def _check(pair: InferencePair, spec: ModelSpec) -> None:
    image, shape, answer = pair.request.image, pair.request.image.shape, pair.response
    if shape != spec.input.shape:
        raise Refusal(Reason.WRONG_SHAPE, f"request.image.shape is {shape}; {spec.name} takes {spec.input.shape}")
    if image.dtype is ImageDtype.FLOAT32:
        values = spec.input.byte_values
        _check_range("request.image", np.frombuffer(image.data, "<f4"), float(values[0]), float(values[-1]))
    if answer.outcome is not Outcome.OK:
        return
    if len(answer.probabilities or ()) != len(spec.classes):
        raise Refusal(
            Reason.INVALID_FIELD,
            f"response.probabilities has {len(answer.probabilities or ())} numbers; {spec.name} has "
            f"{len(spec.classes)} classes",
        )
    if answer.probabilities is None:
        return
    _check_range("response.probabilities", answer.probabilities)
    if answer.predicted is not None and not 0 <= answer.predicted < len(spec.classes):
        raise Refusal(
            Reason.OUT_OF_RANGE,
            f"response.predicted is {answer.predicted}; {spec.name} has classes 0 to {len(spec.classes) - 1}",
        )


def _check_range(
    field: str, numbers: Sequence[float] | NDArray[np.float32], least: float = 0.0, most: float = 1.0
) -> None:
    """Refuse what is out of its range, or NaN: scores and distances of it are no numbers, either."""
    low, high = (numbers.min(), numbers.max()) if isinstance(numbers, np.ndarray) else (min(numbers), max(numbers))
    slack = SLACK * (most - least)
    if not (low >= least - slack and high <= most + slack):
        expected = f"each is in {least:g}..{most:g}"
        raise Refusal(Reason.OUT_OF_RANGE, f"{field} holds numbers from {low:g} to {high:g}; {expected}")
