"""What clocks may say: a moment that a message claims, against the broker's timestamp of that message.

Windows, rolling figures, corrections and names of indices follow moments that come in messages. One that lies years
ahead would close every window and outrank every correction for good, so it is refused.
"""

import math

from schemas.refusal import Reason, Refusal

MAX_AHEAD_SECONDS = 300.0
"""Default of the setting `MODELWATCH_MAX_AHEAD_SECONDS`."""


MAX_ELAPSED = 30 * 86_400.0
"""Of a duration that is measured between two clocks: no message is kept for longer."""


def arrival(timestamp: float, now: float) -> float:
    """When a message came, seconds since the epoch: by its Kafka timestamp, or, if that cannot be, when it was read.

    Producers set the timestamp as they like: it may be absent (Kafka says -1) or lie ahead. What was read has arrived.

    Args:
        timestamp: as Kafka gives it, in seconds.
        now: the reader's clock when it read the message.
    """
    return timestamp if 0 <= timestamp <= now else now


def elapsed(begin: float, end: float) -> float:
    """Seconds between moments of two clocks, in 0..MAX_ELAPSED: one that was set back or wrong must not ruin a sum."""
    return min(max(0.0, end - begin), MAX_ELAPSED) if math.isfinite(end - begin) else 0.0


def check_not_ahead(what: str, moment: float, now: float, max_ahead: float) -> None:
    """Refuse a moment that lies too far ahead.

    Args:
        what: name of the field or header, for the sender.
        moment: that it claims, seconds since the epoch.
        now: the broker's timestamp of the message, seconds since the epoch; of that timestamp itself: the reader's
            clock.
        max_ahead: seconds.

    Raises:
        Refusal: IN_FUTURE.
    """
    if moment > now + max_ahead:
        raise Refusal(
            Reason.IN_FUTURE,
            f"{what} lies {moment - now:.0f} s ahead of the message's arrival; at most {max_ahead:g} s are taken: set "
            "the sender's clock",
        )
