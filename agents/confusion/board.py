"""One model over all partitions: sums of the partitions' sums, and which windows are the rolling one. No Kafka."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from agents.confusion.fold import Group
from agents.confusion.sums import Sums, add
from agents.confusion.told_sums import LIFETIME, ToldSums
from agents.confusion.versions import surplus

Place = tuple[Group, int]
"""A model version, and the number of its window, or `LIFETIME`."""


@dataclass(slots=True)
class Part:
    """One partition's part of a window.

    Attributes:
        left: the window has left the state of the partition, and will not change any more.
    """

    epoch: int
    sums: Sums
    left: bool = False


@dataclass(slots=True)
class Version:
    """What is known of one version of a model.

    Attributes:
        parts: by window and partition.
        gone: partitions of which the part of a window is not known any more; the window is not whole without.
        closed: by partition: the highest window of which a pair has left its state.
        reported: by window: fingerprint of the sums that were reported last.
    """

    parts: dict[int, dict[int, Part]] = field(default_factory=lambda: defaultdict(dict))
    gone: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    closed: dict[int, int] = field(default_factory=dict)
    reported: dict[int, int] = field(default_factory=dict)

    def newest(self) -> int:
        """The highest window that has, or had, a pair."""
        return max(max(self.parts, default=LIFETIME), max(self.closed.values(), default=LIFETIME))


@dataclass
class Board:
    """Latest sums of each partition, window and model version.

    Args:
        window_seconds: length of a window.
        rolling_pairs: the rolling window is the newest windows that together hold this many, …
        rolling_seconds: … and begin at most this long before the newest of them.
        max_windows: most windows of a model version that are kept.

    Attributes:
        outdated: partitions' parts of windows that were forgotten for their age.
    """

    window_seconds: float
    rolling_pairs: int
    rolling_seconds: float
    max_windows: int
    _versions: dict[Group, Version] = field(default_factory=dict)
    _changed: set[Place] = field(default_factory=set)
    outdated: list[tuple[Group, int, int]] = field(default_factory=list)
    _owners: dict[int, int] = field(default_factory=dict)
    _takers: dict[int, tuple[int, int]] = field(default_factory=dict)
    _takes: int = 0

    def __len__(self) -> int:
        """Model versions."""
        return len(self._versions)

    def place(self, told: ToldSums) -> bool:
        """Take a partition's sums for what they are now; False if they are those of a former owner.

        Of one owner, the later in the log is the later.
        """
        group, window, partition = (told.model, told.version), told.window, told.partition
        if told.sums is None:
            self._forget(group, window, partition)
            return True
        epoch = self._takers[partition][0] if partition in self._takers else self._owners.get(partition, -1)
        if told.epoch < epoch:
            return False
        if told.epoch > epoch:
            self._takers[partition] = (told.epoch, self._takes)
        version = self._versions.setdefault(group, Version())
        version.gone[window].discard(partition)
        version.parts[window][partition] = Part(told.epoch, told.sums)
        if window == LIFETIME:
            version.closed[partition] = told.closed
        self._changed.add((group, window))
        if len(version.parts) > 2 * self.max_windows:
            self._prune(group, version)
        return True

    def sums(self, group: Group, window: int) -> Sums:
        """Of one window, or of the `LIFETIME`, over all partitions."""
        total = Sums()
        for part in self._parts(group, window):
            add(total, part.sums)
        return total

    def rolling(self, group: Group) -> Sums:
        """Of the newest windows that have labels: the realised figures, with the estimate for the same pairs."""
        return self._newest(group, "labelled")

    def latest(self, group: Group) -> Sums:
        """Of the newest windows, labelled or not: the estimate where labels are not there yet."""
        return self._newest(group, "pairs")

    def groups(self) -> list[Group]:
        """The model versions of which anything is known."""
        return sorted(group for group, version in self._versions.items() if version.parts)

    def take_changed(self) -> set[Place]:
        """Windows and lifetimes whose sums are others than at the last call, less those that are not whole any more."""
        self._take_over()
        changed, self._changed = self._changed, set()
        for group, version in self._versions.items():
            self._prune(group, version)
        return {place for place in changed if self._is_news(*place)}

    def drop_versions(self, present: Collection[Group]) -> list[Group]:
        """Forget versions that are too many, and say which.

        Args:
            present: these stay in any case.
        """
        dropped = surplus({group: version.newest() for group, version in self._versions.items()}, present)
        for group in dropped:
            del self._versions[group]
        return dropped

    def _forget(self, group: Group, window: int, partition: int) -> None:
        """A window has left the state of a partition. Its sums stay here, or else the window is not reported again."""
        version = self._versions.get(group)
        parts = version.parts.get(window, {}) if version else {}
        if window == LIFETIME:
            parts.pop(partition, None)
            self._changed.add((group, window))
        elif partition in parts:
            parts[partition].left = True
        else:
            self._versions.setdefault(group, Version()).gone[window].add(partition)

    def _take_over(self) -> None:
        """What former owners told holds no more where it is not closed: the new one has told all that it has.

        It tells it at once, but that may be half read: so only where it had begun before the last call. A new board has
        read all before the first.
        """
        settled = {partition: epoch for partition, (epoch, seen) in self._takers.items() if seen < max(1, self._takes)}
        self._takes += 1
        for partition, epoch in settled.items():
            self._owners[partition] = epoch
            del self._takers[partition]
        self._changed |= {
            (group, window)
            for group, version in self._versions.items()
            for window, parts in version.parts.items()
            if any(part.epoch < settled.get(partition, 0) for partition, part in parts.items())
        }

    def _prune(self, group: Group, version: Version) -> None:
        """Forget the oldest windows."""
        windows = sorted(number for number in version.parts.keys() | version.gone.keys() if number >= 0)
        for window in windows[: -self.max_windows]:
            self.outdated += [(group, window, partition) for partition in version.parts.get(window, ())]
            for by_window in (version.parts, version.gone, version.reported):
                by_window.pop(window, None)

    def _parts(self, group: Group, window: int) -> Iterator[Part]:
        version = self._versions.get(group)
        if version is None:
            return
        for partition, part in version.parts.get(window, {}).items():
            is_closed = part.left or 0 <= window <= version.closed.get(partition, LIFETIME)
            if is_closed or part.epoch >= self._owners.get(partition, 0):
                yield part

    def _is_news(self, group: Group, window: int) -> bool:
        version = self._versions.get(group)
        if version is None or window not in version.parts or version.gone.get(window):
            return False
        sums, known = self.sums(group, window), version.reported.get(window)
        if not sums and known is None:
            return False
        version.reported[window] = hash(frozenset(sums.items()))
        return version.reported[window] != known

    def _newest(self, group: Group, size: str) -> Sums:
        version, total, newest = self._versions.get(group), Sums(), None
        windows = version.parts if version else ()
        for window in sorted((number for number in windows if number >= 0), reverse=True):
            if not sum(part.sums[size] for part in self._parts(group, window)):
                continue
            newest = window if newest is None else newest
            if total[size] >= self.rolling_pairs or (newest - window) * self.window_seconds > self.rolling_seconds:
                break
            add(total, self.sums(group, window))
        return total
