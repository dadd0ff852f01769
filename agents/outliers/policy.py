"""Which flagged pairs ask for an explanation by themselves: at a bounded rate for each model."""

from collections.abc import Callable

from agents.rate_limit import RateLimit


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
