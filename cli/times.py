"""Spans and moments as a user writes them on the command line."""

import re
from datetime import timedelta

from runtime.errors import ConfigurationError
from schemas.base import utc_now
from schemas.headers import parse_time

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d+)?)([smhd])", re.ASCII)


def duration(option: str, text: str) -> timedelta:
    """A span such as 30m, 1h or 2d.

    Raises:
        ConfigurationError: naming the option and the text.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{option} {text!r} is no time such as 30m, 1h or 2d")
    return timedelta(**{UNITS[match[2]]: float(match[1])})


def moment(option: str, text: str) -> float:
    """Seconds since the epoch from RFC 3339, or from how long ago it was, such as 30m, 1h or 2d.

    Raises:
        ConfigurationError: naming the option and the text.
    """
    if _SPAN.fullmatch(text):
        return max(0.0, utc_now().timestamp() - duration(option, text).total_seconds())
    try:
        return parse_time(text)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}; or how long ago, such as 30m, 1h or 2d") from None
