"""The windows of every model on one partition of `monitoring.features`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agents.drift.marks import Marks
from agents.drift.windows import Entry, Identity, Stream, Window
from schemas.messages import DriftState, DriftStream, DriftTest, WindowStart
from schemas.model_spec import WindowSpec

MAX_OPEN = 8
"""Windows of one model that are open at a time, of different versions or detectors; the one that has waited longest for
a pair ends when another begins."""
MAX_IDLE = 8
"""Streams without an open window whose number and latest tests are kept."""


class ModelWindows:
    """The windows of one model: which of its pairs are new, and to which window each belongs.

    A pair is new or not for all streams of its model alike: after a detector was retrained, pairs whose features were
    written twice have two identities.

    Args:
        spec: of the windows.
        state: where an owner before left off; messages before that are passed over where they are in closed windows.
    """

    def __init__(self, spec: WindowSpec, state: DriftState) -> None:
        self._spec = spec
        self.model = state.model
        self._partition, self._features_id = state.partition, state.features_id
        self._seen, self._marks_seen = state.seen, state.marks
        self._marks = Marks()
        streams = (Stream(spec, one, resumed=one.start.offset < state.seen) for one in state.streams)
        self._streams = {one.identity: one for one in streams}
        self._position = 0
        self.changed = False
        self.duplicates = 0
        self.made_anew = 0

    @property
    def streams(self) -> Mapping[Identity, Stream]:
        """By identity, in no order."""
        return self._streams

    @property
    def hold(self) -> int | None:
        """Offset of the first message that must be read again if all here is forgotten; None: none so far."""
        return min((hold for one in self._streams.values() if (hold := one.hold) is not None), default=None)

    @property
    def limit(self) -> float | None:
        """When the first of the open windows ends by the clock, seconds since the epoch; None while there is none."""
        return min((limit for one in self._streams.values() if (limit := one.limit) is not None), default=None)

    def add(self, entry: Entry) -> list[Window]:
        """Take the next message of this model; return the windows that it closes."""
        closed = self.tick(entry.time, entry.offset)
        self._position = entry.offset + 1
        self._supersede(entry)
        if not self._is_new(entry):
            return closed
        stream, ended = self._stream_of(entry)
        self.made_anew += self._marks.note(entry)
        full = stream.add(entry, self._marks)
        self.changed |= bool(ended or full)
        return [*closed, *ended, *full]

    def tick(self, time: float, following: int) -> list[Window]:
        """Take note that it is `time`, as a message of this model says; close the windows that are too old.

        Args:
            following: offset of the first message that belongs to what comes after.
        """
        self._position = max(self._position, following)
        self._catch_up(following)
        closed = []
        for stream in self._streams.values():
            windows, ended = stream.expire(time, following, self._marks)
            closed += windows
            self.changed |= ended
        return closed

    def remember(self, window: Window, tests: Mapping[str, DriftTest]) -> None:
        """Keep the tests of a window that this has closed just now, by detector."""
        stream = self._streams[window.identity]
        stream.last, stream.last_at = {**stream.last, **tests}, window.entries[-1].time

    def state(self) -> DriftState:
        """What a later owner needs, beside the log."""
        self.changed = False
        self._drop_idle()
        seen = max(self._seen, self._position)
        return DriftState(
            model=self.model,
            partition=self._partition,
            features_id=self._features_id,
            seen=seen,
            marks=self._marks.before(),
            streams=tuple(one.state(seen) for one in self._streams.values()),
        )

    def _catch_up(self, offset: int) -> None:
        """Count from where the owner before left off as it did."""
        if self._marks_seen and offset >= self._seen:
            since, self._marks = self._marks, Marks(self._marks_seen)
            self._marks.merge(since.before())
            self._marks_seen = ()

    def _supersede(self, entry: Entry) -> None:
        for identity, stream in self._streams.items():
            if identity != entry.identity and identity.version in (None, entry.identity.version):
                stream.supersede(entry.time)

    def _is_new(self, entry: Entry) -> bool:
        stream = self._streams.get(entry.identity)
        begins = stream.start.offset if stream else self._seen
        if entry.offset < begins:
            self._marks.note(entry)  # its window is closed
            return False
        if self._marks.covers(entry) or (stream is not None and stream.known.covers(entry)):
            self.duplicates += 1
            return False
        return True

    def _stream_of(self, entry: Entry) -> tuple[Stream, list[Window]]:
        """The stream of a new pair, and the window that had to end for it."""
        found = self._streams.get(entry.identity)
        if found is not None and found.fill:
            return found, []
        ended = self._make_room(entry.offset)
        if found is None:
            start = WindowStart(
                model=self.model,
                model_version=entry.identity.version,
                detector_sha256=dict(entry.identity.detectors),
                sequence=0,
                partition=self._partition,
                features_id=self._features_id,
                offset=entry.offset,
            )
            found = self._streams[entry.identity] = Stream(self._spec, DriftStream(start=start), resumed=False)
        found.begin(entry.offset, self._marks)
        return found, ended

    def _make_room(self, offset: int) -> list[Window]:
        filled = [one for one in self._streams.values() if one.fill]
        if len(filled) < MAX_OPEN:
            return []
        return min(filled, key=lambda one: one.latest).end("superseded", offset, self._marks)

    def _drop_idle(self) -> None:
        idle = sorted((one for one in self._streams.values() if not one.fill), key=lambda one: one.start.seen or 0)
        for stream in idle[:-MAX_IDLE]:
            del self._streams[stream.identity]


@dataclass
class PartitionWindows:
    """The windows of every model on one partition of `monitoring.features`.

    Attributes:
        specs: how to window each model; models that are not named are passed over.
        states: where each model's windows stand; at the first message for models that are not named.
        features_id: of the topic, where it has one.
        unknown: messages of models that are not named.
    """

    partition: int
    specs: Mapping[str, WindowSpec]
    states: Mapping[str, DriftState]
    features_id: str | None = None
    models: dict[str, ModelWindows] = field(default_factory=dict)
    position: int = 0
    unknown: int = 0

    def __post_init__(self) -> None:
        for model in self.states:
            self._windows(model)

    def add(self, model: str, entry: Entry) -> list[Window]:
        """Take the next message of the partition; return the windows that it closes."""
        self.position = entry.offset + 1
        windows = self._windows(model)
        if windows is None:
            self.unknown += 1
            return []
        return windows.add(entry)

    def tick(self, model: str, offset: int, time: float) -> list[Window]:
        """Take a message that only says what time it is for a model; return the windows that it closes."""
        self.position = offset + 1
        windows = self._windows(model)
        return windows.tick(time, offset + 1) if windows else []

    def skip(self, offset: int) -> None:
        """Pass over a message that says nothing."""
        self.position = offset + 1

    def safe(self) -> int:
        """Offset of the first message that must be read again if all here is forgotten."""
        return min([hold for one in self.models.values() if (hold := one.hold) is not None], default=self.position)

    def over_age(self, now: float) -> list[str]:
        """Models of which a window is too old at `now`, in seconds since the epoch."""
        limits = [(name, windows.limit) for name, windows in self.models.items()]
        return [name for name, limit in limits if limit is not None and limit <= now]

    def changed(self) -> Iterable[DriftState]:
        """States of the models whose windows have ended since the last call."""
        return [windows.state() for windows in self.models.values() if windows.changed]

    def _windows(self, model: str) -> ModelWindows | None:
        found = self.models.get(model)
        if found is None and (spec := self.specs.get(model)) is not None:
            state = self.states.get(model) or DriftState(
                model=model, partition=self.partition, features_id=self.features_id, seen=0, streams=()
            )
            found = self.models[model] = ModelWindows(spec, state)
        return found
