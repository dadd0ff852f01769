"""The join of one partition: entries in a store, and the sums that follow from them. Knows no Kafka."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.confusion.entries import (
    EMPTY,
    FEEDBACK_LANE,
    MAX_WAITING,
    PAIRS_LANE,
    Entry,
    Truth,
    decode,
    earlier,
    encode,
    highest,
)
from agents.confusion.fold import Fold, Group, encode_fold
from agents.confusion.store import Changes, Store
from agents.confusion.sums import Sums, add, contribution
from agents.confusion.truth import MAX_ITEMS, resolve
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal

ENTRY, ORDER, WAITING = b"e", b"o", b"w"
"""First byte of the store's keys: entries by id; places of pairs in order; waiting truths by when they are due."""
FOLD, POSITION = b"f", b"p"
"""The store's fold; and the offset of the log from which it must be read to be up to date."""
LATE_WINDOW = -1
"""Corrections of pairs that the lifetime has counted already; part of no window."""
PAGE = 5000

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
        refused: truths that turned out not to fit the pair's model.
    """

    request_id: str
    old: Entry
    new: Entry
    part: Entry
    refused: tuple[tuple[Truth, Refusal], ...] = ()

    @property
    def outcome(self) -> str | None:
        """Of a truth: `joined`, `corrected`, `duplicate`, `early`; None where no truth came to its pair."""
        if self.new.pair is None:
            return "early"
        if self.old.truth != self.new.truth:
            return "joined" if self.old.truth is None else "corrected"
        return "duplicate" if self.part.truths and not self.refused else None


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
        for group, sums in fold.sums.items():
            add(self.totals[group], sums)
        for _, value in self._scan(ENTRY):
            entry = decode(value)
            self.entries += 1
            self._pairs += _is_answered(entry)
            self._count(entry, 1)
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
        for request_id, part in inputs:
            old = held[request_id]
            if part.pair is not None and self.fold.has(part.pair.place):
                if part.pair.lane == FEEDBACK_LANE and part.pair.counted is None and not replay:
                    continue
                if replay:
                    held[request_id] = old if old.pair is not None else EMPTY
                    continue
                part = replace(part, pair=None)
            new, refused = self._merge(old, part)
            held[request_id] = new
            applied.append(Applied(request_id, old, new, part, refused))
        changes = Changes()
        for request_id in ids:
            self._change(changes, request_id, before[request_id], held[request_id])
        self._store.write(changes)
        return applied

    def expire(self, now: float) -> dict[str, Entry]:
        """Fold what is older than the time to live, or too much, and return it.

        It is the head of each lane that goes, so that a mark tells what is folded. The records of what is returned
        must hold its truth before the fold is published: late feedback looks there for what is counted already.
        """
        changes, folded = Changes(), dict[str, Entry]()
        for key, request_id in [*self._old_pairs(now), *self._old_feedback(now)]:
            entry = folded[request_id] = self.entry(request_id)
            self._fold(entry)
            self._change(changes, request_id, entry, EMPTY, count=False)
            lane = key[1]
            self.fold.marks[lane] = max(self.fold.marks[lane], int.from_bytes(key[2:10], "big"))
        if changes.deletes:
            changes.puts[FOLD] = encode_fold(self.fold)
            self._store.write(changes)
        return folded

    def due(self, now: float) -> list[tuple[str, Entry]]:
        """Truths that have waited for their pair so long that one should look elsewhere, the first ones first."""
        found: list[tuple[str, Entry]] = []
        for key, value in self._store.scan(WAITING, PAGE):
            if int.from_bytes(key[1:9], "big") > now * 1000:
                break
            request_id = value.decode()
            found.append((request_id, self.entry(request_id)))
        return found

    def give_up(self, waiting: Sequence[tuple[str, Entry]], now: float) -> list[tuple[str, Entry]]:
        """Drop those of the waiting truths that have waited long enough, and return them; the others wait on."""
        changes, orphans = Changes(), []
        for request_id, seen in waiting:
            entry = self.entry(request_id)
            if entry.pair is not None or entry != seen:
                continue
            orphan = now >= entry.since + self._limits.orphan_seconds
            again = max(entry.since + self._limits.orphan_seconds, now + 0.001)
            self._change(changes, request_id, entry, EMPTY if orphan else replace(entry, due=again))
            if orphan:
                orphans.append((request_id, entry))
        self._store.write(changes)
        return orphans

    def forget(self, request_id: str) -> None:
        """In a replay: nothing waits under this id any more."""
        entry = self.entry(request_id)
        if entry.pair is None:
            changes = Changes()
            self._change(changes, request_id, entry, EMPTY)
            self._store.write(changes)

    def remember(self, position: int) -> None:
        """The store has all of the log before this offset."""
        self._store.write(Changes({POSITION: str(position).encode()}))

    def every_window(self) -> set[WindowKey]:
        """All sums that may be published."""
        lifetimes = {(*group, LATE_WINDOW) for group in self.totals}
        return lifetimes | {key for key in self.windows if not self._is_closed(key)}

    def take_changed(self) -> set[WindowKey]:
        """Windows whose sums changed since the last call. Those that are gone are empty now."""
        changed, self.changed = self.changed, set()
        return changed

    def _old_pairs(self, now: float) -> list[tuple[bytes, str]]:
        # Truths that wait do not count: where feedback is read ahead of its pairs, they would push out pairs of windows
        # that are not whole yet, and these are then not reported any more.
        surplus = self._pairs - self._limits.max_entries
        if surplus <= 0 and not self._has_old(PAIRS_LANE, now):
            return []
        page = self._store.scan(ORDER + bytes([PAIRS_LANE]), PAGE)
        found: list[tuple[bytes, str]] = []
        for key, value in page:
            if len(found) >= surplus and not self._is_old(value.decode(), now):
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
            if not self._is_old(value.decode(), now):
                break
            found.append((key, value.decode()))
        return found

    def _has_old(self, lane: int, now: float) -> bool:
        head = self._store.scan(ORDER + bytes([lane]), 1)
        return bool(head) and self._is_old(head[0][1].decode(), now)

    def _is_old(self, request_id: str, now: float) -> bool:
        pair = self.entry(request_id).pair
        return pair is None or pair.kept_from < now - self._limits.keep_seconds

    def _merge(self, old: Entry, part: Entry) -> tuple[Entry, tuple[tuple[Truth, Refusal], ...]]:
        pair, truths = earlier(old.pair, part.pair), highest(old.truths + part.truths)
        if pair is None:
            first = old if old.truths else part
            return Entry(None, truths[:MAX_WAITING], first.since, first.due), ()
        refused = []
        for truth in truths:
            try:
                answer = resolve(truth.form, self._specs[pair.model])
                pair.check_comparable(answer)
            except Refusal as refusal:
                refused.append((truth, refusal))
            else:
                return Entry(pair, (replace(truth, form=answer, letter=None),)), tuple(refused)
        return Entry(pair), tuple(refused)

    def _change(self, changes: Changes, request_id: str, old: Entry, new: Entry, count: bool = True) -> None:
        """Move the sums, and note what the store must hold."""
        if old == new:
            return
        if count:
            self._count(old, -1)
            self._count(new, 1)
        self.entries += (new != EMPTY) - (old != EMPTY)
        self._pairs += _is_answered(new) - _is_answered(old)
        changes.deletes |= set(_places(request_id, old)) - set(_places(request_id, new))
        changes.puts |= dict.fromkeys(_places(request_id, new), request_id.encode())
        if new == EMPTY:
            changes.deletes.add(_entry_key(request_id))
        else:
            changes.puts[_entry_key(request_id)] = encode(new)

    def _count(self, entry: Entry, sign: int) -> None:
        if entry.pair is not None:
            sums = contribution(entry, self._temperatures)
            add(self.totals[entry.pair.model, entry.pair.version], sums, sign)
            self._add_to_window(entry, sums, sign)

    def _add_to_window(self, entry: Entry, sums: Sums, sign: int) -> None:
        key = self.window_of(entry)
        add(self.windows[key], sums, sign)
        if not self.windows[key]:
            del self.windows[key]
        if key not in self.windows or not self._is_closed(key):
            self.changed.add(key)

    def _fold(self, entry: Entry) -> None:
        """From its window into the fold; the total stays. What is left of the window is not published any more."""
        if entry.pair is None:
            return
        sums, group = contribution(entry, self._temperatures), (entry.pair.model, entry.pair.version)
        number = self.window_of(entry)[2]
        self.fold.closed[group] = max(self.fold.closed.get(group, LATE_WINDOW), number)
        self._add_to_window(entry, sums, -1)
        add(self.fold.sums.setdefault(group, Sums()), sums)

    def _is_closed(self, key: WindowKey) -> bool:
        """Whether pairs of a window may have been folded: its sums would be too small."""
        model, version, number = key
        return 0 <= number <= self.fold.closed.get((model, version), LATE_WINDOW)

    def window_of(self, entry: Entry) -> WindowKey:
        """The window of a pair: by the time of its answer alone, so that each pair is in exactly one."""
        pair = entry.pair
        if pair is None:
            raise ValueError("an entry without a pair is in no window")
        number = LATE_WINDOW if pair.counted is not None else int(pair.time // self._limits.window_seconds)
        return pair.model, pair.version, number

    def entry(self, request_id: str) -> Entry:
        """What is known about a request; EMPTY if nothing is."""
        [value] = self._store.get_many([_entry_key(request_id)])
        return decode(value) if value else EMPTY

    def _scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        after = prefix
        while page := self._store.scan(prefix, PAGE, after):
            yield from page
            after = page[-1][0] + b"\0"


def _is_answered(entry: Entry) -> bool:
    """Whether its pair came by the topic of pairs."""
    return entry.pair is not None and entry.pair.lane == PAIRS_LANE


def _entry_key(request_id: str) -> bytes:
    return ENTRY + request_id.encode()


def _places(request_id: str, entry: Entry) -> list[bytes]:
    """Keys beside the entry's own under which its id is found."""
    if entry.pair is not None:
        return [ORDER + bytes([entry.pair.lane]) + entry.pair.offset.to_bytes(8, "big") + _suffix(request_id, entry)]
    if entry.truths:
        return [WAITING + int(entry.due * 1000).to_bytes(8, "big") + request_id.encode()]
    return []


def _suffix(request_id: str, entry: Entry) -> bytes:
    """One message of feedback may hold several self-contained items."""
    return request_id.encode() if entry.pair is not None and entry.pair.lane == FEEDBACK_LANE else b""
