"""Messages of both topics as inputs of the join: entries of the parts that each of them brings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.partitioner import murmur2

from agents.confusion.entries import PAIRS_LANE, Entry, PairHalf, answer_of
from agents.confusion.truth import Told, read_feedback, resolve, self_contained
from agents.pairs import ReadPair, read_pairs, unwatched
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.messages import Outcome
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal
from schemas.topics import FEEDBACK


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent to the dead letters, in the shape of a message."""

    key: bytes | None
    value: bytes
    topic: str
    partition: int
    offset: int
    headers: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What messages bring.

    Attributes:
        parts: request id, and an entry of what came.
        pairs: answered pairs by model.
        unwatched: pairs that cannot be looked at, by why.
        outcomes: of feedback that goes no further, by model and outcome.
        misplaced: feedback, as JSON, on another partition than its request's pair: id, partition, JSON, headers.
    """

    parts: list[tuple[str, Entry]] = field(default_factory=list)
    refused: list[tuple[Any, Refusal]] = field(default_factory=list)
    pairs: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    misplaced: list[tuple[str, int, bytes, list[Any]]] = field(default_factory=list)
    unwatched: Counter[str] = field(default_factory=Counter)


def read_inputs(
    messages: Sequence[Any],
    specs: Mapping[str, ModelSpec],
    lookup_seconds: float,
    now: float,
    partitions: int,
    max_ahead: float = MAX_AHEAD_SECONDS,
) -> Inputs:
    """Read messages of one partition of pairs and feedback.

    Args:
        lookup_seconds: how long a truth waits for its pair before one looks elsewhere.
        now: seconds since the epoch.
        partitions: of each topic; tells which feedback lies where its pair is not.
        max_ahead: seconds that the clocks in a pair may be ahead.
    """
    pairs, refused = read_pairs([one for one in messages if one.topic != FEEDBACK.name], specs, now, max_ahead)
    inputs = Inputs(unwatched=unwatched(pairs))
    inputs.refused.extend(refused)
    for read in pairs:
        model, answered = read.pair.response.model, read.pair.response.outcome is Outcome.OK
        if answered and read.unwatched is None:
            inputs.parts.append((read.pair.request.request_id, Entry(_half(read, specs[model], now))))
            inputs.pairs[model] += 1
    for message in messages:
        if message.topic == FEEDBACK.name:
            _read_message(inputs, message, specs, lookup_seconds, now, partitions)
    return inputs


def _half(read: ReadPair, spec: ModelSpec, now: float) -> PairHalf:
    response = read.pair.response
    outputs = response.probabilities if response.value is None else (response.value,)
    predicted, probabilities = answer_of(outputs or (), spec)
    return PairHalf(
        PAIRS_LANE,
        read.message.offset,
        response.model,
        response.model_version,
        response.answered_at.timestamp(),
        now,
        predicted if response.predicted is None else response.predicted,
        probabilities,
        value=spec.value_of(read.pair.request.attributes),
    )


def partition_of(request_id: str, partitions: int) -> int:
    """Where our producers and Java's put a key."""
    return int(murmur2(request_id.encode()) & 0x7FFFFFFF) % partitions


def _read_message(
    inputs: Inputs, message: Any, specs: Mapping[str, ModelSpec], lookup_seconds: float, now: float, partitions: int
) -> None:
    try:
        told, bad = read_feedback(message.value, message.offset)
    except Refusal as refusal:
        inputs.refused.append((message, refusal))
        inputs.outcomes["", "invalid"] += 1
        return
    for raw, why in bad:
        inputs.refused.append((_letter(message, raw), why))
        inputs.outcomes["", "invalid"] += 1
    for one in told:
        target = partition_of(one.request_id, partitions)
        if target != message.partition:
            value, headers = (one.truth.letter or "").encode(), list(message.headers or ())
            inputs.misplaced.append((one.request_id, target, value, headers))
            continue
        try:
            inputs.parts.append((one.request_id, _part(one, specs, lookup_seconds, now)))
        except Refusal as refusal:
            inputs.refused.append((_letter(message, (one.truth.letter or "").encode()), refusal))
            inputs.outcomes[one.model if one.model in specs else "", "invalid"] += 1  # type: ignore[index]


def _part(told: Told, specs: Mapping[str, ModelSpec], lookup_seconds: float, now: float) -> Entry:
    if told.model is not None and told.model not in specs:
        raise Refusal(Reason.UNKNOWN_MODEL, f"model {told.model!r} is not here; there are {', '.join(sorted(specs))}")
    if told.response is not None:
        if told.model is None:
            raise Refusal(Reason.MISSING_FIELD, "feedback with its own response must name the model that answered")
        return self_contained(told, specs[told.model], now)
    candidates = [specs[told.model]] if told.model is not None else list(specs.values())
    _check_fits_any(told, candidates)
    return Entry(None, (told.truth,), now, now + lookup_seconds)


def _check_fits_any(told: Told, candidates: Sequence[ModelSpec]) -> None:
    """Refuse at once what can be the truth of no model; the others are checked against their pair's."""
    refusals: list[Refusal] = []
    for spec in candidates:
        try:
            resolve(told.truth.form, spec)
            return
        except Refusal as refused:
            refusals.append(refused)
    raise refusals[0] if refusals else Refusal(Reason.UNKNOWN_MODEL, "no model is loaded")


def _letter(message: Any, value: bytes) -> Letter:
    return Letter(message.key, value, message.topic, message.partition, message.offset, message.headers or ())
