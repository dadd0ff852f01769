"""The windows of one model version and one set of detectors, as a function of the log of features alone.

docs/architecture.md argues why this loses and repeats nothing.
"""

from dataclasses import dataclass
from typing import Any, Literal

from agents.drift.marks import Marks
from schemas.messages import DriftStream, WindowStart
from schemas.model_spec import WindowSpec

ClosedBy = Literal["full", "age", "superseded"]
SUPERSEDED_SECONDS = 60.0
"""So long after its model's features have come from other detectors a window waits for more of its own: instances that
are replaced one after another write both kinds for a while."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one window holds one of: model version, and detectors by name and hash of their files.

    Messages of earlier versions name neither: None, and no detectors.
    """

    version: str | None = None
    detectors: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, start: WindowStart) -> "Identity":
        """That of a window."""
        return cls(start.model_version, tuple(sorted(start.detector_sha256.items())))


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of `monitoring.features`.

    Attributes:
        offset: of the message.
        pair_topic, pair_partition, pair_offset: of its pair in `inference.pairs`; the topic's id, where it has one.
        time: of the pair, seconds since the epoch.
        content: what the window is made of; not looked at here.
    """

    offset: int
    identity: Identity
    pair_topic: str | None
    pair_partition: int
    pair_offset: int
    time: float
    content: Any


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window.

    Attributes:
        start: from where it can be computed again.
    """

    entries: list[Entry]
    closed_by: ClosedBy
    start: WindowStart

    @property
    def identity(self) -> Identity:
        """What all of its pairs have in common."""
        return Identity.of(self.start)


class Stream:
    """Windows of one identity, one after another; which pairs are new is decided before.

    Args:
        spec: their size, greatest age and stride.
        before: what an owner before left: where the window begins, and the latest tests.
        resumed: whether that owner had begun it.
    """

    def __init__(self, spec: WindowSpec, before: DriftStream, resumed: bool) -> None:
        self.start = start = before.start
        self.identity = Identity.of(start)
        self.last, self.last_at = before.last, before.last_at
        self.known = Marks(start.marks)
        self._resumed = resumed
        self._size, self._stride = spec.window_size, spec.stride or spec.window_size
        self._max_age = spec.max_age_seconds
        self._entries: list[Entry] = []
        self._reported = start.reported if start.seen is None else 0
        self._superseded_at: float | None = None

    @property
    def fill(self) -> int:
        """Pairs in the open window."""
        return len(self._entries)

    @property
    def hold(self) -> int | None:
        """Offset of the first message that must be read again if all here is forgotten; None: none so far."""
        return self._entries[0].offset if self._entries else None

    @property
    def latest(self) -> int:
        """Offset of the newest pair in the open window; -1: there is none."""
        return self._entries[-1].offset if self._entries else -1

    @property
    def limit(self) -> float | None:
        """When the open window ends by the clock, seconds since the epoch; None while there is none.

        Pairs that were reported and wait for newer ones (`stride`) are let go at the same age.
        """
        if not self._entries:
            return None
        first = self._entries[min(self._reported, len(self._entries) - 1)]
        return min(first.time + self._max_age, self._superseded_limit)

    @property
    def _superseded_limit(self) -> float:
        return float("inf") if self._superseded_at is None else self._superseded_at + SUPERSEDED_SECONDS

    def begin(self, offset: int, marks: Marks) -> None:
        """The message at `offset` is the first of a window. What other streams have counted meanwhile is not new."""
        if self._resumed:
            self._resumed = False
            return
        self.start = self.start.model_copy(
            update={"offset": offset, "seen": offset, "reported": 0, "marks": marks.before()}
        )
        self.known, self._reported = Marks(self.start.marks), 0

    def add(self, entry: Entry, marks: Marks) -> list[Window]:
        """Take a new pair; return the window that it closes.

        Args:
            marks: of the model, this pair included.
        """
        self._superseded_at = None
        self._entries.append(entry)
        if self.start.seen is not None and entry.offset < self.start.seen:
            self._reported += 1
        return [self._close("full", self._stride, entry.offset + 1, marks)] if self.fill == self._size else []

    def supersede(self, time: float) -> None:
        """Other detectors' features of this model version have come."""
        if self._superseded_at is None:
            self._superseded_at = time

    def expire(self, time: float, following: int, marks: Marks) -> tuple[list[Window], bool]:
        """Take note that it is `time`.

        Returns:
            The window that ends by it, and whether anything did: what was reported before is let go without a window.
        """
        limit = self.limit
        if limit is None or time < limit or following < (self.start.seen or 0):
            return [], False  # the last: what is read again was not too old when it was read first
        return self.end("superseded" if limit == self._superseded_limit else "age", following, marks), True

    def end(self, closed_by: ClosedBy, following: int, marks: Marks) -> list[Window]:
        """End the open window before the message at `following`."""
        number, fresh = self.start.sequence, self.fill > self._reported
        window = self._close(closed_by, self.fill, following, marks)
        if fresh:
            return [window]
        self.start = self.start.model_copy(update={"sequence": number})
        return []

    def state(self, position: int) -> DriftStream:
        """What a later owner needs, beside the log.

        Args:
            position: offset behind the last message that was looked at; what comes next begins there.
        """
        idle = {} if self.fill else {"offset": position, "seen": position, "reported": 0, "marks": ()}
        return DriftStream(start=self.start.model_copy(update=idle), last=self.last, last_at=self.last_at)

    def _close(self, closed_by: ClosedBy, drop: int, following: int, marks: Marks) -> Window:
        closed, start, kept = self._entries, self.start, self._entries[drop:]
        self._entries, self._reported, self._superseded_at = kept, len(kept), None
        self.start = start.model_copy(
            update={
                "sequence": start.sequence + 1,
                "offset": kept[0].offset if kept else following,
                "seen": following,
                "reported": len(kept),
                "marks": marks.before(kept),
            }
        )
        return Window(closed, closed_by, start)
