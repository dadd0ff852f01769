"""The join of one partition: entries in a store, and the sums that follow from them. Knows no Kafka."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.confusion.entries import EMPTY, FEEDBACK_LANE, PAIRS_LANE, Entry, PairHalf, Truth, decode, encode
from agents.confusion.fold import Fold, Group, encode_fold
from agents.confusion.merging import Merge, departed, given_up, leave, merge, pending
from agents.confusion.store import Changes, Store
from agents.confusion.sums import LABELS, Sums, add, contribution, lasting
from agents.confusion.truth import MAX_ITEMS
from agents.confusion.versions import surplus
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.identity import labels_id
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal

ENTRY, ORDER, WAITING = b"e", b"o", b"w"
"""First byte of the store's keys: entries by id; places of pairs in order; waiting truths by when they are due."""
FOLD, POSITION = b"f", b"p"
"""The store's fold; and the offset of the log from which it must be read to be up to date."""
LATE_WINDOW = -1
"""Corrections of pairs that the lifetime has counted already; part of no window."""
PAGE = 5000
MAX_FOLD_BYTES = 8 << 20
"""Above it, sums of the versions that answered longest ago leave the fold."""

WindowKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the join; seconds and counts."""

    window_seconds: float
    keep_seconds: float
    max_entries: int
    lookup_seconds: float
    orphan_seconds: float
    max_ahead_seconds: float = MAX_AHEAD_SECONDS


@dataclass(frozen=True, slots=True)
class Applied:
    """What one input did.

    Attributes:
        merge: what the entry is now, and what did not fit.
    """

    request_id: str
    old: Entry
    part: Entry
    merge: Merge

    @property
    def new(self) -> Entry:
        """The entry as it is now."""
        return self.merge.entry

    @property
    def refused(self) -> tuple[tuple[Truth, Refusal], ...]:
        """Truths that turned out to fit none of the answers that they are about."""
        return self.merge.refused

    def judged(self) -> list[PairHalf]:
        """Answers that have their first truth by it."""
        before = {half.identity for half in self.old.pairs if half.told is not None}
        return [half for half in self.new.pairs if half.told is not None and half.identity not in before]

    def outcomes(self) -> Counter[tuple[str, str]]:
        """By model and outcome: `joined`, `corrected`, `duplicate`, `early`; nothing where no truth came to it."""
        found = Counter((half.model, "joined") for half in self.judged())
        truths = {half.identity: half.truth for half in self.old.pairs}
        for half in self.new.pairs:
            if (before := truths.get(half.identity)) is not None and before != half.truth:
                found[half.model, "corrected"] += 1
        if found or not self.part.truths or self.refused:
            return found
        about = [half.model for half in self.new.pairs if self.part.truths[0].is_about(half.model)]
        return Counter([(about[0], "duplicate")] if about else [("", "early")])


class PartitionJoin:
    """Merges what comes into entries, and keeps the sums of each window and of each model's lifetime.

    All of it is a function of the set of inputs: of their order and repetition nothing depends.

    Args:
        store: what it held before must belong to `fold`.
    """

    def __init__(
        self,
        store: Store,
        fold: Fold,
        specs: Mapping[str, ModelSpec],
        limits: Limits,
    ) -> None:
        self._store = store
        self._specs = specs
        self._temperatures = {
            name: spec.calibration.temperature for name, spec in specs.items() if spec.calibration is not None
        }
        self._limits = limits
        self.fold = fold
        self.windows: dict[WindowKey, Sums] = defaultdict(Sums)
        self.totals: dict[Group, Sums] = defaultdict(Sums)
        self.entries = 0
        self._pairs = 0
        self.changed: set[WindowKey] = set()
        self._dropped: list[Group] = []
        self._labels: dict[str, set[str]] = defaultdict(set)
        for group, sums in fold.sums.items():
            add(self.totals[group], sums)
            self._labels[group[0]].update(name.removeprefix(LABELS) for name in sums if name.startswith(LABELS))
        for _, value in self._scan(ENTRY):
            entry = decode(value)
            self.entries += 1
            self._pairs += _answered(entry)
            self._count(entry.pairs, 1)
        self.changed = self.every_window()

    def apply(self, inputs: Sequence[tuple[str, Entry]], replay: bool = False) -> list[Applied]:
        """Merge inputs, each an entry of the parts that it brings, and store the result at once.

        Args:
            replay: the inputs are whole entries from the log: one that is folded takes what waits for it along.
        """
        ids = list(dict.fromkeys(request_id for request_id, _ in inputs))
        stored = self._store.get_many([_entry_key(request_id) for request_id in ids])
        held = {name: decode(value) if value else EMPTY for name, value in zip(ids, stored, strict=True)}
        before, applied = dict(held), []
        for request_id, came in inputs:
            old = held[request_id]
            part = self._left(old, came) if replay else self._new(came)
            if part is None:
                held[request_id] = EMPTY if replay and not old.pairs else old
                continue
            merged = merge(
                EMPTY if replay and came.pairs and not part.pairs and not old.pairs else old, part, self._specs
            )
            held[request_id] = merged.entry
            applied.append(Applied(request_id, old, part, merged))
        changes = Changes()
        for request_id in ids:
            self._change(changes, request_id, before[request_id], held[request_id])
        self._store.write(changes)
        return applied

    def _new(self, part: Entry) -> Entry | None:
        """Of what came, what is not folded; None for self-contained feedback that is: its truth was its pair's."""
        pairs = []
        for came in part.pairs:
            half = replace(came, era=self.fold.era)
            if half.counted is not None and half.identity not in self.fold.sums:
                continue  # the version is no longer kept, and what counted the pair is gone
            if not self.fold.has(half):
                pairs.append(half)
            elif half.lane == FEEDBACK_LANE and half.counted is None:
                return None
            elif half.lane == FEEDBACK_LANE:  # its truth has waited longer than others lived
                pairs.append(replace(half, offset=self.fold.marks[FEEDBACK_LANE] + 1))
        return replace(part, pairs=tuple(pairs))

    def _left(self, old: Entry, logged: Entry) -> Entry | None:
        """What is left of an entry from the log after what is folded; None if it is nothing."""
        folded = [half for half in logged.pairs if self.fold.has(half)]
        if not folded:
            return logged
        if len(folded) == len(logged.pairs) and old.pairs:
            gone = tuple(departed(half, logged.truths) for half in folded)
            return Entry((), logged.truths, logged.since, logged.due, (*logged.gone, *gone))
        left = leave(logged, folded)
        return None if left == EMPTY else left

    def expire(self, now: float) -> list[tuple[str, PairHalf]]:
        """Fold what is older than the time to live, or too much, and return it.

        It is the head of each lane that goes, so that a mark tells what is folded. The records of what is returned
        must hold its truth before the fold is published: late feedback looks there for what is counted already.
        """
        changes, folded, entries = Changes(), list[tuple[str, PairHalf]](), dict[str, Entry]()
        for key, request_id in [*self._old_pairs(now), *self._old_feedback(now)]:
            place = key[1], int.from_bytes(key[2:10], "big")
            before = entries[request_id] if request_id in entries else self.entry(request_id)
            leaving = [half for half in before.pairs if half.place == place]
            for half in leaving:
                self._fold(half)
                folded.append((request_id, half))
            entries[request_id] = after = leave(before, leaving)
            self._change(changes, request_id, before, after, count=False)
            changes.delete({key})
            self.fold.marks[place[0]] = max(self.fold.marks[place[0]], place[1])
        if changes.deletes:
            changes.puts[FOLD] = self._bounded_fold()
            self._store.write(changes)
        return folded

    def begin_anew(self, topic_ids: Mapping[str, str], now: float) -> list[tuple[str, PairHalf]]:
        """The topics of pairs or feedback were made anew, their offsets begin again. All that was answered is folded
        and returned; its sums stay, and what waits goes on waiting.

        The records of what is returned must hold its truth before the fold is published.
        """
        changes, folded = Changes(), list[tuple[str, PairHalf]]()
        for key, value in self._scan(ENTRY):
            before, request_id = decode(value), key[len(ENTRY) :].decode()
            leaving = [half for half in before.pairs if half.era <= self.fold.era]
            for half in leaving:
                self._fold(half)
                folded.append((request_id, half))
            self._change(changes, request_id, before, leave(before, leaving), count=False)
        self.fold.era, self.fold.era_began, self.fold.marks = self.fold.era + 1, now, [-1, -1]
        self.fold.topic_ids = dict(topic_ids)
        changes.puts[FOLD] = encode_fold(self.fold)
        self._store.write(changes)
        return folded

    def due(self, now: float) -> list[tuple[str, Entry]]:
        """Truths that have waited for their pair so long that one should look elsewhere, the first ones first.

        Args:
            now: how far the log of pairs was read, seconds since the epoch: what was written later may have the pair.
        """
        found: list[tuple[str, Entry]] = []
        for key, value in self._store.scan(WAITING, PAGE):
            if int.from_bytes(key[1:9], "big") > now * 1000:
                break
            request_id = value.decode()
            found.append((request_id, self.entry(request_id)))
        return found

    def give_up(self, waiting: Sequence[tuple[str, Entry]], now: float) -> list[tuple[str, Entry, list[Truth]]]:
        """Drop those of the waiting truths that have waited long enough; the others wait on.

        Args:
            now: as of `due`.

        Returns:
            Of each request that lost some: its id, the entry as it is now, and what was dropped.
        """
        changes, orphans = Changes(), []
        for request_id, seen in waiting:
            entry = self.entry(request_id)
            if not entry.due or entry != seen:
                continue
            orphan = now >= entry.since + self._limits.orphan_seconds
            again = max(entry.since + self._limits.orphan_seconds, now + 0.001)
            after = given_up(entry) if orphan else replace(entry, due=again)
            self._change(changes, request_id, entry, after)
            if orphan:
                orphans.append((request_id, after, pending(entry)))
        self._store.write(changes)
        return orphans

    def forget(self, request_id: str) -> None:
        """In a replay: nothing waits under this id any more."""
        entry = self.entry(request_id)
        if not entry.pairs:
            changes = Changes()
            self._change(changes, request_id, entry, EMPTY)
            self._store.write(changes)

    def remember(self, position: int) -> None:
        """The store has all of the log before this offset."""
        self._store.write(Changes({POSITION: str(position).encode()}))

    def unlabelled(self) -> set[str]:
        """Models of which answers are counted by labels that are not here: it was removed, or has other ones now."""
        counted = {model for (model, _), sums in self.totals.items() if sums}
        return {name for name in counted if not self._has_labels_of_all(name)}

    def _has_labels_of_all(self, model: str) -> bool:
        spec = self._specs.get(model)
        return spec is not None and self._labels.get(model, set()) <= {labels_id(spec.classes)}

    def is_open(self, key: WindowKey) -> bool:
        """Whether a window's sums may be told; those of one that is closed would be too small."""
        return not self._is_closed(key)

    def every_window(self) -> set[WindowKey]:
        """All sums that may be published."""
        lifetimes = {(*group, LATE_WINDOW) for group in self.totals}
        return lifetimes | {key for key in self.windows if not self._is_closed(key)}

    def take_changed(self) -> set[WindowKey]:
        """Windows whose sums changed since the last call. Those that are gone are empty now."""
        changed, self.changed = self.changed, set()
        return changed

    def take_dropped(self) -> list[Group]:
        """Model versions of which nothing is counted any more, since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _old_pairs(self, now: float) -> list[tuple[bytes, str]]:
        # Truths that wait do not count: where feedback is read ahead of its pairs, they would push out pairs of windows
        # that are not whole yet, and these are then not reported any more.
        surplus = self._pairs - self._limits.max_entries
        if surplus <= 0 and not self._has_old(PAIRS_LANE, now):
            return []
        page = self._store.scan(ORDER + bytes([PAIRS_LANE]), PAGE)
        found: list[tuple[bytes, str]] = []
        for key, value in page:
            if len(found) >= surplus and not self._is_old(key, value.decode(), now):
                break
            found.append((key, value.decode()))
        return found

    def _old_feedback(self, now: float) -> list[tuple[bytes, str]]:
        """By age only, and all items of one message or none: one mark stands for them."""
        if not self._has_old(FEEDBACK_LANE, now):
            return []
        limit = MAX_ITEMS + PAGE
        page = self._store.scan(ORDER + bytes([FEEDBACK_LANE]), limit)
        if len(page) == limit:
            page = [item for item in page if item[0][2:10] != page[-1][0][2:10]]
        found: list[tuple[bytes, str]] = []
        for key, value in page:
            if not self._is_old(key, value.decode(), now):
                break
            found.append((key, value.decode()))
        return found

    def _has_old(self, lane: int, now: float) -> bool:
        head = self._store.scan(ORDER + bytes([lane]), 1)
        return bool(head) and self._is_old(head[0][0], head[0][1].decode(), now)

    def _is_old(self, key: bytes, request_id: str, now: float) -> bool:
        half = self.entry(request_id).pair_at((key[1], int.from_bytes(key[2:10], "big")))
        return half is None or half.kept_from < now - self._limits.keep_seconds

    def _change(self, changes: Changes, request_id: str, old: Entry, new: Entry, count: bool = True) -> None:
        """Move the sums, and note what the store must hold."""
        if old == new:
            return
        if count:
            self._count([half for half in old.pairs if half not in new.pairs], -1)
            self._count([half for half in new.pairs if half not in old.pairs], 1)
        self.entries += (new != EMPTY) - (old != EMPTY)
        self._pairs += _answered(new) - _answered(old)
        changes.delete({_entry_key(request_id), *_places(request_id, old)})
        if new != EMPTY:
            changes.put({_entry_key(request_id): encode(new)})
            changes.put(dict.fromkeys(_places(request_id, new), request_id.encode()))

    def _count(self, pairs: Iterable[PairHalf], sign: int) -> None:
        for half in pairs:
            sums = contribution(half, self._temperatures)
            self._labels[half.model].update(() if half.labels is None else (half.labels,))
            add(self.totals[half.identity], lasting(sums), sign)
            self._add_to_window(half, sums, sign)

    def _add_to_window(self, half: PairHalf, sums: Sums, sign: int) -> None:
        key = self.window_of(half)
        add(self.windows[key], sums, sign)
        if not self.windows[key]:
            del self.windows[key]
        if key not in self.windows or not self._is_closed(key):
            self.changed.add(key)

    def _fold(self, half: PairHalf) -> None:
        """From its window into the fold; the total stays. What is left of the window is not published any more."""
        sums, group = contribution(half, self._temperatures), half.identity
        number = self.window_of(half)[2]
        self.fold.closed[group] = max(self.fold.closed.get(group, LATE_WINDOW), number)
        self._add_to_window(half, sums, -1)
        add(self.fold.sums.setdefault(group, Sums()), lasting(sums))

    def _bounded_fold(self) -> bytes:
        """The fold, without the versions that answered longest ago where there are more than are kept."""
        kept = {key[:2] for key in self.windows} | {(spec.name, spec.version) for spec in self._specs.values()}
        for group in surplus({group: self.fold.closed.get(group, LATE_WINDOW) for group in self.fold.sums}, kept):
            self._drop(group)
        encoded = encode_fold(self.fold)
        while len(encoded) > MAX_FOLD_BYTES and (old := self.fold.sums.keys() - kept):
            self._drop(min(old, key=lambda group: (self.fold.closed.get(group, LATE_WINDOW), group)))
            encoded = encode_fold(self.fold)
        return encoded

    def _drop(self, group: Group) -> None:
        for held in (self.fold.sums, self.fold.closed, self.totals):
            held.pop(group, None)
        self._dropped.append(group)
        self.changed.add((*group, LATE_WINDOW))

    def _is_closed(self, key: WindowKey) -> bool:
        """Whether pairs of a window may have been folded: its sums would be too small."""
        model, version, number = key
        return 0 <= number <= self.fold.closed.get((model, version), LATE_WINDOW)

    def window_of(self, half: PairHalf) -> WindowKey:
        """The window of an answer: by its time alone, so that each pair is in exactly one."""
        number = LATE_WINDOW if half.counted is not None else int(half.time // self._limits.window_seconds)
        return half.model, half.version, number

    def entry(self, request_id: str) -> Entry:
        """What is known about a request; EMPTY if nothing is."""
        [value] = self._store.get_many([_entry_key(request_id)])
        return decode(value) if value else EMPTY

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        after = prefix
        while page := self._store.scan(prefix, PAGE, after):
            yield from page
            after = page[-1][0] + b"\0"


def _answered(entry: Entry) -> int:
    """How many of its pairs came by the topic of pairs."""
    return sum(half.lane == PAIRS_LANE for half in entry.pairs)


def _entry_key(request_id: str) -> bytes:
    return ENTRY + request_id.encode()


def _places(request_id: str, entry: Entry) -> list[bytes]:
    """Keys beside the entry's own under which its id is found."""
    places = [
        # One message of feedback may hold several self-contained items.
        ORDER + bytes([half.lane]) + half.offset.to_bytes(8, "big") + request_id.encode() * (half.lane == FEEDBACK_LANE)
        for half in entry.pairs
    ]
    return places + [WAITING + int(entry.due * 1000).to_bytes(8, "big") + request_id.encode()] * (entry.due > 0)
