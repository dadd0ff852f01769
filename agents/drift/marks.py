"""How far the pairs of a model have been counted: what tells a pair that comes again from a new one."""

from collections.abc import Iterable
from typing import Protocol

from schemas.messages import Mark

MAX_TOPICS = 4
"""Of `inference.pairs`, made anew again and again: marks of so many are kept."""


class Place(Protocol):
    """Where a pair stands."""

    @property
    def pair_topic(self) -> str | None:
        """Id of its topic, where the brokers give ids."""

    @property
    def pair_partition(self) -> int:
        """Its partition."""

    @property
    def pair_offset(self) -> int:
        """Its offset."""


class Marks:
    """The highest offset seen, by topic id and partition of `inference.pairs`.

    Offsets of a topic that was made anew begin again, so marks hold for their own topic only. Those of messages without
    an id (earlier versions, brokers without ids) hold for the first id that comes after them.
    """

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._highest: dict[tuple[str | None, int], int] = {}
        self._topics: list[str] = []
        self.merge(marks)

    def covers(self, place: Place) -> bool:
        """Whether a pair has been seen."""
        topic, partition = place.pair_topic, place.pair_partition
        if topic is None:
            holding: list[str | None] = [None, *self._topics]
        else:
            holding = [topic, None] if self._topics in ([], [topic]) else [topic]
        return any(place.pair_offset <= self._highest.get((one, partition), -1) for one in holding)

    def note(self, place: Place) -> bool:
        """A pair has been seen; whether it is of a topic that took the place of another."""
        anew = place.pair_topic is not None and bool(self._topics) and place.pair_topic not in self._topics
        self._raise(place.pair_topic, place.pair_partition, place.pair_offset)
        if len(self._topics) > MAX_TOPICS:
            oldest = self._topics.pop(0)
            self._highest = {key: offset for key, offset in self._highest.items() if key[0] != oldest}
        return anew

    def merge(self, marks: Iterable[Mark]) -> None:
        """What these cover has been seen, too."""
        for mark in marks:
            self._raise(mark.topic_id, mark.partition, mark.offset)

    def before(self, places: Iterable[Place] = ()) -> tuple[Mark, ...]:
        """The marks as they have to be when these pairs, in order, are read again.

        One below the first of a partition will do: of this model, nothing lies between that and the mark there was.
        """
        first: dict[tuple[str | None, int], int] = {}
        for place in places:
            first.setdefault((place.pair_topic, place.pair_partition), place.pair_offset)
        highest = self._highest | {key: offset - 1 for key, offset in first.items()}
        order = {topic: number for number, topic in enumerate([None, *self._topics])}
        return tuple(
            Mark(topic_id=topic, partition=partition, offset=highest[topic, partition])
            for topic, partition in sorted(highest, key=lambda key: (order[key[0]], key[1]))
            if highest[topic, partition] >= 0
        )

    def _raise(self, topic: str | None, partition: int, offset: int) -> None:
        if topic is not None and topic not in self._topics:
            self._topics.append(topic)
        self._highest[topic, partition] = max(offset, self._highest.get((topic, partition), -1))
