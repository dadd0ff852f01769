"""From an HTTP request to the model's answer: read, decode, compute and record, within a time, and through a stop."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import numpy as np
from aiohttp import web

from inference.batcher import Answer, Batcher
from inference.budget import Budget
from inference.chunks import Part, split_parts
from inference.http.body import Held, read_body
from inference.outgoing import encode_part, unanswered
from inference.predictor import Outputs
from inference.recorder import Recorder
from runtime.metrics import WorkerMetrics, observe_many
from schemas.clock import elapsed
from schemas.headers import (
    ATTRIBUTE_PREFIX,
    CE_ID,
    CE_TIME,
    CONTENT_TYPE,
    DEADLINE,
    HEADER_LENGTH,
    JSON,
    MODEL,
    TRACEPARENT,
    rfc3339,
)
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.payloads import DecodedRequest, decode_request

RECORD_HEADER = "x-modelwatch-record"
FORWARDED = {name: name for name in (CONTENT_TYPE, DEADLINE, TRACEPARENT, CE_ID, CE_TIME, HEADER_LENGTH)} | {
    "ce-id": CE_ID,
    "ce-time": CE_TIME,
}
"""HTTP headers that mean what they mean in Kafka; CloudEvents spells its own with a hyphen in HTTP."""
CURLS_OWN = "application/x-www-form-urlencoded"
"""What curl calls a body unless it is told otherwise."""
RECENT_SECONDS = 60.0

CheckedForm = Callable[[DecodedRequest], None]
"""Raises `Refusal` where a request cannot be answered in the form that it wants."""


class TooSlow(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The body did not arrive in time."""


