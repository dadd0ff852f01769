"""Windows of one model's pairs, as a function of the log of features alone: what is read again gives them again.

docs/architecture.md argues why this loses and repeats nothing.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.messages import Mark, WindowStart
from schemas.model_spec import WindowSpec

ClosedBy = Literal["full", "age"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of `monitoring.features`.

    Attributes:
        offset: of the message.
        pair_partition, pair_offset: of its pair in `inference.pairs`.
        time: of the pair, seconds since the epoch.
        content: what the window is made of; not looked at here.
    """

    offset: int
    pair_partition: int
    pair_offset: int
    time: float
    content: Any


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window.

    Attributes:
        start: from where it can be computed again.
        following: where the window after it begins.
    """

    entries: list[Entry]
    closed_by: ClosedBy
    start: WindowStart
    following: WindowStart


class ModelWindows:
    """The windows of one model on one partition of `monitoring.features`.

    Args:
        spec: their size, greatest age and stride.
        start: where the first one begins; messages before it are passed over.
    """

    def __init__(self, spec: WindowSpec, start: WindowStart) -> None:
        self._size = spec.window_size
        self._stride = spec.stride or spec.window_size
        self._max_age = spec.max_age_seconds
        self._start = start
        self._reported = start.reported
        self._marks = {mark.partition: mark.offset for mark in start.marks}
        self._entries: list[Entry] = []
        self._duplicates = 0

    @property
    def fill(self) -> int:
        """Pairs in the open window."""
        return len(self._entries)

    @property
    def hold(self) -> int | None:
        """Offset of the first message that must be read again if all here is forgotten; None: none so far."""
        return self._entries[0].offset if self._entries else None

    @property
    def over_age_at(self) -> float | None:
        """When the open window is too old, seconds since the epoch; None while it has nothing to report."""
        fresh = self._entries[self._reported :]
        return fresh[0].time + self._max_age if fresh else None

    def take_duplicates(self) -> int:
        """Messages passed over because their pair had been seen, since the last call."""
        taken, self._duplicates = self._duplicates, 0
        return taken

    def add(self, entry: Entry) -> list[Window]:
        """Take the next message of this model; return the windows that it closes, two at most."""
        if entry.offset < self._start.offset:
            return []
        if entry.pair_offset <= self._marks.get(entry.pair_partition, -1):
            self._duplicates += 1
            return []
        closed = self.tick(entry.time, entry.offset)
        self._marks[entry.pair_partition] = entry.pair_offset
        self._entries.append(entry)
        if len(self._entries) == self._size:
            closed.append(self._close("full", self._stride, entry.offset + 1))
        return closed

    def tick(self, time: float, following: int) -> list[Window]:
        """Take note that it is `time`, as a message of this model says; close the open window if it is too old.

        Args:
            following: offset of the first message that belongs to what comes after.
        """
        limit = self.over_age_at
        if limit is None or time < limit:
            return []
        return [self._close("age", len(self._entries), following)]

    def _close(self, closed_by: ClosedBy, drop: int, following: int) -> Window:
        entries, start = self._entries, self._start
        self._entries = entries[drop:]
        self._reported = len(self._entries)
        self._start = WindowStart(
            model=start.model,
            sequence=start.sequence + 1,
            partition=start.partition,
            offset=self._entries[0].offset if self._entries else following,
            reported=self._reported,
            marks=self._marks_before_entries(),
        )
        return Window(entries, closed_by, start, self._start)

    def _marks_before_entries(self) -> tuple[Mark, ...]:
        """The marks as they have to be when the entries kept are read again.

        One below the first of a partition will do: of this model, nothing lies between that and the mark there was.
        """
        marks = dict(self._marks)
        for entry in reversed(self._entries):
            marks[entry.pair_partition] = entry.pair_offset - 1
        return tuple(Mark(partition=one, offset=offset) for one, offset in sorted(marks.items()) if offset >= 0)


@dataclass
class PartitionWindows:
    """The windows of every model on one partition of `monitoring.features`.

    Attributes:
        specs: how to window each model; models that are not named are passed over.
        starts: where each model's next window begins; at the first message for models that are not named.
    """

    partition: int
    specs: dict[str, WindowSpec]
    starts: dict[str, WindowStart]
    models: dict[str, ModelWindows] = field(default_factory=dict)
    position: int = 0

    def add(self, model: str, entry: Entry) -> list[Window]:
        """Take the next message of the partition; return the windows that it closes."""
        self.position = entry.offset + 1
        windows = self._windows(model)
        return windows.add(entry) if windows else []

    def tick(self, model: str, offset: int, time: float) -> list[Window]:
        """Take a message that only says what time it is for a model; return the window that it closes."""
        self.position = offset + 1
        windows = self._windows(model)
        return windows.tick(time, offset + 1) if windows else []

    def skip(self, offset: int) -> None:
        """Pass over a message that says nothing."""
        self.position = offset + 1

    def safe(self) -> int:
        """Offset of the first message that must be read again if all here is forgotten."""
        holds = [windows.hold for windows in self.models.values()]
        return min([hold for hold in holds if hold is not None], default=self.position)

    def over_age(self, now: float) -> list[str]:
        """Models whose open window is too old at `now`, in seconds since the epoch."""
        limits = [(name, windows.over_age_at) for name, windows in self.models.items()]
        return [name for name, limit in limits if limit is not None and limit <= now]

    def _windows(self, model: str) -> ModelWindows | None:
        found = self.models.get(model)
        if found is None and (spec := self.specs.get(model)) is not None:
            start = self.starts.get(model) or WindowStart(
                model=model, sequence=0, partition=self.partition, offset=0, reported=0
            )
            found = self.models[model] = ModelWindows(spec, start)
        return found
