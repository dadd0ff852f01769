"""A bound on what an agent asks of others: a token bucket a model."""

from collections.abc import Callable


class RateLimit:
    """A token bucket.

    Args:
        per_second: tokens that come back in a second; 0: there are none at all.
        burst: most tokens at once, and how many there are at first.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst if per_second > 0 else 0
        self._clock = clock
        self._tokens = float(self._burst)
        self._at = clock()

    @property
    def available(self) -> int:
        """How many may pass now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        return int(self._tokens)

    def take(self, wanted: int) -> int:
        """How many of `wanted` pass now."""
        passed = min(wanted, self.available)
        self._tokens -= passed
        return passed
