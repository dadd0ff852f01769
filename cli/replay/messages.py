"""librdkafka's messages in the form in which the agents know messages."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

BATCH = 256


@dataclass(frozen=True, slots=True)
class Consumed:
    """One message; `timestamp` in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    headers: list[tuple[str, bytes]]
    key: bytes | None
    value: bytes | None


def consumed(message: Any) -> Consumed:
    """The same message, attribute for attribute."""
    return Consumed(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1] / 1000,
        message.headers() or [],
        message.key(),
        message.value(),
    )


def batches(messages: Iterable[Any]) -> Iterator[list[Consumed]]:
    """Batches of messages, as they can be computed together."""
    iterator = iter(messages)
    while batch := [consumed(message) for message in islice(iterator, BATCH)]:
        yield batch
