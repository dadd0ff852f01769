"""Reading dead letters: what was refused, where it lay, and why, from the headers that were added to it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.refusal import Reason, Refusal

OURS = ("topic", "partition", "offset", "stage", "reason", "error", "time")
"""Headers of a dead letter that are not the message's own; they are its last."""

Headers = list[tuple[str, bytes | None]]


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
        digest = hashlib.sha256(self.value or b"").hexdigest()[:16]
        return f"{self.topic}/{self.partition}/{self.offset}/{digest}"

    @property
    def is_whole(self) -> bool:
        """Whether the letter holds the message. One that was too large for a letter is named by its place only."""
        return self.value is not None or self.reason == Reason.EMPTY_VALUE.value


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