class OutOfTime(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The answer was not there in time."""


class Stopping(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The worker is about to end."""


@dataclass(slots=True, frozen=True)
class Asked:
    """A decoded request and what the model answered, in parts of at most one batch."""

    request: DecodedRequest
    answers: list[Answer]

    @property
    def expired(self) -> bool:
        """Whether its deadline, which is one for all its images, passed before they were computed."""
        return any(answer.expired is not None for answer in self.answers)

    @property
    def outputs(self) -> Outputs:
        """(images, labels) float32."""
        return np.concatenate([answer.outputs for answer in self.answers])

    @property
    def answer_id(self) -> str:
        """The id that the body gave; else the one that the request goes by."""
        given, ids = self.request.options.body_id, self.request.request_ids
        if isinstance(given, str) and given:
            return given
        return ids[0] if len(ids) == 1 else ids[0].removesuffix("-0")


class Asker:
    """Asks the models for HTTP callers.

    Args:
        pool: decodes bodies, so that a large one does not hold the event loop.
        recorder: publishes the pairs of answered requests.
        budget: bytes of bodies and images that may be in hand.
        timeout: seconds from a request's headers to its answer.
        max_ahead: seconds after its arrival that a request may say it was sent.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        batcher: Batcher,
        writers: Mapping[str, PairWriter],
        recorder: Recorder,
        metrics: WorkerMetrics,
        pool: Executor,
        budget: Budget,
        timeout: float,
        max_ahead: float,
    ) -> None:
        self._specs = specs
        self._batcher = batcher
        self._writers = writers
        self._recorder = recorder
        self._metrics = metrics
        self._pool = pool
        self._budget = budget
        self._timeout = timeout
        self._max_ahead = max_ahead
        self._in_hand: set[asyncio.Task[Asked]] = set()
        self._asked_at = -RECENT_SECONDS
        self.closing = False

    @property
    def recently_asked(self) -> bool:
        """Whether anybody asked in the last minute, and so may ask again."""
        return time.monotonic() - self._asked_at < RECENT_SECONDS

    async def ask(self, request: web.Request, model: str, check: CheckedForm) -> Asked:
        """The model's answer, its pairs recorded before anybody sees it.

        Args:
            check: called before anything is computed.

        Raises:
            Refusal: whatever is wrong with the request; UNUSABLE_ANSWER: there is no answer to one of its images, and
                nothing is recorded.
            Busy, Overloaded, TransientError: it may be asked again soon.
            Stopping: it should be asked elsewhere.
            TooSlow, OutOfTime: the body, or the answer, was not there in time.
        """
        if self.closing:
            raise Stopping("this worker is about to end; ask again, and another will answer")
        self._asked_at = time.monotonic()
        with Held(self._budget) as held:
            task = asyncio.ensure_future(self._ask(request, model, held, check))
            self._in_hand.add(task)
            try:
                done, _ = await asyncio.wait({task}, timeout=self._timeout)
            finally:
                self._in_hand.discard(task)
                task.cancel()
            await asyncio.wait({task})
            if not done:
                raise self._late(held)
        if task.cancelled():
            raise Stopping("this worker ends before it could answer; ask again, and another will")
        return task.result()

    def _late(self, held: Held) -> Exception:
        within = f"within {self._timeout:g} s (MODELWATCH_HTTP_TIMEOUT_SECONDS)"
        if not held.whole:
            return TooSlow(f"the body did not arrive {within}; send it faster, or fewer images at once")
        return OutOfTime(f"there was no answer {within}; ask again later")

    async def drain(self, timeout: float) -> None:
        """Wait until everything in hand is answered; after `timeout` seconds, the rest is told to ask elsewhere."""
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=timeout)
        for task in self._in_hand:
            task.cancel()

    async def _ask(self, request: web.Request, model: str, held: Held, check: CheckedForm) -> Asked:
        received_at = time.time()
        decoded = await self._decoded(request, model, held, received_at)
        check(decoded)
        parts = list(split_parts(decoded.model, [decoded], self._specs[decoded.model].max_batch, interactive=True))
        answers = await self._compute(parts)
        self._check_usable(decoded.model, parts, answers)
        if _wants_record(request, decoded):
            await self._record(decoded.model, parts, answers, received_at)
        latency = elapsed(received_at, time.time())
        observe_many(self._metrics.request_latency.labels(model, "http"), [latency] * len(decoded.request_ids))
        observe_many(self._metrics.queue.labels(model), [elapsed(received_at, answer.started_at) for answer in answers])
        return Asked(decoded, answers)

    async def _decoded(self, request: web.Request, model: str, held: Held, received_at: float) -> DecodedRequest:
        body = await read_body(request, held)
        headers = _kafka_headers(request, model)
        arguments = (body, None, headers, received_at, self._specs, model, self._max_ahead)
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(self._pool, decode_request, *arguments)
        held.set(decoded.images.nbytes)
        return decoded

    async def _compute(self, parts: list[Part]) -> list[Answer]:
        """All parts' answers; where there is none any more for one, or nobody to wait, the rest is not computed."""
        waiting: list[asyncio.Future[Answer]] = []
        try:
            for part in parts:
                waiting.append(asyncio.wrap_future(self._batcher.submit(part.job)))
            return list(await asyncio.gather(*waiting))
        finally:
            for one in waiting:
                one.cancel()

    def _check_usable(self, model: str, parts: list[Part], answers: list[Answer]) -> None:
        for part, answer in zip(parts, answers, strict=True):
            unusable = self._writers[model].unusable(answer.outputs)
            if unusable is not None:
                raise unanswered(model, [part.request_ids[row] for row in unusable.nonzero()[0]])

    async def _record(self, model: str, parts: list[Part], answers: list[Answer], received_at: float) -> None:
        answered_at = time.time()
        for part, answer in zip(parts, answers, strict=True):
            values = encode_part(self._writers[model], part, answer, received_at, answered_at)
            await self._recorder.record(part, [one for one in values if one is not None], rfc3339(answered_at))


def _kafka_headers(request: web.Request, model: str) -> list[tuple[str, bytes | None]]:
    """The headers that mean the same on Kafka, and the model of the path."""
    headers: list[tuple[str, bytes | None]] = [(MODEL, sent_bytes(model))]
    for spelled, value in request.headers.items():
        name = spelled.lower()
        if name == CONTENT_TYPE and value.partition(";")[0].strip().lower() == CURLS_OWN:
            value = JSON.decode()
        if name in FORWARDED or name.startswith(ATTRIBUTE_PREFIX):
            sent = sent_bytes(value)
            # CloudEvents' HTTP binding, 3.1.3.2: what is not printable ASCII is percent-encoded.
            headers.append((FORWARDED.get(name, name), unquote_to_bytes(sent) if name.startswith("ce-") else sent))
    if CONTENT_TYPE not in request.headers:
        headers.append((CONTENT_TYPE, JSON))
    return headers


def sent_bytes(text: str) -> bytes:
    """What the caller sent: aiohttp puts surrogates for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape")


def _wants_record(request: web.Request, decoded: DecodedRequest) -> bool:
    """Whether the pairs are published: yes, unless the caller says no (explanations ask about images nobody sent)."""
    if request.headers.get(RECORD_HEADER, "").lower() == "false":
        return False
    parameters = decoded.options.parameters
    return not (isinstance(parameters, dict) and parameters.get("record") is False)
