"""Messages of both topics as inputs of the join: entries of the parts that each of them brings."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.partitioner import murmur2

from agents.confusion.entries import PAIRS_LANE, Entry, PairHalf, answer_of
from agents.confusion.truth import Told, read_feedback, resolve_any, self_contained
from agents.pairs import ReadPair, is_countable, read_pairs, unwatched
from schemas.clock import MAX_AHEAD_SECONDS, check_not_ahead
from schemas.letters import Source
from schemas.messages import Outcome
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal
from schemas.topics import FEEDBACK


@dataclass(frozen=True, slots=True)
class Inputs:
    """What messages bring.

    Attributes:
        parts: request id, and an entry of what came.
        pairs: answered pairs by model.
        unwatched: pairs that cannot be looked at, by why; and `uncounted`, the answered ones of them.
        outcomes: of feedback that goes no further, by model and outcome.
        misplaced: feedback, as JSON, on another partition than its request's pair: id, partition, JSON, headers.
    """

    parts: list[tuple[str, Entry]] = field(default_factory=list)
    refused: list[tuple[Any, Refusal]] = field(default_factory=list)
    pairs: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    misplaced: list[tuple[str, int, bytes, list[Any]]] = field(default_factory=list)
    unwatched: Counter[str] = field(default_factory=Counter)
    uncounted: list[ReadPair] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InputReader:
    """Reads messages of one partition of pairs and feedback.

    Attributes:
        lookup_seconds: how long a truth waits for its pair before one looks elsewhere.
        partitions: of each topic; tells which feedback lies where its pair is not.
        max_ahead: seconds that a moment in a message may be ahead of the message's own timestamp.
        default_model: the model of requests that name none; None: there is none, and no answer is primary.
    """

    specs: Mapping[str, ModelSpec]
    lookup_seconds: float
    partitions: int
    max_ahead: float = MAX_AHEAD_SECONDS
    default_model: str | None = None

    def read(self, messages: Sequence[Any], now: float, unlabelled: Collection[str] = ()) -> Inputs:
        """What the messages bring.

        Args:
            now: the reader's clock, seconds since the epoch.
            unlabelled: models of which answers are counted by labels that are not here any more, or never were.
        """
        own = [one for one in messages if one.topic != FEEDBACK.name]
        pairs, refused = read_pairs(own, self.specs, now, self.max_ahead)
        countable = [is_countable(read, self.specs.get(read.pair.response.model)) for read in pairs]
        left_out = [read for read, counts in zip(pairs, countable, strict=True) if not counts]
        inputs = Inputs(unwatched=unwatched(left_out))
        inputs.refused.extend(refused)
        inputs.uncounted.extend(read for read in left_out if read.pair.response.outcome is Outcome.OK)
        for read, counts in zip(pairs, countable, strict=True):
            if counts:
                model = read.pair.response.model
                half = _half(read, self.specs[model], now)
                inputs.parts.append((read.pair.request.request_id, Entry((half,))))
                inputs.pairs[model] += 1
        for message in messages:
            if message.topic == FEEDBACK.name:
                self._read_feedback(inputs, message, now, unlabelled)
        return inputs

    def _read_feedback(self, inputs: Inputs, message: Any, now: float, unlabelled: Collection[str]) -> None:
        try:
            told, bad = read_feedback(message.value, message.offset)
        except Refusal as refusal:
            inputs.refused.append((message, refusal))
            inputs.outcomes["", "invalid"] += 1
            return
        for raw, why in bad:
            inputs.refused.append((_letter(message, raw), why))
            inputs.outcomes["", "invalid"] += 1
        arrived = arrival(message, now, self.max_ahead)
        for one in told:
            target = partition_of(one.request_id, self.partitions)
            try:
                check_not_ahead("given_at", one.truth.given_at, arrived, self.max_ahead)
                if target == message.partition:
                    inputs.parts.append((one.request_id, self._part(one, arrived, now, unlabelled)))
                else:
                    inputs.misplaced.append((one.request_id, target, one.raw, list(message.headers or ())))
            except Refusal as refusal:
                inputs.refused.append((_letter(message, one.raw), refusal))
                inputs.outcomes[one.model if one.model in self.specs else "", "invalid"] += 1  # type: ignore[index]

    def _part(self, told: Told, arrived: float, now: float, unlabelled: Collection[str]) -> Entry:
        specs, is_unlabelled = self.specs, any(map(told.truth.is_about, unlabelled))
        if is_unlabelled and told.response is None and not isinstance(told.truth.form, str):
            return Entry((), (told.truth,), arrived, arrived + self.lookup_seconds)  # its pair tells whether it fits
        if told.model is not None and told.model not in specs:
            raise Refusal(
                Reason.UNKNOWN_MODEL, f"model {told.model[:64]!r} is not here; there are {', '.join(sorted(specs))}"
            )
        if told.response is not None:
            if told.model is None:
                raise Refusal(Reason.MISSING_FIELD, "feedback with its own response must name the model that answered")
            return self_contained(told, specs[told.model], now, self.default_model == told.model)
        try:
            resolve_any(told, [specs[told.model]] if told.model is not None else list(specs.values()))
        except Refusal as refusal:
            if not is_unlabelled:
                raise
            remedy = "about an answer by labels that are not here any more, give truth_index"
            raise Refusal(refusal.reason, f"{refusal.detail}; {remedy}") from refusal
        return Entry((), (told.truth,), arrived, arrived + self.lookup_seconds)


def arrival(message: Any, now: float, max_ahead: float) -> float:
    """When a message came, seconds since the epoch: its timestamp, unless that is none or itself ahead of our clock."""
    return message.timestamp if 0 < message.timestamp <= now + max_ahead else now


def _half(read: ReadPair, spec: ModelSpec, now: float) -> PairHalf:
    response = read.pair.response
    outputs = response.probabilities if response.value is None else (response.value,)
    predicted, probabilities = answer_of(outputs or (), bool(spec.classes))
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
        primary=response.primary,
        labels=response.labels_id if spec.classes else None,
    )


def partition_of(request_id: str, partitions: int) -> int:
    """Where our producers and Java's put a key."""
    return int(murmur2(request_id.encode()) & 0x7FFFFFFF) % partitions


def _letter(message: Any, value: bytes) -> Source:
    return Source(message.key, value, message.topic, message.partition, message.offset, message.headers or ())
