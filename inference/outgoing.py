"""What the worker writes: a part's pairs as message values, and the dead letter of a refused message."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.batcher import Answer
from inference.chunks import Part, Refused
from schemas.clock import elapsed
from schemas.letters import dead_letter
from schemas.pairs import PairWriter
from schemas.refusal import Reason, Refusal

STAGE = "inference"


def letter_of(refused: Refused) -> dict[str, Any]:
    """Arguments for producing a refused message to the dead letters."""
    message, headers = refused.source.message, refused.source.headers
    place = (message.topic(), message.partition(), message.offset())
    return dead_letter(message.key(), message.value(), headers, place, STAGE, refused.refusal)._asdict()


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
