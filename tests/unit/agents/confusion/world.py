"""One partition of the join in memory: inputs, what is durable of them, and owners that are killed, moved or outbid."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.confusion.entries import (
    EMPTY,
    PAIRS_LANE,
    Answer,
    Entry,
    Identity,
    PairHalf,
    Truth,
    answer_of,
    decode,
    encode,
)
from agents.confusion.fold import claimed, decode_fold, encode_fold, latest
from agents.confusion.late import late_part
from agents.confusion.partition import FOLD, POSITION, Applied, Limits, PartitionJoin
from agents.confusion.records import truth_record
from agents.confusion.store import Changes, MemoryStore
from runtime.elasticsearch_sink import Record
from schemas.model_spec import NO_VALUE, ModelSpec

CLASSES = 3
SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("a", "b", "c"),
        "weights": {"framework": "null"},
        "breakdown": {"attribute": "site", "values": ("north", "south")},
    }
)
NUMBERS = SPEC.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
SPECS = {"m": SPEC, "n": NUMBERS}
SITES = ({"site": "north"}, {"site": "south"}, {"site": "a new one"}, {})
LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=1000, lookup_seconds=1, orphan_seconds=1e9)
CLAIM = b""

Input = tuple[str, PairHalf | Truth]
"""What came in the order of a log: an answer to a request, or a truth about it."""
Instance = tuple[str, Identity, float]
"""One answer: request id, model and version, and when it was given, which no two answers share."""


def half(number: int, who: tuple[str, str], offset: int, now: float, repeat: int = 0) -> PairHalf:
    """Each time that it is asked again, a model answers something else."""
    model, version = who
    spec, turn = SPECS[model], number + repeat + int(version)
    outputs = np.roll([0.7, 0.2, 0.1], turn % CLASSES).tolist() if spec is SPEC else [1.1 * turn - 6]
    answer, value = answer_of(outputs, bool(spec.classes)), spec.value_of(SITES[number % len(SITES)])
    return PairHalf(0, offset, model, version, float(number * 7), now, *answer, value=value)


@dataclass
class Owner:
    """An instance that takes itself for the owner of the partition.

    Attributes:
        claim: where its claim stands in the log.
        read: how far it has read the inputs.
        specs: the models that its process knows, for as long as it lives.
    """

    join: PartitionJoin
    claim: int
    read: int
    specs: Mapping[str, ModelSpec]


@dataclass
class World:
    """One partition: its inputs, what is durable (committed offsets, log, folds, records), and owners with local disks.

    An owner that is killed loses what it had not made durable; the next one is the same with its disk, or another. Of
    two that are alive at once, the one that claimed last holds; the other one sees that when it has written to the log.

    Attributes:
        models: that a process which is started now knows.
        records: of each answer what this agent has written into its record.
        left: answers that have left the state in a fold that was published, in their order.
        folded: the truths under which these folds count them.
    """

    inputs: list[Any]
    max_entries: int = 1000
    models: Mapping[str, ModelSpec] = field(default_factory=lambda: SPECS)
    committed: int = 0
    log: list[tuple[str, bytes]] = field(default_factory=list)
    folds: dict[int, bytes] = field(default_factory=dict)
    records: dict[tuple[str, Identity], dict[str, Any]] = field(default_factory=dict)
    disks: dict[int, MemoryStore] = field(default_factory=dict)
    owners: dict[int, Owner] = field(default_factory=dict)
    now: float = 0.0
    left: list[tuple[str, PairHalf]] = field(default_factory=list)
    folded: dict[Instance, Answer | None] = field(default_factory=dict)

    def start(self, number: int, rival: int | None = None) -> Owner:
        """A process on a disk, in the place of the one that was there: with the models that are registered now.

        Args:
            rival: another that is started at once: it claims when this one has claimed and read the folds, and is first
                to publish its own.
        """
        return self.open(number, self.committed, dict(self.models), rival)

    def open(self, number: int, read: int, specs: Mapping[str, ModelSpec], rival: int | None = None) -> Owner:
        """As `JoinLoader.open`."""
        claim = len(self.log)
        self.log.append(("", CLAIM))
        fold = latest([decode_fold(value) for value in self.folds.values()], 0)
        if rival is not None:
            self.start(rival)
        store = self.disks.setdefault(number, MemoryStore())
        if store.items.get(FOLD) != encode_fold(fold):
            store.items.clear()
        start = int(store.items.get(POSITION, b"0"))
        fold = claimed(fold, claim, rival is None)
        self.folds[fold.epoch] = encode_fold(fold)
        store.write(Changes({FOLD: encode_fold(fold)}))
        join = PartitionJoin(store, fold, specs, replace(LIMITS, max_entries=self.max_entries))
        join.apply([(name, decode(value)) for name, value in self.log[start:] if value != CLAIM], replay=True)
        join.remember(len(self.log))
        owner = self.owners[number] = Owner(join, claim, read, specs)
        return owner

    def step(self, number: int, count: int, durable: bool) -> None:
        """Read some inputs; `durable` says whether log, record and offset were written before whatever comes next."""
        owner = self.owners[number]
        end = self.end_of(owner.read + count)
        inputs = self.inputs[owner.read : end]
        batch = self.read(owner, inputs)
        applied = owner.join.apply(batch)
        owner.read += len(inputs)
        if durable:
            self._deliver(number, batch, applied)
            self.committed = max(self.committed, owner.read)

    def tick(self, number: int, durable: bool, seconds: float = 15) -> None:
        """Time passes: old entries are folded, and waiting truths whose pair is folded are joined by their record."""
        self.now += seconds
        owner = self.owners[number]
        if durable and self.is_outbid(owner):
            owner = self._claim_again(number)
        if durable:
            owner.join.remember(len(self.log))
        folded = owner.join.expire(self.now)
        if folded and durable:
            self._record([(name, one) for name, one in folded if one.told is not None], owner)
            self.left += [(name, one) for name, one in folded if one.lane == PAIRS_LANE]
            self.folded |= {(name, one.identity, one.time): one.truth for name, one in folded}
            self.folds[owner.join.fold.epoch] = encode_fold(owner.join.fold)
        if durable:
            late = [(name, part) for name, entry in owner.join.due(self.now) for part in self._late(owner, name, entry)]
            self._deliver(number, late, owner.join.apply(late))

    def fold_late(self, number: int) -> None:
        """A fold is published by one that does not know yet that it was outbid."""
        owner = self.owners[number]
        if self.is_outbid(owner) and owner.join.expire(self.now + 1000):
            self.folds[owner.join.fold.epoch] = encode_fold(owner.join.fold)

    def finish(self, number: int) -> PartitionJoin:
        """Everything is read by one owner, without further kills."""
        self.step(number, len(self.inputs), True)
        for _ in range(3):
            self.tick(number, True)
        return self.owners[number].join

    def note(self, name: str, identity: Identity, record: Record) -> None:
        """Write into an answer's record."""
        fields: Any = record.document
        self.records.setdefault((name, identity), {}).update(fields)

    def is_outbid(self, owner: Owner) -> bool:
        """Whether another has claimed since."""
        return any(value == CLAIM for _, value in self.log[owner.claim + 1 :])

    def end_of(self, end: int) -> int:
        """Where a batch that would end here does end: answers to one request, given at once, are not parted."""
        while 0 < end < len(self.inputs) and self._is_one_answer(end):
            end += 1
        return end

    def read(self, owner: Owner, inputs: Sequence[Any]) -> list[tuple[str, Entry]]:
        """Inputs as entries of the parts that they bring."""
        return [(name, self._part(part)) for name, part in inputs]

    def answers_to(self, name: str) -> list[PairHalf]:
        """Of every answer to a request the last one, as the records hold them."""
        found = [part for other, part in self.inputs if other == name and isinstance(part, PairHalf)]
        return list({part.identity: part for part in found}.values())

    def _is_one_answer(self, end: int) -> bool:
        (name, part), (other, before) = self.inputs[end], self.inputs[end - 1]
        return name == other and isinstance(part, PairHalf) and isinstance(before, PairHalf)

    def _part(self, part: PairHalf | Truth) -> Entry:
        if isinstance(part, PairHalf):
            return Entry((replace(part, kept_from=self.now),))
        return Entry((), (part,), self.now, self.now + 1)

    def _claim_again(self, number: int) -> Owner:
        owner = self.owners[number]
        return self.open(number, owner.read, owner.specs)

    def _deliver(self, number: int, batch: list[tuple[str, Entry]], applied: list[Applied]) -> None:
        self._write(applied)
        if self.is_outbid(self.owners[number]):
            applied = self._claim_again(number).join.apply(batch)
            self._write(applied)
        owner = self.owners[number]
        names = dict.fromkeys(one.request_id for one in applied)
        self._record([(name, one) for name in names for one in owner.join.entry(name).pairs], owner)

    def _write(self, applied: list[Applied]) -> None:
        self.log += [(one.request_id, encode(one.new)) for one in applied if one.new != EMPTY]

    def _record(self, found: list[tuple[str, PairHalf]], owner: Owner) -> None:
        for name, one in found:
            if one.truth is not None:
                self.note(name, one.identity, truth_record(0, name, one, owner.specs))

    def _late(self, owner: Owner, name: str, waiting: Entry) -> list[Entry]:
        """As the agent makes pairs that have left the state again, from their records."""
        found = [one for one in self.answers_to(name) if owner.join.fold.has_left(one.offset, one.time)]
        parts = [late_part(self._record_of(name, one), waiting, owner.specs) for one in found]
        return [part for part in parts if part is not None]

    def _record_of(self, name: str, one: PairHalf) -> dict[str, Any]:
        outputs: dict[str, Any] = {"value": one.predicted}
        if one.probabilities:
            outputs = {"probabilities": one.vector().tolist(), "predicted": one.predicted}
        moment = np.datetime64(round(one.time * 1e6), "us").item().isoformat() + "+00:00"
        attributes = {} if one.value in (None, NO_VALUE) else {"site": one.value}
        response = {"model": one.model, "model_version": one.version, "answered_at": moment, **outputs}
        response |= {} if one.labels is None else {"labels_id": one.labels}
        record = {"request": {"attributes": attributes}, "response": response}
        return record | self.records.get((name, one.identity), {})


def by_group(pairs: Sequence[tuple[PairHalf, Any]]) -> dict[tuple[str, str], list[tuple[PairHalf, Any]]]:
    """Answers with their truths, by model and version."""
    found = defaultdict[tuple[str, str], list[tuple[PairHalf, Any]]](list)
    for pair, truth in pairs:
        found[pair.identity].append((pair, truth))
    return found
