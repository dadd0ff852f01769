"""How many bytes of messages may be between being fetched and being safe: memory is bounded by bytes, not by number."""

from typing import Any


class ByteRoom:
    """Counts the bytes of one stream's messages that are in hand.

    Messages of an earlier assignment do not count: nobody waits for them, and who owns their partitions reads them
    again.

    Args:
        most: bytes; once so many are in hand, no more are fetched. What one fetch brings comes on top.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._generation = -1
        self._held = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be fetched now."""
        return self._held >= self._most

    def take(self, size: int, generation: int) -> None:
        """A message was fetched under this assignment."""
        if generation != self._generation:
            self._generation, self._held = generation, 0
        self._held += size

    def give_back(self, size: int, generation: int) -> None:
        """Messages that were fetched under this assignment are in hand no more."""
        if generation == self._generation:
            self._held -= size


def size_of(message: Any) -> int:
    """Bytes of a consumed message: key, value, headers."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers or ())
    return len(message.key or b"") + len(message.value or b"") + headers


def split(messages: list[Any], most: int) -> list[list[Any]]:
    """In order, into parts of at most `most` bytes; a message larger than that is a part of its own."""
    parts: list[list[Any]] = []
    held = 0
    for message in messages:
        size = size_of(message)
        if not parts or held + size > most:
            parts.append([])
            held = 0
        parts[-1].append(message)
        held += size
    return parts
