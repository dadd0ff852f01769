"""Message headers: the CloudEvents 1.0 Kafka protocol binding in binary mode, and what we add to it.

Source: CloudEvents Kafka Protocol Binding v1.0.2, section 3.2 (binary content mode).
"""

from collections.abc import Iterable
from datetime import datetime, timezone

Headers = list[tuple[str, bytes]]

CONTENT_TYPE = "content-type"
MODEL = "model"
DEADLINE = "deadline"
TRACEPARENT = "traceparent"
CE_ID = "ce_id"
CE_TIME = "ce_time"
ATTRIBUTE_PREFIX = "attribute-"
JSON = b"application/json"

PAIR_TYPE = "modelwatch.inference.pair.v1"
WORKER_SOURCE = "/modelwatch/inference"


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


def dead_letter_headers(
    original: Iterable[tuple[str, bytes | None]] | None,
    topic: str,
    partition: int,
    offset: int,
    stage: str,
    reason: str,
    error: str,
) -> list[tuple[str, bytes | None]]:
    """The original headers, followed by where the message came from and why it was refused.

    Ours are the last seven, so that a replay can take them off again and send the rest unchanged.
    """
    now = datetime.now(timezone.utc).isoformat()
    ours = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "stage": stage,
        "reason": reason,
        "error": error[:1024],
        "time": now,
    }
    return [*(original or []), *((name, value.encode()) for name, value in ours.items())]
