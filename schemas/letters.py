"""Dead letters: a refused message, with headers added to it that say where it lay and why; written, and read."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.headers import rfc3339
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS

OURS = ("topic", "partition", "offset", "stage", "reason", "error", "time")
"""Headers of a dead letter that are not the message's own; they are its last."""

MAX_LETTER_BYTES = DEAD_LETTERS.max_message_bytes - (64 << 10)
"""Of key, value and headers together, so that our own headers and the framing fit as well."""
MAX_KEPT_KEY = 4096
"""Bytes of a key that is kept even where the rest of its message is too large."""
MAX_ERROR_BYTES = 1024

NOWHERE = -1
"""Partition and offset of what is on no topic: a record that was made of many messages."""

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Source:
    """What a letter is about, in the shape of a consumed message, where that itself is not at hand.

    Attributes:
        value: None: the letter only names the place.
    """

    key: bytes | None
    value: bytes | None
    topic: str
    partition: int = NOWHERE
    offset: int = NOWHERE
    headers: Sequence[tuple[str, bytes | None]] = ()


class Letter(NamedTuple):
    """What to produce to the dead letters."""

    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused message.

    Attributes:
        key, value, headers: as the message had them.
        topic, partition, offset: where it lay; of an item of a batch, where the batch lies.
        time: of the refusal, RFC 3339.
    """

    key: bytes | None
    value: bytes | None
    headers: Headers
    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    error: str
    time: str

    @property
    def identity(self) -> str:
        """The same for every letter about the same refused bytes, whoever refused them and however often."""
        return identity(self.topic, self.partition, self.offset, self.value)

    @property
    def is_whole(self) -> bool:
        """Whether the letter holds the message. One that was too large for a letter is named by its place only."""
        return self.value is not None or self.reason == Reason.EMPTY_VALUE.value


def identity(topic: str, partition: int, offset: int, value: bytes | None) -> str:
    """Of the letters about a message: its place, and a digest of its value, as a topic may have been made anew."""
    digest = hashlib.sha256(value or b"").hexdigest()[:16]
    return f"{topic}/{partition}/{offset}/{digest}"


def read_letter(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """The letter in a message of `inference.dead-letters`.

    Raises:
        Refusal: INVALID_HEADER: it does not end with our headers, so it is not one.
    """
    own, ours = list(headers[: -len(OURS)]), headers[-len(OURS) :]
    if tuple(name for name, _ in ours) != OURS:
        raise Refusal(Reason.INVALID_HEADER, f"not a dead letter: its headers do not end with {', '.join(OURS)}")
    topic, partition, offset, stage, reason, error, time = ((held or b"").decode(errors="replace") for _, held in ours)
    try:
        place = int(partition), int(offset)
    except ValueError as problem:
        raise Refusal(Reason.INVALID_HEADER, f"not a dead letter: {problem}") from problem
    return DeadLetter(key, value, own, topic, *place, stage, reason, error, time)


def dead_letter(
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]] | None,
    place: tuple[str, int, int],
    stage: str,
    refusal: Refusal,
) -> Letter:
    """The letter of one refused message, or of an item of a batch.

    Our headers are the last seven, so that a replay can take them off again and send the rest unchanged. A message that
    came compressed may be larger than any topic takes: its letter has its key and our headers, which say where it lies
    for as long as its topic is kept.

    Args:
        place: topic, partition and offset; of an item, those of its batch.
        stage: who refuses it.
    """
    own, detail = list(headers or ()), refusal.detail
    size = len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(held or b"") for name, held in own)
    if size > MAX_LETTER_BYTES:
        value, own, key = None, [], key if len(key or b"") <= MAX_KEPT_KEY else None
        detail = f"{detail}; {size} bytes are more than a dead letter can hold, and are left where they were"
    topic, partition, offset = place
    ours: dict[str, Any] = {"topic": topic, "partition": partition, "offset": offset, "stage": stage}
    ours |= {"reason": refusal.reason.value, "error": _cut(detail), "time": rfc3339(time.time())}
    return Letter(key, value, [*own, *((name, str(held).encode()) for name, held in ours.items())])


def _cut(text: str) -> str:
    """The beginning of a text that a stranger may have had a hand in, in so many bytes of UTF-8."""
    return text.encode(errors="replace")[:MAX_ERROR_BYTES].decode(errors="ignore")
