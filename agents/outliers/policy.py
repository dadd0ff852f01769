"""Which flagged pairs ask for an explanation by themselves: at a bounded rate for each model."""

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

    def take(self, wanted: int) -> int:
        """How many of `wanted` may pass now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        passed = min(wanted, int(self._tokens))
        self._tokens -= passed
        return passed


class ExplanationPolicy:
    """One rate limit a model."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._limits: dict[str, RateLimit] = {}
        self.on = per_minute > 0

    def take(self, model: str, wanted: int) -> int:
        """How many of `wanted` flagged pairs of a model may ask now."""
        limit = self._limits.get(model)
        if limit is None:
            limit = self._limits[model] = RateLimit(self._per_second, self._burst, self._clock)
        return limit.take(wanted)
