"""The latest pairs as they lie on their topic, so that a question by id finds its image at once."""

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice

MOST_ANSWERS = 16
"""The latest under one id that are looked at: each has to be decoded."""


@dataclass(frozen=True, slots=True)
class KeptPair:
    """A message of `inference.pairs`; `timestamp` in seconds since the epoch."""

    value: bytes
    timestamp: float


class RecentPairs:
    """A cache of messages by request id, bounded by count and bytes; the oldest go first. For one event loop.

    One request id may have several answers: of several models or versions, or asked again. It is a cache and nothing
    more: what is not in it is in the record store. So it is not saved, and pairs are acknowledged at once.

    Args:
        max_pairs: at most so many.
        max_bytes: of their values together.
    """

    def __init__(self, max_pairs: int, max_bytes: int) -> None:
        self._max_pairs = max_pairs
        self._max_bytes = max_bytes
        self._order: deque[str] = deque()
        self._pairs: dict[str, deque[KeptPair]] = {}
        self._bytes = 0
        self._waiting: dict[str, list[asyncio.Future[KeptPair]]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def get(self, request_id: str) -> list[KeptPair]:
        """The latest messages under this id, in order."""
        return list(islice(reversed(self._pairs.get(request_id, ())), MOST_ANSWERS))[::-1]

    def put(self, request_id: str, pair: KeptPair) -> None:
        """Keep a pair, and wake who waits for one under its id."""
        for waiting in self._waiting.pop(request_id, ()):
            if not waiting.done():
                waiting.set_result(pair)
        self._order.append(request_id)
        self._pairs.setdefault(request_id, deque()).append(pair)
        self._bytes += len(pair.value)
        while self._order and (len(self._order) > self._max_pairs or self._bytes > self._max_bytes):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._order.popleft()
        own = self._pairs[oldest]  # whatever is oldest of all is the oldest under its id
        self._bytes -= len(own.popleft().value)
        if not own:
            del self._pairs[oldest]

    async def wait(self, request_id: str, seconds: float) -> KeptPair | None:
        """The next pair under this id; None if none comes within `seconds`."""
        coming: asyncio.Future[KeptPair] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request_id, []).append(coming)
        try:
            return await asyncio.wait_for(coming, max(0.0, seconds))
        except asyncio.TimeoutError:
            return None
        finally:
            others = self._waiting.get(request_id, [])
            if coming in others:
                others.remove(coming)
            if not others:
                self._waiting.pop(request_id, None)
