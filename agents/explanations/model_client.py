"""The worker's model over its V2 endpoint: batched, with time-outs, tried again until a deadline."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Sequence

import aiohttp
import numpy as np
import orjson
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from agents.explanations.explainer import DeadlinePassed, ModelUnavailable, Pixels, Probabilities
from schemas.headers import CONTENT_TYPE, DEADLINE, rfc3339
from schemas.payloads.encode import FORMATS
from schemas.topics import MAX_REQUEST_BYTES

NPY = FORMATS["npy"]
HEADER_BYTES = 1024
RECORD_OFF = {"x-modelwatch-record": "false"}
"""Nobody sent these images, so they must not become pairs."""
PART = 32
AT_ONCE = 8
"""Images of one request, and requests under way. Together half of what the worker lets wait, so that others may ask,
too; in small parts, so that explanations take turns and share batches."""
EXPIRED = 504
Answer = tuple[Probabilities, str | None]
"""And the version that gave it, where the worker says."""
OnVersion = Callable[[str | None], None]
"""Gets the version that gave an answer, and raises if it is the wrong one."""


class _Again(Exception):  # noqa: N818 - never leaves this module
    """The worker may answer if asked again."""


class ModelClient:
    """Asks workers. For one event loop.

    Args:
        urls: of workers that have the same models; another one is tried when one does not answer.
        timeout: seconds of one request.
        token: bearer token that the workers want.
        tls: whom to trust; None: the system's authorities.
    """

    def __init__(
        self, urls: Sequence[str], timeout: float, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._timeout = timeout
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = tls
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def predict(
        self, model: str, images: Pixels, deadline: float, on_version: OnVersion = lambda _: None
    ) -> Probabilities:
        """Probabilities (n, classes) of images (n, h, w, c) float32 in 0..1, or uint8.

        Args:
            deadline: on `time.monotonic`.

        Raises:
            DeadlinePassed: no answer until then; the text says what went wrong last.
            ModelUnavailable: the worker refuses the question.
            Exception: whatever `on_version` raises.
        """
        size = min(PART, max(1, (MAX_REQUEST_BYTES - HEADER_BYTES) // images[0].nbytes))
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        answers = await asyncio.gather(*(self._until(model, part, deadline) for part in parts))
        for _, version in answers:
            on_version(version)
        found = [probabilities for probabilities, _ in answers]
        return found[0] if len(found) == 1 else np.concatenate(found)

    async def _until(self, model: str, images: Pixels, deadline: float) -> Answer:
        failure: Exception | None = None
        first = random.randrange(len(self._urls))  # noqa: S311 - spreads load

        async def ask() -> Answer:
            nonlocal failure
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(_Again), wait=wait_random_exponential(multiplier=0.1, max=1), reraise=True
            ):
                with attempt:
                    number = attempt.retry_state.attempt_number - 1
                    try:
                        return await self._ask(self._urls[(first + number) % len(self._urls)], model, images, deadline)
                    except _Again as error:
                        failure = error
                        raise
            raise AssertionError  # tenacity goes on for ever

        try:
            return await asyncio.wait_for(ask(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise DeadlinePassed(str(failure) if failure else "the worker did not answer in time") from failure

    async def _ask(self, url: str, model: str, images: Pixels, deadline: float) -> Answer:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls or True)
            limit = aiohttp.ClientTimeout(total=self._timeout)
            self._session = aiohttp.ClientSession(connector=connector, timeout=limit, headers=self._authorization)
        until = rfc3339(time.time() + deadline - time.monotonic())
        headers = {CONTENT_TYPE: NPY.content_type, DEADLINE: until, **RECORD_OFF}
        try:
            asking = self._session.post(f"{url}/v2/models/{model}/infer", data=NPY.encode(images), headers=headers)
            async with self._slots, asking as answer:
                body = await answer.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise _Again(f"the worker at {url} does not answer: {type(error).__name__} {error}".rstrip()) from error
        said = f"{answer.status}: {body[:200].decode(errors='replace')}"
        if answer.status == EXPIRED or answer.status >= 500 or answer.status == 429:
            raise _Again(f"the worker at {url} answers {said}")
        if answer.status != 200:
            raise ModelUnavailable(
                f"the worker at {url} refuses: {answer.status} {body[:200].decode(errors='replace')}"
            )
        return _probabilities(body, len(images))


def _probabilities(body: bytes, count: int) -> Answer:
    try:
        answer = orjson.loads(body)
        output = answer["outputs"][0]
        version = answer.get("model_version")
        found = np.asarray(output["data"], np.float32).reshape(output["shape"])
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelUnavailable(f"the worker's answer is not of protocol V2: {error}") from error
    if found.ndim != 2 or len(found) != count:
        raise ModelUnavailable(f"the worker answers {found.shape} for {count} images")
    if not np.isfinite(found).all():
        raise ModelUnavailable("the worker answers with numbers that are not finite")
    return found, None if version is None else str(version)
