"""Writing records to Elasticsearch: in bounded bulks, again and again until each is stored or refused for good."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, cast

import orjson

from elasticsearch import ApiError, AsyncElasticsearch, ConnectionTimeout, TransportError, UnsupportedProductError
from runtime.errors import ConfigurationError
from runtime.logging import get_logger
from runtime.metrics import CommonMetrics
from runtime.settings import Settings

log = get_logger(__name__)

MAX_DOCUMENTS = 500
MAX_BYTES = 5 << 20
MAX_CONCURRENT = 4
FIRST_WAIT_SECONDS = 0.2
MAX_WAIT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
CONFLICT_RETRIES = 3
GROWTH = 16
"""Bulks are halved when the store does not answer in time, and grow by this part of the largest with each answer to one
of that size."""

BUSY_STATUS = {408, 409, 429}
"""Besides 5xx: about the moment, not about the document."""
DENIED_STATUS = {401, 403}
TOO_LARGE = 413
STORE_FAULTS = {"index_not_found_exception", "index_closed_exception", "validation_exception"}
"""With status 400 or 404, and yet not about the document: index creation is off, an index is closed, or the cluster's
limit of shards is reached and today's index cannot be made."""
NOT_SUPPORTED = "media_type_header_exception"
"""What a server of an older major version answers to this client, with status 400."""


@dataclass(frozen=True, slots=True)
class Record:
    """One document on its way to the store.

    Attributes:
        index: name of the index.
        id: the document's id; writing twice under one id has the effect of writing once.
        document: the fields, or the JSON object that holds them.
        kind: label `index` of the metric: one of a few, where the index itself has a day in its name.
        mode: `update` sets these fields and leaves the document's others; `index` replaces the document.
        source: what becomes a dead letter if the store refuses the record: the consumed message that it was made of, or
            a `schemas.letters.Source`.
    """

    index: str
    id: str
    document: dict[str, Any] | bytes
    kind: str
    mode: Literal["update", "index"] = "update"
    source: Any = None


