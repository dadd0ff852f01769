"""From one message of `inference.requests` to images in memory, or to the reason why not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from schemas.clock import MAX_AHEAD_SECONDS
from schemas.headers import CONTENT_TYPE, DEADLINE, HEADER_LENGTH
from schemas.model_spec import ModelSpec
from schemas.payloads import facts
from schemas.payloads.body import AnswerOptions, Body, brief
from schemas.payloads.jpeg import decode_jpeg
from schemas.payloads.json_body import json_body
from schemas.payloads.npy import decode_npy
from schemas.payloads.png import decode_png
from schemas.payloads.v2_body import binary_v2_body
from schemas.refusal import Reason, Refusal
from schemas.topics import MAX_REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """A message that was understood: what the worker puts into a batch.

    Attributes:
        request_ids: one an image: `[ID]`, or `[ID-0, ID-1, ...]`.
        images: `(n, *spec.input.shape)`, uint8, or float32 as the model takes them, C-contiguous; may be a read-only
            view on the payload.
        model: name of the model asked for, one of those served.
        attributes: the caller's metadata.
        sent_at: seconds since the epoch.
        deadline: seconds since the epoch, or None. A wish: one that has passed is answered `expired`, one in a thousand
            years is as good as none.
        traceparent: the caller's header, unchanged, or None; None too where it is too long to be one.
        options: what a JSON body says of the answer over HTTP.
    """

    request_ids: list[str]
    images: NDArray[Any]
    model: str
    attributes: dict[str, str]
    sent_at: float
    deadline: float | None
    traceparent: bytes | None
    options: AnswerOptions = field(default_factory=AnswerOptions)


_BODIES: dict[str, Callable[[bytes], Body]] = {
    "image/png": lambda payload: Body(partial(decode_png, payload)),
    "image/jpeg": lambda payload: Body(partial(decode_jpeg, payload)),
    "application/x-npy": lambda payload: Body(partial(decode_npy, payload)),
    "application/json": json_body,
}
_OTHER_SPELLINGS = {"image/jpg": "image/jpeg"}
CONTENT_TYPES = tuple(_BODIES)
"""What the header `content-type` may say."""


def decode_request(
    value: bytes | None,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes | None]] | None,
    timestamp: float,
    specs: Mapping[str, ModelSpec],
    default_model: str | None,
    max_ahead: float = MAX_AHEAD_SECONDS,
) -> DecodedRequest:
    """Decode one message.

    Args:
        value: the payload.
        key: the request id, unless a header `ce_id` says it.
        headers: as Kafka gives them.
        timestamp: when it arrived, in seconds since the epoch, see `schemas.clock.arrival`.
        specs: the models served, by name.
        default_model: the model of a request that names none; None: such a request is refused.
        max_ahead: how many seconds after its arrival a request may say that it was sent.

    Raises:
        Refusal: whatever is wrong with the message; never anything else, whatever bytes come in.
    """
    payload = _checked_value(value)
    found = {name.lower(): (name, content) for name, content in headers or () if content is not None}
    body = _body_reader(found)(payload)
    spec = facts.model_spec(found, body.model, specs, default_model)
    try:
        return _decoded(body, key, found, facts.sent_at(found, body.sent_at, timestamp, max_ahead), spec)
    except Refusal as refusal:
        refusal.model = spec.name
        raise


def _decoded(
    body: Body, key: bytes | None, found: facts.FoundHeaders, sent_at: float, spec: ModelSpec
) -> DecodedRequest:
    images = body.images(spec.input)
    return DecodedRequest(
        request_ids=facts.request_ids(key, found, body.request_id, len(images)),
        images=images,
        model=spec.name,
        attributes=facts.attributes(found, body.attributes),
        sent_at=sent_at,
        deadline=facts.moment(found, DEADLINE, "deadline", body.deadline),
        traceparent=facts.traceparent(found),
        options=body.options,
    )


def _checked_value(value: bytes | None) -> bytes:
    if not value:
        raise Refusal(Reason.EMPTY_VALUE, "the message has no value; send an image or a tensor")
    if len(value) > MAX_REQUEST_BYTES:
        raise Refusal(Reason.OVERSIZE, f"{len(value)} bytes; a request may have {MAX_REQUEST_BYTES}: send several")
    return value


def _body_reader(headers: facts.FoundHeaders) -> Callable[[bytes], Body]:
    """The reader for the message's content type; parameters such as `charset` are ignored.

    A request of V2's binary extension is told by its header, whatever its content type.
    """
    if HEADER_LENGTH in headers:
        return partial(binary_v2_body, header_length=headers[HEADER_LENGTH][1])
    _, content_type = headers.get(CONTENT_TYPE, ("", b""))
    media_type = content_type.partition(b";")[0].strip().lower().decode(errors="replace")
    reader = _BODIES.get(_OTHER_SPELLINGS.get(media_type, media_type))
    if reader is None:
        found = f"found {brief(content_type)}" if content_type else "there is none"
        accepted = ", ".join(CONTENT_TYPES)
        raise Refusal(Reason.UNKNOWN_CONTENT_TYPE, f"header {CONTENT_TYPE}: {found}; accepted: {accepted}")
    return reader
