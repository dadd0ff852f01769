"""The partition of `world`, its inputs as messages, read by the agent's own reader with the models of that moment."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.confusion.entries import PAIRS_LANE, Answer, Entry, Identity, PairHalf
from agents.confusion.inputs import InputReader
from agents.confusion.records import uncounted_record
from agents.pairs import ReadPair
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason
from tests.unit.agents.confusion.messages import Answered, Sent, Told, is_taken, is_watched, meaning
from tests.unit.agents.confusion.world import LIMITS, Owner, World

Specs = Mapping[str, ModelSpec]


@dataclass
class RegistryWorld(World):
    """A partition whose owners know the models that were registered when they were started.

    Attributes:
        lives: the models of each process that ever was, in their order.
        alive: by number of the owner, which of `lives` it is.
        since: of each input, the lives in which it may have been read: those then alive, and all from a number on.
        last: offsets of what was taken by whoever read last, and `passed`, the answers that were not.
        passed_over: offsets of all answers that somebody did not count.
        unsafe: by number of the owner, in which life it was killed before what it had read was safe.
        left_when: by offset of an answer that has left the state: how far the inputs were read then.
        taken: offsets of inputs that somebody took, durably or not; `safe`, of those that were taken durably.
    """

    inputs: list[Sent]
    lives: list[Specs] = field(default_factory=list)
    alive: dict[int, int] = field(default_factory=dict)
    since: list[tuple[set[int], int]] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    safe: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)
    passed: list[ReadPair] = field(default_factory=list)
    passed_over: set[int] = field(default_factory=set)
    unsafe: dict[int, int] = field(default_factory=dict)
    left_when: dict[int, int] = field(default_factory=dict)

    def start(self, number: int, rival: int | None = None) -> Owner:
        """As before; another life begins.

        What its disk alone knows is made safe first where the models have changed: else a pair that had left the state
        before it was safe would not be counted by one who reads it again with other models.
        """
        if number in self.unsafe and self.models != self.lives[self.unsafe.pop(number)]:
            models, self.models = self.models, self.lives[self.alive[number]]
            self.start(number)
            self.step(number, len(self.inputs), True)
            self.models = models
        self.lives.append(dict(self.models))
        self.alive[number] = len(self.lives) - 1
        return super().start(number, rival)

    def send(self, one: Sent) -> None:
        """An input comes to the end of its log."""
        self.inputs.append(one)
        self.since.append((set(self.alive.values()), len(self.lives)))

    def step(self, number: int, count: int, durable: bool) -> None:
        """As before; what was taken durably is safe, and the records of what was not counted say so."""
        super().step(number, count, durable)
        self.passed_over |= {read.message.offset for read in self.passed}
        if not durable:
            self.unsafe[number] = self.alive[number]
        elif self.owners[number].read == len(self.inputs):
            self.unsafe.pop(number, None)
        if durable:
            self.safe |= self.last
            for read in self.passed:
                response = read.pair.response
                identity = response.model, response.model_version
                self.note(read.pair.request.request_id, identity, uncounted_record(read))

    def tick(self, number: int, durable: bool, seconds: float = 15) -> None:
        """As before; no answer may leave after a later one of the same model version has come."""
        before = len(self.left)
        super().tick(number, durable, seconds)
        for name, one in self.left[before:]:
            self.left_when[one.offset] = self.owners[number].read
            later = [sent.message.offset for sent in self._answers(name) if sent.half.identity == one.identity]
            assert not any(offset > one.offset for offset in later if offset in self.safe)

    def read(self, owner: Owner, inputs: Sequence[Any]) -> list[tuple[str, Entry]]:
        """By the agent's own reader, which must take what it should, and refuse the rest by reason."""
        reader = InputReader(owner.specs, LIMITS.lookup_seconds, 1, MAX_AHEAD_SECONDS, "m")
        unlabelled = owner.join.unlabelled()
        found = reader.read([one.message for one in inputs], self.now, unlabelled)
        counted = [one for one in inputs if _is_counted(one, owner.specs, unlabelled)]
        assert sorted(name for name, _ in found.parts) == sorted(one.name for one in counted)
        ahead = [one for one in inputs if one.ahead]
        assert sum(why.reason is Reason.IN_FUTURE for _, why in found.refused) == len(ahead)
        pairs = [one for one in inputs if isinstance(one, Answered) and not one.ahead]
        assert sum(found.unwatched.values()) == sum(one not in counted for one in pairs)
        self.passed, self.last = found.uncounted, {one.message.offset for one in counted}
        self.taken |= self.last
        return found.parts

    def answers_to(self, name: str) -> list[PairHalf]:
        """As before: what every agent refuses has no record."""
        found = [one.half for one in self.inputs if one.name == name and isinstance(one, Answered) and not one.ahead]
        return list({part.identity: part for part in found}.values())

    def _is_one_answer(self, end: int) -> bool:
        one, before = self.inputs[end], self.inputs[end - 1]
        return one.name == before.name and isinstance(one, Answered) and isinstance(before, Answered)

    def counted(self, owner: Owner) -> list[tuple[str, PairHalf, Answer | None]]:
        """Every answer that is counted, with its truth: what has left the state, and what is in it."""
        names = dict.fromkeys(one.name for one in self.inputs)
        held = [(name, one) for name in names for one in owner.join.entry(name).pairs]
        truths = self.folded | {(name, one.identity, one.time): one.truth for name, one in held}
        answers = self.left + [(name, one) for name, one in held if one.lane == PAIRS_LANE]
        return [(name, one, truths[name, one.identity, one.time]) for name, one in answers]

    def check_instances(self, counted: Sequence[tuple[str, PairHalf, Any]]) -> None:
        """No answer is counted twice, or without having been taken; what was taken safely, by all who read it, is
        counted, or a later answer of the same model version to the same request is."""
        offsets = [one.offset for _, one, _ in counted]
        assert len(set(offsets)) == len(offsets) and set(offsets) <= self.taken
        latest = dict[tuple[str, Identity], int]()
        for name, one, _ in counted:
            latest[name, one.identity] = max(one.offset, latest.get((name, one.identity), -1))
        for sent in self.inputs:
            if isinstance(sent, Answered) and sent.message.offset in self.safe - self.passed_over:
                assert latest.get((sent.name, sent.half.identity), -1) >= sent.message.offset

    def truths_of(self, name: str, one: PairHalf) -> set[Answer | None]:
        """What may be the final truth of an answer: of those that were told of it, the last one given that means
        something.

        It is one only, but where the models changed meanwhile, or answers to the request came after others had left:
        these are not judged by truths that had left with the others, nor the others by truths that found these.
        """
        answers = [sent for sent in self._answers(name) if sent.half.identity == one.identity]
        own = next(sent for sent in answers if sent.message.offset == one.offset)
        is_last = one.offset == answers[-1].message.offset
        left_before = any(other == name and gone.offset < one.offset for other, gone in self.left)
        alone = self.left_when.get(one.offset, len(self.inputs))
        others_after = any(sent.message.offset >= alone for sent in self._answers(name))
        is_sure = is_last and not others_after and one.offset not in self.passed_over
        found = set[Answer | None]()
        for truth in sorted(self._truths(name), key=lambda sent: sent.rank, reverse=True):
            if not truth.is_about(one.model):
                continue
            first = max(truth.message.offset, answers[0].message.offset)
            means = {meaning(truth.form, own.spec, specs.get(one.model)) for specs in self._registries(first)}
            if not (is_sure and truth.message.offset in self.safe) or (
                left_before and truth.message.offset < one.offset
            ):
                means.add(None)
            found |= means
            if None not in means:
                return found - {None}
        return found | {None}

    def _answers(self, name: str) -> list[Answered]:
        return [sent for sent in self.inputs if isinstance(sent, Answered) and sent.name == name and not sent.ahead]

    def _truths(self, name: str) -> Iterator[Told]:
        taken = self.taken
        return (
            sent
            for sent in self.inputs
            if isinstance(sent, Told) and sent.name == name and sent.message.offset in taken
        )

    def _registries(self, offset: int) -> list[Specs]:
        alive, then = self.since[offset]
        return [specs for life, specs in enumerate(self.lives) if life in alive or life >= then]


def _is_counted(one: Sent, specs: Specs, unlabelled: Collection[str]) -> bool:
    return is_watched(one, specs) if isinstance(one, Answered) else is_taken(one, specs, unlabelled)
