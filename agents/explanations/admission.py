"""Whose turn it is: a few explanations at once, and none that would come after its deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

WEIGHT = 0.1
"""Of the latest explanation in the moving average of their seconds."""


class Admission:
    """Counts the questions in hand, and gives a few of them their turn at once.

    How many are in hand is bounded before: further ones wait on their topic, see `ExplanationsAgent`.

    Args:
        at_once: explanations under way.
        changed: called with the number in hand when it changes.
    """

    def __init__(self, at_once: int, changed: Callable[[int], None]) -> None:
        self._at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._in_hand = 0
        self._seconds = 0.0
        self._changed = changed

    def refusal(self, seconds_left: float) -> str | None:
        """Why a question that has so long is not taken; None if it is."""
        ahead = max(0, self._in_hand - self._at_once + 1)
        wait = ahead / self._at_once * self._seconds
        if ahead and wait > seconds_left:
            return f"its turn would come in about {wait:.1f} s, and its deadline is in {seconds_left:.1f} s"
        return None

    def enter(self) -> None:
        """Take a question in; `leave` when it is answered."""
        self._in_hand += 1
        self._changed(self._in_hand)

    def leave(self) -> None:
        """The counterpart of `enter`."""
        self._in_hand -= 1
        self._changed(self._in_hand)

    @asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[bool]:
        """Wait for a turn and hold it; false if it does not come within `seconds`."""
        try:
            await asyncio.wait_for(self._turns.acquire(), seconds)
        except asyncio.TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            self._turns.release()

    def took(self, seconds: float) -> None:
        """Learn how long an explanation took."""
        self._seconds = seconds if not self._seconds else (1 - WEIGHT) * self._seconds + WEIGHT * seconds
