"""One model over all partitions: sums of the partitions' sums, and which windows are the rolling one. No Kafka."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from agents.confusion.fold import Group
from agents.confusion.sums import Sums, add

Progress = tuple[int, int]
LIFETIME = -2
"""Number that stands for all pairs ever, in the place of a window's."""


@dataclass
class Board:
    """Latest sums of each partition, window and model version.

    Args:
        window_seconds: length of a window.
        rolling_pairs: the rolling window is the newest windows that together hold this many, …
        rolling_seconds: … and begin at most this long before the newest of them.
        max_windows: most windows of a model version that are kept.
    """

    window_seconds: float
    rolling_pairs: int
    rolling_seconds: float
    max_windows: int
    changed: set[tuple[Group, int]] = field(default_factory=set)
    _final: set[tuple[Group, int]] = field(default_factory=set)
    _parts: dict[Group, dict[int, dict[int, tuple[Progress, Sums]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )

    def place(self, group: Group, window: int, partition: int, progress: Progress, sums: Sums) -> None:
        """Take a partition's sums for what they are now, unless something further on is known.

        Args:
            progress: epoch of the partition's owner, and the number of its publication: a former owner has less.
        """
        parts = self._parts[group][window]
        if partition in parts and parts[partition][0] > progress:
            return
        if not sums and partition not in parts:
            return
        parts[partition] = (progress, sums)
        self.changed.add((group, window))

    def forget(self, group: Group, window: int, partition: int) -> None:
        """A window has left the state of a partition. Its sums stay here, or else the window is not reported again."""
        if partition not in self._parts[group][window]:
            self._final.add((group, window))

    def sums(self, group: Group, window: int) -> Sums:
        """Of one window, or of the `LIFETIME`, over all partitions."""
        total = Sums()
        for _, sums in self._parts[group][window].values():
            add(total, sums)
        return total

    def rolling(self, group: Group) -> Sums:
        """Of the newest windows that have labels: the realised figures, with the estimate for the same pairs."""
        return self._newest(group, lambda sums: sums["labelled"])

    def latest(self, group: Group) -> Sums:
        """Of the newest windows, labelled or not: the estimate where labels are not there yet."""
        return self._newest(group, lambda sums: sums["pairs"])

    def take_changed(self) -> set[tuple[Group, int]]:
        """Windows and lifetimes whose sums changed since the last call, less those that are not whole any more."""
        changed, self.changed = self.changed - self._final, set()
        for group, windows in self._parts.items():
            for window in sorted(number for number in windows if number >= 0)[: -self.max_windows]:
                del windows[window]
                self._final.discard((group, window))
        return {(group, window) for group, window in changed if window in self._parts[group]}

    def _newest(self, group: Group, size: Callable[[Sums], int]) -> Sums:
        total, newest = Sums(), None
        for window in sorted((number for number in self._parts[group] if number >= 0), reverse=True):
            sums = self.sums(group, window)
            if not size(sums):
                continue
            newest = window if newest is None else newest
            if size(total) >= self.rolling_pairs or (newest - window) * self.window_seconds > self.rolling_seconds:
                break
            add(total, sums)
        return total
