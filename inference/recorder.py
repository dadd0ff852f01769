"""Publishes the pairs of HTTP requests: an answer leaves only after its pair is safe with the brokers."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from inference.chunks import Part
from runtime.errors import TransientError
from runtime.logging import get_logger
from schemas.headers import PAIR_TYPE, WORKER_SOURCE, event_headers
from schemas.refusal import Reason, Refusal
from schemas.topics import PAIRS

log = get_logger(__name__)

CLOSE_SECONDS = 3.0
MAX_WAITING = 20_000
"""Pairs that may wait for acknowledgement."""


class Recorder:
    """An idempotent producer for use from the HTTP server's event loop.

    `poll` must be called often from a thread of the owner's, for the delivery reports.

    Args:
        new_producer: makes an idempotent producer; called again when one has failed for good.
    """

    def __init__(self, new_producer: Callable[[], Producer]) -> None:
        self._new_producer = new_producer
        self._producer = new_producer()

    async def record(self, part: Part, values: list[bytes], ce_time: str) -> None:
        """Publish the part's pairs, and wait until all are acknowledged.

        Raises:
            TransientError: the brokers did not acknowledge; the caller should ask again.
            Refusal: OVERSIZE, a pair is larger than the topic takes.
        """
        if len(self._producer) + len(values) > MAX_WAITING:
            raise TransientError("too many answers wait to be recorded; ask again later")
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()
        missing = len(values)

        def settle(error: KafkaError | None) -> None:
            nonlocal missing
            missing -= 1
            if delivered.done():
                return
            if error is not None:
                delivered.set_exception(_failure(error))
            elif missing == 0:
                delivered.set_result(None)

        def on_delivery(error: KafkaError | None, _message: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(settle, error)

        try:
            for request_id, value, traceparent in zip(part.request_ids, values, part.traceparents, strict=True):
                headers = event_headers(request_id, PAIR_TYPE, WORKER_SOURCE, ce_time, part.job.model, traceparent)
                self._producer.produce(PAIRS.name, value, request_id, headers=headers, on_delivery=on_delivery)
        except BufferError as error:
            raise TransientError(f"the answer could not be recorded: {error}; ask again") from error
        except KafkaException as error:
            raise _failure(error.args[0]) from error
        await delivered

    def poll(self, timeout: float) -> None:
        """Serve delivery reports for at most `timeout` seconds."""
        try:
            self._producer.poll(timeout)
        except KafkaException as error:
            self._replace_producer(error)

    def close(self) -> None:
        """Send what is left."""
        try:
            self._producer.flush(CLOSE_SECONDS)
        except KafkaException as error:
            log.warning("recorder_failed", cause=str(error))

    def _replace_producer(self, cause: KafkaException) -> None:
        """An idempotent producer does not recover from, say, brokers that have lost what they had acknowledged."""
        log.warning("recorder_restarts", cause=str(cause))
        broken, self._producer = self._producer, self._new_producer()
        broken.purge()
        with contextlib.suppress(KafkaException):
            broken.flush(CLOSE_SECONDS)  # tells everybody who waits for it


def _failure(error: KafkaError) -> Exception:
    """What the caller is told: a pair that is too large stays so, however often it is asked for."""
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        limit = PAIRS.max_message_bytes
        return Refusal(Reason.OVERSIZE, f"the pair of an image would have more than {limit} bytes; send smaller ones")
    return TransientError(f"the answer could not be recorded: {error.str()}; ask again")
