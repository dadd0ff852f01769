"""The first stage's wiring: pairs and feedback in; entries to the log, truths to the records, sums to the second."""

import asyncio
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from agents.confusion.board import LIFETIME
from agents.confusion.entries import EMPTY, PAIRS_LANE, Entry
from agents.confusion.fold import encode_fold, fold_key
from agents.confusion.inputs import Inputs, Letter, read_inputs
from agents.confusion.partition import LATE_WINDOW, Applied, Limits, PartitionJoin, WindowKey
from agents.confusion.ownership import Claim
from agents.confusion.records import truth_record
from agents.confusion.recovery import Opened
from agents.confusion.store import RocksStore
from runtime.batches import Batch, BatchStage
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.messages import PerformanceSums
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal
from schemas.topics import FEEDBACK, JOIN_FOLDS, JOINS, PERFORMANCE_SUMS

REPUBLISH_SECONDS = 3600.0
"""How often all sums are published anew: heals what a former owner wrote over them."""
FIRST_REPUBLISH_SECONDS = 60.0
"""The first time: by then the former owner has learned from its group that it is none."""
POSITION_SECONDS = 10.0
RECLAIM_SECONDS = 1.0
"""Until one that was outbid claims again, if it is a member of the group still: time for the other to learn that it is
none."""


class Loader(Protocol):
    """See `agents.confusion.recovery.JoinLoader`."""

    def open(self, partition: int) -> Opened:
        """Take a partition over."""

    def look(self, partition: int, claim: Claim) -> None:
        """See in its log whether somebody else has claimed it since."""


@dataclass(slots=True)
class Owned:
    """A partition that is ours."""

    join: PartitionJoin
    store: RocksStore
    claim: Claim
    publication: int = 0
    positioned: float = 0.0
    republish_at: float = field(default_factory=lambda: time.monotonic() + FIRST_REPUBLISH_SECONDS)


@dataclass(frozen=True, slots=True)
class Merged:
    """Inputs of one partition, merged and stored.

    Attributes:
        owned: under which ownership; under another they must be merged again.
    """

    owned: Owned
    parts: list[tuple[str, Entry]]
    applied: list[Applied]

    def entries(self) -> dict[str, Entry]:
        """What the log must hold, by request id."""
        return {one.request_id: one.new for one in self.applied if one.new != EMPTY}


