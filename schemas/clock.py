"""What clocks may say: a moment that a message claims, against the broker's timestamp of that message.

Windows, rolling figures, corrections and names of indices follow moments that come in messages. One that lies years
ahead would close every window and outrank every correction for good, so it is refused.
"""

from schemas.refusal import Reason, Refusal

MAX_AHEAD_SECONDS = 300.0
"""Default of the setting `MODELWATCH_MAX_AHEAD_SECONDS`."""


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