OnRejected = Callable[[Record, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Action:
    """A record, and its two lines of a bulk request's body."""

    record: Record
    lines: bytes


class _Verdict(Enum):
    WRITTEN = "written"
    RETRIED = "retried"
    REJECTED = "rejected"


class RecordSink:
    """Writes records until they are safe.

    Args:
        on_rejected: gets each record that the store will never take, and why. What it raises ends the `write`.
        max_documents: of one bulk request.
        max_bytes: of one bulk request's body; a larger document goes alone.
        max_concurrent: bulk requests under way at once over all `write` calls; further ones wait.
        first_wait: seconds before the first retry; doubled each time, with jitter, up to `max_wait`.
    """

    def __init__(
        self,
        client: AsyncElasticsearch,
        metrics: CommonMetrics,
        on_rejected: OnRejected,
        *,
        max_documents: int = MAX_DOCUMENTS,
        max_bytes: int = MAX_BYTES,
        max_concurrent: int = MAX_CONCURRENT,
        first_wait: float = FIRST_WAIT_SECONDS,
        max_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._on_rejected = on_rejected
        self._max_documents = max_documents
        self._size = max_documents
        self._max_bytes = max_bytes
        self._slots = asyncio.Semaphore(max_concurrent)
        self._first_wait = first_wait
        self._max_wait = max_wait
        self._under_way: list[tuple[set[tuple[str, str]], asyncio.Event]] = []

    async def write(self, records: Sequence[Record]) -> None:
        """Return when each record is stored, or was given to `on_rejected`.

        Records under one id are stored in the order given, also by several calls at once. A store that is away or busy
        is waited for without end.

        Raises:
            ConfigurationError: the store refuses our credentials, or is none that this client can talk to.
        """
        async with self._after_earlier({(record.index, record.id) for record in records}):
            for wave in _waves(records):
                actions = await self._encode(wave)
                bulks = _bulks(actions, self._max_documents, self._max_bytes)
                await _all_or_none(self._deliver(bulk) for bulk in bulks)

    @asynccontextmanager
    async def _after_earlier(self, ids: set[tuple[str, str]]) -> AsyncIterator[None]:
        """Wait for the calls before that write any of these documents, too."""
        earlier = [ended for others, ended in self._under_way if not ids.isdisjoint(others)]
        own = ids, asyncio.Event()
        self._under_way.append(own)
        try:
            for ended in earlier:
                await ended.wait()
            yield
        finally:
            self._under_way.remove(own)
            own[1].set()

    async def _encode(self, records: Iterable[Record]) -> list[_Action]:
        actions = []
        for record in records:
            try:
                actions.append(_Action(record, _lines(record)))
            except TypeError as error:
                await self._reject(record, f"the document cannot be written as JSON: {error}")
        return actions

    async def _deliver(self, actions: list[_Action]) -> None:
        async with self._slots:
            wait = self._first_wait
            while actions:
                sent, rest = actions[: self._size], actions[self._size :]
                remaining = await self._attempt(sent)
                actions = remaining + rest
                if len(remaining) < len(sent):
                    wait = self._first_wait
                if remaining:
                    self._count(remaining, _Verdict.RETRIED)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                    wait = min(2 * wait, self._max_wait)

    async def _attempt(self, actions: list[_Action]) -> list[_Action]:
        """Send one bulk request, and return the actions to send again."""
        lines = cast(Any, [action.lines for action in actions])
        try:
            response = await self._client.bulk(operations=lines)
        except ApiError as error:
            return await self._refused_whole(actions, error)
        except TransportError as error:
            log.warning("record store does not answer; trying again", error=str(error), documents=len(actions))
            if isinstance(error, ConnectionTimeout):
                self._size = max(1, len(actions) // 2)  # a slow store would not finish all of it the next time either
            return actions
        if len(actions) >= self._size:  # small ones tell nothing about what a whole one takes
            self._size = min(self._max_documents, self._size + max(1, self._max_documents // GROWTH))
        return await self._sort(actions, response["items"])

    async def _refused_whole(self, actions: list[_Action], error: ApiError) -> list[_Action]:
        """The request as a whole was refused: for the moment, for good, or because of one of its documents."""
        status = error.status_code
        if status in BUSY_STATUS or status >= 500:
            log.warning("record store is busy; trying again", status=status, error=str(error), documents=len(actions))
            return actions
        if isinstance(error, UnsupportedProductError) or status not in (400, TOO_LARGE) or NOT_SUPPORTED in str(error):
            raise _not_ours_to_retry(error)
        if len(actions) > 1:
            middle = len(actions) // 2
            return [*await self._attempt(actions[:middle]), *await self._attempt(actions[middle:])]
        await self._reject(actions[0].record, f"{status} {error.body or error}")
        return []

    async def _sort(self, actions: list[_Action], items: list[dict[str, Any]]) -> list[_Action]:
        """Go through the answers, one a document in the order sent, and return the actions to send again."""
        remaining, causes = [], Counter[str]()
        for action, item in zip(actions, items, strict=True):
            answer = next(iter(item.values()))
            verdict = _judge(answer)
            if verdict is _Verdict.WRITTEN:
                self._count([action], verdict)
            elif verdict is _Verdict.REJECTED:
                await self._reject(action.record, f"{answer['status']} {_reason(answer)}")
            else:
                remaining.append(action)
                causes[f"{answer['status']} {answer.get('error', {}).get('type', '')}"] += 1
        if remaining:
            log.warning("record store did not take some documents; trying again", causes=dict(causes))
        return remaining

    async def _reject(self, record: Record, reason: str) -> None:
        await self._on_rejected(record, reason)
        self._metrics.records.labels(record.kind, _Verdict.REJECTED.value).inc()

    def _count(self, actions: Iterable[_Action], verdict: _Verdict) -> None:
        for kind, number in Counter(action.record.kind for action in actions).items():
            self._metrics.records.labels(kind, verdict.value).inc(number)


def client_from_settings(settings: Settings) -> AsyncElasticsearch:
    """The record store's client. It retries nothing by itself: `RecordSink` does, and counts it.

    Raises:
        ConfigurationError: the URL or the certificate file is wrong.
    """
    key, ca_certs = settings.elasticsearch_api_key, settings.elasticsearch_ca_certs
    options: dict[str, Any] = {"ca_certs": str(ca_certs)} if ca_certs else {}
    try:
        return AsyncElasticsearch(
            settings.elasticsearch_url,
            api_key=key.get_secret_value() if key else None,
            request_timeout=REQUEST_SECONDS,
            max_retries=0,
            retry_on_timeout=False,
            **options,
        )
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"no client for the record store can be made: {error}; write ELASTICSEARCH_URL as https://host:port, "
            "and MODELWATCH_ELASTICSEARCH_CA_CERTS as the path of a PEM file"
        ) from error


def _lines(record: Record) -> bytes:
    target: dict[str, Any] = {"_index": record.index, "_id": record.id}
    document = record.document if isinstance(record.document, bytes) else orjson.dumps(record.document)
    # A line break ends the document in the bulk format; inside JSON strings there are none, so all are mere layout.
    document = document.replace(b"\n", b" ").replace(b"\r", b" ")
    if record.mode == "index":
        return orjson.dumps({"index": target}) + b"\n" + document + b"\n"
    action = orjson.dumps({"update": target | {"retry_on_conflict": CONFLICT_RETRIES}})
    return action + b'\n{"doc":' + document + b',"doc_as_upsert":true}\n'


def _waves(records: Iterable[Record]) -> list[list[Record]]:
    """Split so that no wave has an id twice: the second is sent when the first is safe, whatever was retried."""
    waves: list[list[Record]] = []
    seen = Counter[tuple[str, str]]()
    for record in records:
        key = (record.index, record.id)
        if seen[key] == len(waves):
            waves.append([])
        waves[seen[key]].append(record)
        seen[key] += 1
    return waves


def _bulks(actions: Iterable[_Action], max_documents: int, max_bytes: int) -> Iterator[list[_Action]]:
    bulk: list[_Action] = []
    size = 0
    for action in actions:
        if bulk and (len(bulk) == max_documents or size + len(action.lines) > max_bytes):
            yield bulk
            bulk, size = [], 0
        bulk.append(action)
        size += len(action.lines)
    if bulk:
        yield bulk


def _judge(answer: dict[str, Any]) -> _Verdict:
    status = answer["status"]
    if status < 300:
        return _Verdict.WRITTEN
    # What is denied for one index is a write block or a missing privilege, and no fault of the document either.
    if status >= 500 or status in BUSY_STATUS | DENIED_STATUS or answer.get("error", {}).get("type") in STORE_FAULTS:
        return _Verdict.RETRIED
    return _Verdict.REJECTED


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error", {})
    cause = error.get("caused_by", {}).get("reason")
    return f"{error.get('type')}: {error.get('reason')}" + (f" ({cause})" if cause else "")


def _not_ours_to_retry(error: ApiError) -> ConfigurationError:
    if error.status_code in DENIED_STATUS:
        advice = "check MODELWATCH_ELASTICSEARCH_API_KEY and the privileges of the key"
    else:
        advice = "is ELASTICSEARCH_URL that of an Elasticsearch of version 9 or 8.19?"
    return ConfigurationError(f"the record store refuses our requests: {error}; {advice}")


async def _all_or_none(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one fails or we are cancelled, cancel the others and wait for their end before raising."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