@dataclass(frozen=True, slots=True)
class Joined:
    """A batch, merged and stored.

    Attributes:
        generation: number of the assignment under which it was read.
        merged: by partition.
        misplaced: feedback that is sent on to the partition of its pair: an item of a batch, or one without a key.
    """

    generation: int
    merged: dict[int, Merged]
    refused: list[tuple[Any, Refusal]]
    pairs: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    misplaced: list[Outgoing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What the clock brought: records, sums and folds to write, and truths whose pair should be looked for."""

    generation: int
    records: list[Record]
    sums: list[Outgoing]
    folds: list[Outgoing]
    waiting: dict[int, list[tuple[str, Entry]]]


class JoinStage(BatchStage):
    """Joins the partitions that this instance owns. Subscribe it with depth 1: records are written in order.

    Args:
        sums_partitions: of the topic of sums.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        metrics: ConfusionMetrics,
        loader: Loader,
        limits: Limits,
    ) -> None:
        self._specs = dict(specs)
        self._metrics = metrics
        self._loader = loader
        self._limits = limits
        self._generation = -1
        self._owned: dict[int, Owned] = {}
        self.sums_partitions = 1
        self.partitions = 1
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink
        self._in_thread: Callable[..., Awaitable[Any]]
        self._assignment: Callable[[], int | None] = lambda: self._generation

    def connect(
        self,
        results: Results,
        letters: DeadLetters,
        sink: RecordSink,
        in_thread: Callable[..., Awaitable[Any]],
        assignment: Callable[[], int | None],
    ) -> None:
        """Where results go.

        Args:
            in_thread: how to run a function where the state is at rest.
            assignment: its number; None while the group is dealing the partitions out anew.
        """
        self._results, self._letters, self._sink, self._in_thread = results, letters, sink, in_thread
        self._assignment = assignment

    def compute(self, batch: Batch) -> Joined:
        """Decode, merge, store."""
        joined = Joined(batch.generation, {}, [])
        if not self._enter(batch.generation):
            return joined
        now = time.time()
        messages = defaultdict[int, list[Any]](list)
        for message in batch.messages:
            messages[message.partition].append(message)
        for partition, own in messages.items():
            inputs = read_inputs(own, self._specs, self._limits.lookup_seconds, now, self.partitions)
            joined.refused.extend(inputs.refused)
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
        if not await self._write_log(joined):
            return  # whoever owns the partitions now reads all of it again
        await self._results.publish(joined.misplaced)
        current = await self._in_thread(self._current, joined)
        await self._sink.write([truth_record(name, entry, self._specs) for name, entry in current])
        self._count(joined)

    async def _write_log(self, joined: Joined) -> bool:
        """The entries into the log. What was written behind the claim of another does not count: while the group says
        that the partition is ours, it is claimed again, and the inputs are merged into what the log holds then.

        Returns:
            False if the assignment is over.
        """
        pending = joined.merged
        while True:
            await self._results.publish(
                [
                    _log_message(partition, name, entry, merged.owned.claim)
                    for partition, merged in pending.items()
                    for name, entry in merged.entries().items()
                ]
            )
            pending = await self._in_thread(self._outbid, pending)
            if not pending:
                return True
            await asyncio.sleep(RECLAIM_SECONDS)
            while (assignment := self._assignment()) is None:
                await asyncio.sleep(RECLAIM_SECONDS)
            if assignment != joined.generation:
                return False
            pending = await self._in_thread(self._merge_again, joined, pending)

    def _outbid(self, pending: Mapping[int, Merged]) -> dict[int, Merged]:
        """Those that were merged under an ownership that does not hold any more."""
        return {partition: one for partition, one in pending.items() if not self._holds(partition, one.owned)}

    def _merge_again(self, joined: Joined, pending: Mapping[int, Merged]) -> dict[int, Merged]:
        if not self._enter(joined.generation):
            return {}
        for partition, one in pending.items():
            owned = self._own(partition)
            joined.merged[partition] = Merged(owned, one.parts, owned.join.apply(one.parts))
        return {partition: joined.merged[partition] for partition in pending}

    def _holds(self, partition: int, owned: Owned, look: bool = False) -> bool:
        """Whether an ownership holds: nobody has claimed the partition since. One that does not is given up.

        Args:
            look: into the log, also if our own messages there follow one another.
        """
        if self._owned.get(partition) is not owned:
            return False
        if look or owned.claim.in_doubt:
            self._loader.look(partition, owned.claim)
        if owned.claim.lost:
            owned.store.close()
            del self._owned[partition]
        return not owned.claim.lost

    async def keep(self, upkeep: Upkeep) -> None:
        """Make safe what was folded: records know its truth, and reports its windows, before the fold is published."""
        if self._assignment() != upkeep.generation:
            return
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
        upkeep = Upkeep(generation, [], [], [], {})
        if not self._enter(generation):
            return upkeep
        for partition in partitions:
            owned = self._own(partition)
            # Opening may have taken long, and the partition be another's by now.
            if self._assignment() != generation or not self._holds(partition, owned, look=True):
                continue
            self._tend(upkeep, owned, partition, now)
        self._metrics.join_entries.set(sum(owned.join.entries for owned in self._owned.values()))
        self._metrics.join_state.set(sum(owned.store.disk_bytes() for owned in self._owned.values()))
        return upkeep

    def _tend(self, upkeep: Upkeep, owned: Owned, partition: int, now: float) -> None:
        self._remember_position(owned)
        # Before anything is folded: what comes and goes within one tick is in a report as well.
        upkeep.sums.extend(self._sums(owned, partition))
        if folded := owned.join.expire(now):
            upkeep.records.extend(
                truth_record(name, entry, self._specs) for name, entry in folded.items() if entry.truth is not None
            )
            fold = owned.join.fold
            upkeep.folds.append(Outgoing(JOIN_FOLDS.name, fold_key(fold), encode_fold(fold), [], partition))
        if waiting := owned.join.due(now):
            upkeep.waiting[partition] = waiting

    def settle(
        self, found: Mapping[int, list[tuple[str, Entry]]], upkeep: Upkeep, now: float
    ) -> tuple[Joined, list[Outgoing]]:
        """Merge the pairs that were found among the records; what has waited too long for its pair is given up.

        Returns:
            The result to deliver; and messages for the log, to publish after it.
        """
        joined, dropped = Joined(upkeep.generation, {}, []), list[Outgoing]()
        if upkeep.generation != self._generation:
            return joined, dropped
        for partition, waiting in upkeep.waiting.items():
            late = Inputs(parts=found.get(partition, []))
            self._apply(joined, partition, late, "late")
            names = {name for name, _ in late.parts}
            still = [(name, entry) for name, entry in waiting if name not in names]
            owned = self._own(partition)
            for name, entry in owned.join.give_up(still, now):
                dropped.append(Outgoing(JOINS.name, name, None, [], partition, delivered=owned.claim.delivered))
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
            opened = self._loader.open(partition)
            self._owned[partition] = Owned(opened.join, opened.store, opened.claim)
        return self._owned[partition]

    def _apply(self, joined: Joined, partition: int, inputs: Inputs, outcome: str | None = None) -> None:
        owned = self._own(partition)
        applied = owned.join.apply(inputs.parts)
        joined.merged[partition] = Merged(owned, inputs.parts, applied)
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

    def _current(self, joined: Joined) -> list[tuple[str, Entry]]:
        """The joined entries as they are now: of two deliveries, neither may write an older truth over a newer one."""
        found = []
        for partition, merged in joined.merged.items():
            ours = self._owned.get(partition) is merged.owned
            for name, entry in merged.entries().items():
                held = merged.owned.join.entry(name) if ours else entry
                found.append((name, held if held.truth is not None else entry))
        return [(name, entry) for name, entry in found if entry.truth is not None]

    def _remember_position(self, owned: Owned) -> None:
        """All that we have written to the log so far is in the store: a restart need not read it."""
        if time.monotonic() - owned.positioned > POSITION_SECONDS:
            owned.join.remember(owned.claim.checked)
            owned.positioned = time.monotonic()

    def _sums(self, owned: Owned, partition: int) -> list[Outgoing]:
        if time.monotonic() > owned.republish_at:
            owned.republish_at = time.monotonic() + REPUBLISH_SECONDS
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
        for merged in joined.merged.values():
            for one in merged.applied:
                if one.outcome == "joined" and one.new.pair is not None:
                    delay = max(0.0, one.new.truths[0].given_at - one.new.pair.time)
                    metrics.feedback_delay.labels(one.new.pair.model).observe(delay)


def _log_message(partition: int, request_id: str, entry: Entry, claim: Claim) -> Outgoing:
    value = orjson.dumps({"schema_version": 1, "request_id": request_id, **orjson.loads(orjson.dumps(entry))})
    return Outgoing(JOINS.name, request_id, value, [], partition, delivered=claim.delivered)


def _letter(partition: int, request_id: str, letter: str | None, offset: int) -> Letter:
    return Letter(request_id.encode(), (letter or "").encode(), FEEDBACK.name, partition, offset)


def _orphans(partition: int, request_id: str, entry: Entry) -> list[tuple[Letter, Refusal]]:
    waited = f"no pair with request id {request_id!r} came, and no record has it"
    return [
        (_letter(partition, request_id, truth.letter, truth.offset), Refusal(Reason.ORPHAN, waited))
        for truth in entry.truths
    ]
