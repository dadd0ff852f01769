"""The first stage's wiring: pairs and feedback in; entries to the log, truths to the records, sums to the second."""

import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from agents.confusion.board import LIFETIME
from agents.confusion.entries import EMPTY, PAIRS_LANE, Entry
from agents.confusion.fold import encode_fold
from agents.confusion.inputs import Inputs, Letter, read_inputs
from agents.confusion.partition import LATE_WINDOW, Applied, Limits, PartitionJoin, WindowKey
from agents.confusion.records import truth_record
from agents.confusion.store import RocksStore
from runtime.batches import Batch, BatchStage
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.clock import elapsed
from schemas.messages import PerformanceSums
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal
from schemas.topics import FEEDBACK, JOIN_FOLDS, JOINS, PERFORMANCE_SUMS

REPUBLISH_SECONDS = 3600.0
"""How often all sums are published anew: heals what a former owner wrote over them."""
POSITION_SECONDS = 10.0


class Loader(Protocol):
    """See `agents.confusion.recovery.JoinLoader`."""

    def open(self, partition: int) -> tuple[PartitionJoin, RocksStore]:
        """The join of a partition."""

    def log_end(self, partition: int) -> int:
        """Offset behind the last message of its log."""


@dataclass(slots=True)
class Owned:
    """A partition that is ours."""

    join: PartitionJoin
    store: RocksStore
    publication: int = 0
    positioned: float = 0.0
    republished: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Joined:
    """A batch, merged and stored.

    Attributes:
        applied: by partition.
        misplaced: feedback that is sent on to the partition of its pair: an item of a batch, or one without a key.
    """

    applied: dict[int, list[Applied]]
    refused: list[tuple[Any, Refusal]]
    pairs: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    misplaced: list[Outgoing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What the clock brought: records, sums and folds to write, and truths whose pair should be looked for."""

    records: list[Record]
    sums: list[Outgoing]
    folds: list[Outgoing]
    waiting: dict[int, list[tuple[str, Entry]]]


class JoinStage(BatchStage):
    """Joins the partitions that this instance owns. Subscribe it with depth 1: records are written in order.

    Args:
        sums_partitions: of the topic of sums.
        instance: name of this instance, part of the key of the folds that it writes.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        metrics: ConfusionMetrics,
        loader: Loader,
        limits: Limits,
        instance: str,
    ) -> None:
        self._specs = dict(specs)
        self._metrics = metrics
        self._loader = loader
        self._limits = limits
        self._instance = instance
        self._generation = -1
        self._owned: dict[int, Owned] = {}
        self.sums_partitions = 1
        self.partitions = 1
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink
        self._in_thread: Callable[..., Awaitable[Any]]

    def connect(
        self, results: Results, letters: DeadLetters, sink: RecordSink, in_thread: Callable[..., Awaitable[Any]]
    ) -> None:
        """Where results go; and how to run a function where the state is at rest."""
        self._results, self._letters, self._sink, self._in_thread = results, letters, sink, in_thread

    def compute(self, batch: Batch) -> Joined:
        """Decode, merge, store."""
        joined = Joined({}, [])
        if not self._enter(batch.generation):
            return joined
        now = time.time()
        messages = defaultdict[int, list[Any]](list)
        for message in batch.messages:
            messages[message.partition].append(message)
        for partition, own in messages.items():
            inputs = read_inputs(
                own, self._specs, self._limits.lookup_seconds, now, self.partitions, self._limits.max_ahead_seconds
            )
            joined.refused.extend(inputs.refused)
            self._metrics.count_unwatched(inputs.unwatched)
            joined.misplaced.extend(
                Outgoing(FEEDBACK.name, name, value, headers, target)
                for name, target, value, headers in inputs.misplaced
            )
            joined.pairs.update(inputs.pairs)
            self._apply(joined, partition, inputs)
        return joined

    async def deliver(self, joined: Joined) -> None:
        """Letters and the log first: from then on nothing is lost. Then the records, as the entries are by then."""
        await self._letters.send(joined.refused)
        entries = {
            (partition, one.request_id): one.new
            for partition, applied in joined.applied.items()
            for one in applied
            if one.new != EMPTY
        }
        await self._results.publish(
            [_log_message(partition, name, entry) for (partition, name), entry in entries.items()]
        )
        await self._results.publish(joined.misplaced)
        truths = {place: entry for place, entry in entries.items() if entry.truth is not None}
        if truths:
            current = await self._in_thread(self._current, truths)
            await self._sink.write([truth_record(name, entry, self._specs) for (_, name), entry in current.items()])
        self._count(joined)

    async def keep(self, upkeep: Upkeep) -> None:
        """Make safe what was folded: records know its truth, and reports its windows, before the fold is published."""
        await self._sink.write(upkeep.records)
        await self._results.publish(upkeep.sums)
        await self._results.publish(upkeep.folds)

    async def on_rejected(self, record: Record, reason: str) -> None:
        """The store will never take this record: it goes to the dead letters. The counts are right without it."""
        value = record.document if isinstance(record.document, bytes) else orjson.dumps(record.document)
        refusal = Refusal(Reason.MAPPING_REJECTED, f"{record.index}/{record.id}: {reason}")
        await self._letters.send([(Letter(record.id.encode(), value, FEEDBACK.name, 0, 0), refusal)])

    def upkeep(self, generation: int, partitions: Iterable[int], now: float) -> Upkeep:
        """Open what was assigned, fold what is too old, and lay out what changed. Run it between batches."""
        upkeep = Upkeep([], [], [], {})
        if not self._enter(generation):
            return upkeep
        for partition in partitions:
            owned = self._own(partition)
            self._remember_position(owned, partition)
            # Before anything is folded: what comes and goes within one tick is in a report as well.
            upkeep.sums.extend(self._sums(owned, partition))
            if folded := owned.join.expire(now):
                upkeep.records.extend(
                    truth_record(name, entry, self._specs) for name, entry in folded.items() if entry.truth is not None
                )
                fold = owned.join.fold
                key = f"{partition}/{self._instance}"
                upkeep.folds.append(Outgoing(JOIN_FOLDS.name, key, encode_fold(fold), [], partition))
            if waiting := owned.join.due(now):
                upkeep.waiting[partition] = waiting
        self._metrics.join_entries.set(sum(owned.join.entries for owned in self._owned.values()))
        self._metrics.join_state.set(sum(owned.store.disk_bytes() for owned in self._owned.values()))
        return upkeep

    def settle(
        self, generation: int, found: Mapping[int, list[tuple[str, Entry]]], upkeep: Upkeep, now: float
    ) -> tuple[Joined, list[Outgoing]]:
        """Merge the pairs that were found among the records; what has waited too long for its pair is given up.

        Returns:
            The result to deliver; and messages for the log, to publish after it.
        """
        joined, dropped = Joined({}, []), list[Outgoing]()
        if generation != self._generation:
            return joined, dropped
        for partition, waiting in upkeep.waiting.items():
            late = Inputs(parts=found.get(partition, []))
            self._apply(joined, partition, late, "late")
            names = {name for name, _ in late.parts}
            still = [(name, entry) for name, entry in waiting if name not in names]
            for name, entry in self._own(partition).join.give_up(still, now):
                dropped.append(Outgoing(JOINS.name, name, None, [], partition))
                joined.refused.extend(_orphans(partition, name, entry))
                joined.outcomes["", "orphan"] += len(entry.truths)
        return joined, dropped

    def is_folded(self, partition: int, offset: int) -> bool:
        """Whether the pair at an offset has left the state."""
        owned = self._owned.get(partition)
        return owned is not None and owned.join.fold.has((PAIRS_LANE, offset))

    def _enter(self, generation: int) -> bool:
        """A new assignment is read again from the committed offsets, and other partitions may be ours.

        False if the assignment is over: what was read under it is read by others, and its partitions are theirs.
        """
        if generation > self._generation:
            for owned in self._owned.values():
                owned.store.close()
            self._generation, self._owned = generation, {}
        return generation == self._generation

    def _own(self, partition: int) -> Owned:
        if partition not in self._owned:
            self._owned[partition] = Owned(*self._loader.open(partition))
        return self._owned[partition]

    def _apply(self, joined: Joined, partition: int, inputs: Inputs, outcome: str | None = None) -> None:
        applied = self._own(partition).join.apply(inputs.parts)
        joined.applied.setdefault(partition, []).extend(applied)
        joined.outcomes.update(inputs.outcomes)
        for one in applied:
            joined.refused.extend(
                (_letter(partition, one.request_id, truth.letter, truth.offset), refusal)
                for truth, refusal in one.refused
            )
            model = one.new.pair.model if one.new.pair else ""
            if found := outcome or one.outcome:
                joined.outcomes[model, found] += 1
            if one.refused:
                joined.outcomes[model, "invalid"] += len(one.refused)

    def _current(self, entries: Mapping[tuple[int, str], Entry]) -> dict[tuple[int, str], Entry]:
        """The entries as they are now: of two deliveries, neither may write an older truth over a newer one."""
        return {
            (partition, name): held if (held := self._owned[partition].join.entry(name)).truth is not None else entry
            for (partition, name), entry in entries.items()
            if partition in self._owned
        } | {place: entry for place, entry in entries.items() if place[0] not in self._owned}

    def _remember_position(self, owned: Owned, partition: int) -> None:
        """All that we have written to the log so far is in the store: a restart need not read it."""
        if time.monotonic() - owned.positioned > POSITION_SECONDS:
            owned.join.remember(self._loader.log_end(partition))
            owned.positioned = time.monotonic()

    def _sums(self, owned: Owned, partition: int) -> list[Outgoing]:
        if time.monotonic() - owned.republished > REPUBLISH_SECONDS:
            owned.republished = time.monotonic()
            owned.join.changed |= owned.join.every_window()
        changed = owned.join.take_changed()
        if not changed:
            return []
        owned.publication += 1
        lifetimes = {(model, version, LIFETIME) for model, version, _ in changed}
        windows = {key for key in changed if key[2] != LATE_WINDOW}
        return [self._sums_message(owned, partition, key) for key in sorted(windows | lifetimes)]

    def _sums_message(self, owned: Owned, partition: int, key: WindowKey) -> Outgoing:
        model, version, window = key
        join = owned.join
        sums = join.totals[model, version] if window == LIFETIME else join.windows.get(key)
        value = PerformanceSums(
            model=model,
            version=version,
            window=window,
            partition=partition,
            epoch=join.fold.epoch,
            progress=owned.publication,
            sums=sums or {},
        )
        target = zlib.crc32(model.encode()) % self.sums_partitions
        name = f"{model}/{version}/{window}/{partition}"
        return Outgoing(PERFORMANCE_SUMS.name, name, value.model_dump_json().encode() if sums else None, [], target)

    def _count(self, joined: Joined) -> None:
        metrics = self._metrics
        for model, count in joined.pairs.items():
            metrics.joined_pairs.labels(model).inc(count)
        for (model, outcome), count in joined.outcomes.items():
            metrics.feedback.labels(model, outcome).inc(count)
        for applied in joined.applied.values():
            for one in applied:
                if one.outcome == "joined" and one.new.pair is not None:
                    delay = elapsed(one.new.pair.time, one.new.truths[0].given_at)
                    metrics.feedback_delay.labels(one.new.pair.model).observe(delay)


def _log_message(partition: int, request_id: str, entry: Entry) -> Outgoing:
    value = orjson.dumps({"schema_version": 1, "request_id": request_id, **orjson.loads(orjson.dumps(entry))})
    return Outgoing(JOINS.name, request_id, value, [], partition)


def _letter(partition: int, request_id: str, letter: str | None, offset: int) -> Letter:
    return Letter(request_id.encode(), (letter or "").encode(), FEEDBACK.name, partition, offset)


def _orphans(partition: int, request_id: str, entry: Entry) -> list[tuple[Letter, Refusal]]:
    waited = f"no pair with request id {request_id!r} came, and no record has it"
    return [
        (_letter(partition, request_id, truth.letter, truth.offset), Refusal(Reason.ORPHAN, waited))
        for truth in entry.truths
    ]
