"""The first stage's wiring: pairs and feedback in; entries to the log, truths to the records, sums to the second."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from agents.confusion.entries import PAIRS_LANE, Entry
from agents.confusion.fold import encode_fold, fold_key
from agents.confusion.inputs import InputReader, Inputs
from agents.confusion.joined import Joined, Loader, Merged, Owned, Upkeep, letter_of, log_message, orphans
from agents.confusion.partition import LATE_WINDOW, Limits, WindowKey
from agents.confusion.records import truth_record, uncounted_record
from agents.confusion.sums import Sums, bounded
from agents.confusion.told_sums import LIFETIME, key_of, partition_of
from runtime.batches import Batch, BatchStage
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.errors import FatalError
from runtime.logging import get_logger
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.clock import elapsed
from schemas.messages import PerformanceSums
from schemas.model_spec import ModelSpec
from schemas.topics import FEEDBACK, JOIN_FOLDS, PAIRS, PERFORMANCE_SUMS

log = get_logger(__name__)

REPUBLISH_SECONDS = 3600.0
"""How often all sums are published anew: heals what a former owner wrote over them."""
POSITION_SECONDS = 10.0
MAX_FRESH = 50_000
"""Requests whose records are written again then, of one partition."""
RECLAIM_SECONDS = 1.0
"""Until one that was outbid claims again, if it is a member of the group still: time for the other to learn that it is
none."""


class JoinStage(BatchStage):
    """Joins the partitions that this instance owns. Subscribe it with depth 1: records are written in order.

    Args:
        sums_partitions: of the topic of sums.
        default_model: the model of requests that name none.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        metrics: ConfusionMetrics,
        loader: Loader,
        limits: Limits,
        default_model: str | None = None,
    ) -> None:
        self._specs = dict(specs)
        self._metrics = metrics
        self._loader = loader
        self._limits = limits
        self._default_model = default_model
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
        now, limits = time.time(), self._limits
        reader = InputReader(
            self._specs, limits.lookup_seconds, self.partitions, limits.max_ahead_seconds, self._default_model
        )
        messages = defaultdict[int, list[Any]](list)
        for message in batch.messages:
            messages[message.partition].append(message)
        for partition, own in messages.items():
            inputs = reader.read(own, now, self._own(partition).join.unlabelled())
            joined.refused.extend(inputs.refused)
            self._metrics.count_unwatched(inputs.unwatched)
            joined.misplaced.extend(
                Outgoing(FEEDBACK.name, name, value, headers, target)
                for name, target, value, headers in inputs.misplaced
            )
            joined.pairs.update(inputs.pairs)
            joined.uncounted.extend(map(uncounted_record, inputs.uncounted))
            self._check_topics(partition, own)
            self._apply(joined, partition, inputs)
            self._note_progress(partition, own)
        return joined

    def _check_topics(self, partition: int, messages: Iterable[Any]) -> None:
        """Pairs that are counted already are read again after a kill; or they are others, of a topic made anew.

        Raises:
            FatalError: they are others. The next process begins anew, with all that was counted.
        """
        fold = self._own(partition).join.fold
        if any(one.topic != FEEDBACK.name and one.offset <= fold.marks[PAIRS_LANE] for one in messages) and (
            self._loader.is_anew(fold)
        ):
            raise FatalError(
                f"{PAIRS.name} or {FEEDBACK.name} was made anew: offsets of partition {partition} begin again"
            )

    def _note_progress(self, partition: int, messages: Iterable[Any]) -> None:
        """How far the log of pairs is merged."""
        times = [message.timestamp for message in messages if message.topic != FEEDBACK.name]
        owned = self._owned[partition]
        owned.read_until = max([owned.read_until, *times])

    async def deliver(self, joined: Joined) -> None:
        """Letters and the log first: from then on nothing is lost. Then the records, as the entries are by then."""
        await self._letters.send(joined.refused)
        if not await self._write_log(joined):
            return  # whoever owns the partitions now reads all of it again
        await self._results.publish(joined.misplaced)
        current = await self._in_thread(self._current, joined)
        await self._sink.write([*joined.uncounted, *current])
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
                    log_message(partition, name, entry, merged.owned.claim)
                    for partition, merged in pending.items()
                    for name, entry in merged.entries().items()
                ]
            )
            pending = await self._in_thread(self._outbid, pending)
            if not pending:
                return True
            if not await self._is_still_ours(joined.generation):
                return False
            pending = await self._in_thread(self._merge_again, joined, pending)

    async def _is_still_ours(self, generation: int) -> bool:
        """Whether an assignment still holds, once the group has had time to say so."""
        assignment = None
        while assignment is None:
            await asyncio.sleep(RECLAIM_SECONDS)
            assignment = self._assignment()
        return assignment == generation

    def _outbid(self, pending: Mapping[int, Merged]) -> dict[int, Merged]:
        """Those that were merged under an ownership that does not hold any more."""
        return {partition: one for partition, one in pending.items() if not self._holds(partition, one.owned)}

    def _merge_again(self, joined: Joined, pending: Mapping[int, Merged]) -> dict[int, Merged]:
        if not self._enter(joined.generation):
            return {}
        for partition, one in pending.items():
            joined.merged[partition] = self._merge(partition, one.parts)
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

    def upkeep(self, generation: int, partitions: Mapping[int, bool], now: float) -> Upkeep:
        """Open what was assigned, fold what is too old, and lay out what changed. Run it between batches.

        Args:
            partitions: that are ours, and of each whether its pairs are read to their end.
        """
        upkeep = Upkeep(generation)
        if not self._enter(generation):
            return upkeep
        for partition, is_read in partitions.items():
            owned = self._own(partition)
            # Opening may have taken long, and the partition be another's by now.
            if self._assignment() != generation or not self._holds(partition, owned, look=True):
                continue
            self._tend(upkeep, owned, partition, now)
            # A pair that is not read yet is no missing pair, however long reading takes.
            progress = now if is_read else min(now, owned.read_until)
            if waiting := owned.join.due(progress):
                upkeep.waiting[partition] = waiting
                upkeep.progress[partition] = progress
        self._metrics.join_entries.set(sum(owned.join.entries for owned in self._owned.values()))
        self._metrics.join_state.set(sum(owned.store.disk_bytes() for owned in self._owned.values()))
        return upkeep

    def _tend(self, upkeep: Upkeep, owned: Owned, partition: int, now: float) -> None:
        self._remember_position(owned)
        upkeep.records.extend(self._fresh_records(owned, partition))
        # Before anything is folded: what comes and goes within one tick is in a report as well.
        upkeep.sums.extend(self._sums(owned, partition))
        folded = owned.left + owned.join.expire(now)
        if folded or owned.join.fold.era > owned.era:
            upkeep.records.extend(
                truth_record(partition, name, half, self._specs) for name, half in folded if half.told is not None
            )
            fold = owned.join.fold
            owned.left, owned.era = [], owned.join.fold.era
            upkeep.folds.append(Outgoing(JOIN_FOLDS.name, fold_key(fold), encode_fold(fold), [], partition))
        for group in owned.join.take_dropped():
            self._metrics.sums_left_out.labels("old_version").inc()
            log.warning("sums_left_out", reason="old_version", what="/".join(group), partition=partition)

    def settle(self, found: Mapping[int, list[tuple[str, Entry]]], upkeep: Upkeep) -> tuple[Joined, list[Outgoing]]:
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
            owned, names = self._own(partition), {name for name, _ in late.parts}
            still = [(name, owned.join.entry(name) if name in names else entry) for name, entry in waiting]
            for name, entry, truths in owned.join.give_up(still, upkeep.progress[partition]):
                dropped.append(log_message(partition, name, entry, owned.claim))
                joined.refused.extend(orphans(partition, name, truths))
                joined.outcomes["", "orphan"] += len(truths)
        return joined, dropped

    def is_folded(self, partition: int, offset: int, answered_at: float) -> bool:
        """Whether the pair at an offset has left the state."""
        owned = self._owned.get(partition)
        return owned is not None and owned.join.fold.has_left(offset, answered_at)

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
            self._owned[partition] = Owned(opened.join, opened.store, opened.claim, opened.left)
        return self._owned[partition]

    def _merge(self, partition: int, parts: list[tuple[str, Entry]]) -> Merged:
        owned = self._own(partition)
        applied = owned.join.apply(parts)
        if owned.fresh is not None and len(owned.fresh) < MAX_FRESH:
            owned.fresh.update(one.request_id for one in applied)
        return Merged(owned, parts, applied)

    def _apply(self, joined: Joined, partition: int, inputs: Inputs, outcome: str | None = None) -> None:
        joined.merged[partition] = merged = self._merge(partition, inputs.parts)
        joined.outcomes.update(inputs.outcomes)
        for one in merged.applied:
            joined.refused.extend(
                (letter_of(partition, one.request_id, truth.letter, truth.offset), refusal)
                for truth, refusal in one.refused
            )
            joined.surplus.update(half.model for half in one.merge.surplus)
            joined.repeated.update(one.merge.repeated)
            found = one.outcomes()
            joined.outcomes.update(found if outcome is None else {(model, outcome): 1 for model, _ in found})
            if one.refused:
                joined.outcomes[one.new.pairs[0].model, "invalid"] += len(one.refused)

    def _current(self, joined: Joined) -> list[Record]:
        """The judged answers as they are now: of two deliveries, neither may write an older truth over a newer one."""
        found = []
        for partition, merged in joined.merged.items():
            ours = self._owned.get(partition) is merged.owned
            for name, entry in merged.entries().items():
                held = {half.identity: half for half in (merged.owned.join.entry(name).pairs if ours else ())}
                judged = [held.get(half.identity, half) for half in entry.pairs if half.told is not None]
                found += [truth_record(partition, name, half, self._specs) for half in judged if half.told is not None]
        return found

    def _remember_position(self, owned: Owned) -> None:
        """All that we have written to the log so far is in the store: a restart need not read it."""
        if time.monotonic() - owned.positioned > POSITION_SECONDS:
            owned.join.remember(owned.claim.checked)
            owned.positioned = time.monotonic()

    def _fresh_records(self, owned: Owned, partition: int) -> list[Record]:
        """See `Owned.fresh`."""
        if owned.fresh is None or time.monotonic() <= owned.republish_at:
            return []
        names, owned.fresh = sorted(owned.fresh), None
        judged = [(name, half) for name in names for half in owned.join.entry(name).pairs if half.told is not None]
        return [truth_record(partition, name, half, self._specs) for name, half in judged]

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
        is_lifetime = window == LIFETIME
        sums = bounded(join.totals[model, version] if is_lifetime else join.windows.get(key) or Sums())
        left = not sums and (is_lifetime or not join.is_open(key))
        value = PerformanceSums(
            model=model,
            version=version,
            window=window,
            partition=partition,
            epoch=join.fold.epoch,
            progress=owned.publication,
            closed=join.fold.closed.get((model, version), -1) if is_lifetime else -1,
            sums=sums,
        )
        target, name = partition_of(model, self.sums_partitions), key_of(model, version, window, partition)
        return Outgoing(PERFORMANCE_SUMS.name, name, None if left else value.model_dump_json().encode(), [], target)

    def _count(self, joined: Joined) -> None:
        metrics = self._metrics
        for model, count in joined.pairs.items():
            metrics.joined_pairs.labels(model).inc(count)
        for model, count in joined.repeated.items():
            metrics.repeated.labels(model).inc(count)
        for model, count in joined.surplus.items():
            metrics.surplus.labels(model).inc(count)
        for (model, outcome), count in joined.outcomes.items():
            metrics.feedback.labels(model, outcome).inc(count)
        for merged in joined.merged.values():
            for one in merged.applied:
                for half in one.judged():
                    given_at = half.told.given_at if half.told is not None else half.time
                    metrics.feedback_delay.labels(half.model).observe(elapsed(half.time, given_at))
