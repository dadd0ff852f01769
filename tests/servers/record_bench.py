"""A sink before a real record store, with what came out of it, for tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from elasticsearch import AsyncElasticsearch
from runtime.elasticsearch_sink import Record, RecordSink, client_from_settings
from runtime.metrics import CommonMetrics
from runtime.settings import Settings
from tests.servers.flaky_store import FlakyStore

MAPPING = {
    "dynamic": "strict",
    "properties": {
        "number": {"type": "integer"},
        "name": {"type": "keyword"},
        "response": {"properties": {"label": {"type": "keyword"}}},
        "outlier": {"properties": {"score": {"type": "double"}}},
    },
}
FAST = {"first_wait": 0.01, "max_wait": 0.05}


@dataclass(frozen=True)
class Store:
    """A record store, and whether it is Elasticsearch itself or the embedded one."""

    url: str
    real: bool


class Bench:
    """A sink with the client it writes by, and what came out of it."""

    def __init__(
        self, client: AsyncElasticsearch, index: str, request_timeout: float | None = None, **options: Any
    ) -> None:
        self.client = client
        self.index = index
        self.rejected: list[tuple[str, str]] = []
        self.registry = CollectorRegistry()
        writer = client.options(request_timeout=request_timeout) if request_timeout else client
        self.sink = RecordSink(writer, CommonMetrics(self.registry, "test"), self._on_rejected, **(FAST | options))

    async def _on_rejected(self, record: Record, reason: str) -> None:
        self.rejected.append((record.id, reason))

    def record(self, id: str, document: dict[str, Any] | bytes, mode: Any = "update") -> Record:
        return Record(self.index, id, document, "inferences", mode)

    def numbers(self, count: int) -> list[Record]:
        return [self.record(str(number), {"number": number}) for number in range(count)]

    def count(self, outcome: str) -> float:
        labels = {"index": "inferences", "outcome": outcome}
        return self.registry.get_sample_value("modelwatch_records_total", labels) or 0.0

    async def stored(self) -> dict[str, Any]:
        await self.client.indices.refresh(index=self.index)
        found = await self.client.search(index=self.index, size=10_000)
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[AsyncElasticsearch]:
    """A client as the agents have it."""
    client = client_from_settings(Settings(elasticsearch_url=url))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def bench(url: str, index: str, **options: Any) -> AsyncIterator[Bench]:
    """A sink to an index of that name with `MAPPING`."""
    async with client_of(url) as client:
        await client.indices.create(index=index, mappings=MAPPING)
        yield Bench(client, index, **options)


@asynccontextmanager
async def flaky_bench(target: str, index: str, **options: Any) -> AsyncIterator[tuple[FlakyStore, Bench]]:
    """The same, with a proxy between that fails on demand."""
    async with FlakyStore(target) as store, bench(store.url, index, **options) as made:
        yield store, made


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; an AssertionError after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end, within a minute and leaving no task behind."""

    async def bounded() -> None:
        await asyncio.wait_for(test, 60)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(bounded())
