"""A chunk: the messages of one fetch, decoded into parts that can be computed, or refused. It is committed as a whole,
so however its parts are batched, the offsets committed never pass an unanswered request."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from inference.batcher import Job
from schemas.clock import arrival
from schemas.payloads import DecodedRequest
from schemas.refusal import Reason, Refusal

Headers = list[tuple[str, bytes | None]] | None
Decode = Callable[[bytes | None, bytes | None, Headers, float], DecodedRequest]


class KafkaMessage(Protocol):
    """What is used of a consumed message."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def headers(self) -> Headers: ...
    def timestamp(self) -> tuple[int, int]: ...
    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...


@dataclass(slots=True, eq=False)
class Source:
    """A message that requests came in.

    Attributes:
        headers: the message's, read once; None where they cannot be read.
    """

    message: KafkaMessage
    headers: Headers


@dataclass(slots=True)
class Part:
    """Requests that are computed as one job: same model, same dtype, at most one batch.

    Attributes:
        sources: the message of each; none of requests that came by HTTP.
        unusable: how many have no answer that can be published; known once they are computed.
    """

    job: Job
    request_ids: list[str]
    attributes: list[dict[str, str]]
    sent_at: list[float]
    deadlines: list[float | None]
    traceparents: list[bytes | None]
    sources: list[Source] = field(default_factory=list)
    unusable: int = 0


@dataclass(slots=True)
class Refused:
    """A message for the dead letters.

    Attributes:
        images: how many of its images it stands for.
    """

    source: Source
    refusal: Refusal
    images: int = 1


@dataclass(slots=True)
class Chunk:
    """One fetch.

    Attributes:
        received_at: when it was read, seconds since the epoch.
        group: the consumer group's metadata of the assignment under which it was read; a commit under a later
            assignment is refused by the broker.
        offsets: next offset to read, by topic and partition.
        nbytes: of its messages and their decoded images.
        on_end: called when it is committed, and its bytes are not needed any more.
    """

    received_at: float
    group: Any
    parts: list[Part] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    nbytes: int = 0
    on_end: Callable[[], None] = lambda: None


def build_chunk(
    messages: Iterator[KafkaMessage],
    decode: Decode,
    max_batch: Callable[[str], int],
    received_at: float,
    group: Any,
    limit: float = math.inf,
) -> Chunk:
    """Decode messages, and group what could be decoded by model and dtype into parts of at most one batch.

    Args:
        messages: taken one by one until there is none, or the chunk has `limit` bytes.
    """
    chunk = Chunk(received_at, group)
    groups: dict[tuple[str, np.dtype[Any]], list[tuple[DecodedRequest, Source]]] = {}
    for message in messages:
        chunk.offsets[message.topic(), message.partition()] = message.offset() + 1
        source = Source(message, None)
        try:
            source.headers = _read_headers(message)
            arrived = arrival(message.timestamp()[1] / 1000, received_at)
            request = decode(message.value(), message.key(), source.headers, arrived)
        except Refusal as refusal:
            chunk.refused.append(Refused(source, refusal))
        else:
            groups.setdefault((request.model, request.images.dtype), []).append((request, source))
            chunk.nbytes += request.images.nbytes
        chunk.nbytes += len(message.value() or b"")
        if chunk.nbytes >= limit:
            break
    for (model, _), found in groups.items():
        requests, sources = [request for request, _ in found], [source for _, source in found]
        chunk.parts.extend(split_parts(model, requests, max_batch(model), sources=sources))
    return chunk


def _read_headers(message: KafkaMessage) -> Headers:
    """The headers. Call it once a message: after a failure, confluent-kafka 2.16 answers with what must not be touched.

    Raises:
        Refusal: INVALID_HEADER, a name is not UTF-8.
    """
    try:
        return message.headers()
    except (SystemError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        raise Refusal(
            Reason.INVALID_HEADER, f"the name of a header is not UTF-8 ({cause}); the headers are left out here"
        ) from error


def split_parts(
    model: str,
    requests: list[DecodedRequest],
    size: int,
    interactive: bool = False,
    sources: Sequence[Source] = (),
) -> Iterable[Part]:
    """Requests of one model and dtype as parts of at most `size` images, in order.

    Args:
        sources: the message of each request, or none at all.
    """
    images = requests[0].images if len(requests) == 1 else np.concatenate([request.images for request in requests])
    ids: list[str] = []
    attributes: list[dict[str, str]] = []
    sent_at: list[float] = []
    deadlines: list[float | None] = []
    traceparents: list[bytes | None] = []
    origins = [source for request, source in zip(requests, sources, strict=False) for _ in request.request_ids]
    for request in requests:
        count = len(request.request_ids)
        ids += request.request_ids
        attributes += [request.attributes] * count
        sent_at += [request.sent_at] * count
        deadlines += [request.deadline] * count
        traceparents += [request.traceparent] * count
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        job = Job(model, images[rows], _deadline_array(deadlines[rows]), interactive)
        yield Part(job, ids[rows], attributes[rows], sent_at[rows], deadlines[rows], traceparents[rows], origins[rows])


def _deadline_array(deadlines: list[float | None]) -> Any:
    """Deadlines as an array with infinity for none, or None if there are none at all."""
    if all(deadline is None for deadline in deadlines):
        return None
    return np.array([math.inf if deadline is None else deadline for deadline in deadlines])
