"""The latest pairs as they lie on their topic, so that a question by id finds its image at once."""

import asyncio
from collections import OrderedDict


class RecentPairs:
    """A cache of messages by request id, bounded by count and bytes; the oldest go first. For one event loop.

    It is a cache and nothing more: what is not in it is in the record store. So it is not saved, and pairs are
    acknowledged at once.

    Args:
        max_pairs: at most so many.
        max_bytes: of their values together.
    """

    def __init__(self, max_pairs: int, max_bytes: int) -> None:
        self._max_pairs = max_pairs
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[str, list[asyncio.Future[bytes]]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, request_id: str) -> bytes | None:
        """Value of the pair's message."""
        return self._values.get(request_id)

    def put(self, request_id: str, value: bytes) -> None:
        """Keep a pair, and wake who waits for it."""
        for waiting in self._waiting.pop(request_id, ()):
            if not waiting.done():
                waiting.set_result(value)
        self._bytes += len(value) - len(self._values.pop(request_id, b""))
        self._values[request_id] = value
        while self._values and (len(self._values) > self._max_pairs or self._bytes > self._max_bytes):
            self._bytes -= len(self._values.popitem(last=False)[1])

    async def wait(self, request_id: str, seconds: float) -> bytes | None:
        """The pair when it comes; None if it does not within `seconds`."""
        if (value := self.get(request_id)) is not None:
            return value
        coming: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
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
