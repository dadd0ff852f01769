"""What the worker writes: a part's pairs as message values, and the dead letter of a refused message."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.batcher import Answer
from inference.chunks import Part, Refused
from schemas.clock import elapsed
from schemas.headers import dead_letter_headers
from schemas.pairs import PairWriter
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS

STAGE = "inference"
MAX_LETTER_BYTES = DEAD_LETTERS.max_message_bytes - (64 << 10)
"""Of key, value and headers together, so that our own headers and the framing fit as well."""


def dead_letter(refused: Refused) -> dict[str, Any]:
    """Arguments for producing the message whole, with where it lay and why it was refused.

    A message that came compressed may be larger than any topic takes. Its letter has our headers only: they say where
    it lies for as long as the requests are kept.
    """
    message, detail = refused.source.message, refused.refusal.detail
    value, key, headers = message.value(), message.key(), refused.source.headers or []
    size = len(value or b"") + len(key or b"") + sum(len(name.encode()) + len(held or b"") for name, held in headers)
    if size > MAX_LETTER_BYTES:
        value, key, headers = None, None, []
        detail = f"{detail}; {size} bytes are more than a dead letter can hold, and are left where they were"
    ours = (message.topic(), message.partition(), message.offset(), STAGE, refused.refusal.reason.value, detail)
    return {"value": value, "key": key, "headers": dead_letter_headers(headers, *ours)}


def unanswered(model: str, names: Sequence[str]) -> Refusal:
    """Why there are no pairs of images about which the model answered nothing usable."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    refusal = Refusal(
        Reason.UNUSABLE_ANSWER,
        f"model {model} answered what is no probability, or not finite, about {len(names)} image(s): {shown}; "
        "look at these images and at the model",
    )
    refusal.model = model
    return refusal


def encode_part(
    writer: PairWriter, part: Part, answer: Answer, received_at: float, answered_at: float
) -> list[bytes | None]:
    """The part's pairs as message values, in order.

    Requests that expired have no prediction; those about which the model answered nothing usable have no pair: None.
    """
    queued = [elapsed(sent_at, received_at) for sent_at in part.sent_at]
    waited = [elapsed(received_at, answer.started_at)] * len(queued)

    def encode(rows: list[int], outputs: Any, batch_size: int) -> list[bytes]:
        every = len(rows) == len(part.request_ids)
        pick = (lambda column: column) if every else (lambda column: [column[row] for row in rows])
        return writer.encode(
            pick(part.request_ids),
            part.job.images if every else part.job.images[rows],
            pick(part.attributes),
            pick(part.sent_at),
            pick(part.deadlines),
            outputs,
            pick(queued),
            pick(waited),
            answer.compute_seconds if outputs is not None else 0.0,
            batch_size,
            answered_at,
        )

    unusable = writer.unusable(answer.outputs)
    if answer.expired is None and unusable is None:
        return [*encode(list(range(len(queued))), answer.outputs, answer.batch_size)]
    expired = np.zeros(len(queued), bool) if answer.expired is None else answer.expired
    live = ~expired if unusable is None else ~expired & ~unusable
    values: list[bytes | None] = [None] * len(queued)
    for mask, is_live in ((live, True), (expired, False)):
        rows = mask.nonzero()[0].tolist()
        if rows:
            outputs = answer.outputs[mask] if is_live else None
            for row, value in zip(rows, encode(rows, outputs, answer.batch_size if is_live else 0), strict=True):
                values[row] = value
    return values
