"""Message headers: the CloudEvents 1.0 Kafka protocol binding in binary mode, and what we add to it.

Source: CloudEvents Kafka Protocol Binding v1.0.2, section 3.2 (binary content mode).
"""

import math
import re
from collections.abc import Iterable
from datetime import datetime, timezone

Headers = list[tuple[str, bytes]]

CONTENT_TYPE = "content-type"
MODEL = "model"
DEADLINE = "deadline"
TRACEPARENT = "traceparent"
CE_ID = "ce_id"
CE_TIME = "ce_time"
HEADER_LENGTH = "inference-header-content-length"
"""Of the binary extension of Open Inference Protocol V2: how many bytes of the value are JSON."""
ATTRIBUTE_PREFIX = "attribute-"
JSON = b"application/json"

MAX_TRACEPARENT_BYTES = 256
"""W3C's have 55; what is carried on must leave room for the message."""
PAIR_TYPE = "modelwatch.inference.pair.v1"
WORKER_SOURCE = "/modelwatch/inference"

END_OF_TIME = 253_402_300_800.0
"""Start of the year 10000, in seconds since the epoch: RFC 3339 and `datetime` both end before it."""
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))", re.ASCII)


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 date-time; digits after the microseconds are dropped.

    Raises:
        ValueError: naming the text, if it is not RFC 3339 (an offset is required) or lies outside 1970 to 9999.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not an RFC 3339 time such as 2026-01-31T12:00:00.5Z")
    date, clock, fraction, _, offset = match.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}.{(fraction or '')[:6]:0<6}{offset or '+00:00'}")
    return checked_time(moment.timestamp())


def checked_time(seconds: float) -> float:
    """The argument, if it is a moment that every message can carry: from 1970 to the end of 9999.

    Raises:
        ValueError: naming the number.
    """
    if not (math.isfinite(seconds) and 0 <= seconds < END_OF_TIME):
        raise ValueError(f"{seconds} is not a number of seconds since the epoch, from 1970 to 9999")
    return seconds


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as an RFC 3339 timestamp in UTC with microseconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def traceparent_in(headers: Iterable[tuple[str, bytes | None]] | None) -> bytes | None:
    """The caller's `traceparent`; None where there is none, or what is there is far longer than one is."""
    found = next((value for name, value in headers or () if name == TRACEPARENT), None)
    return found if found is not None and len(found) <= MAX_TRACEPARENT_BYTES else None


def event_headers(
    event_id: str, event_type: str, source: str, time: str, model: str, traceparent: bytes | None
) -> Headers:
    """Headers of one of our own JSON messages; `traceparent` is the caller's, carried on unchanged."""
    headers = [
        ("ce_specversion", b"1.0"),
        (CE_ID, event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        (CE_TIME, time.encode()),
        (CONTENT_TYPE, JSON),
        (MODEL, model.encode()),
    ]
    if traceparent is not None:
        headers.append((TRACEPARENT, traceparent))
    return headers
