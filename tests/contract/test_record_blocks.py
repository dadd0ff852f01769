"""States of Elasticsearch in which it takes no document, whatever it holds: all are stored when the state has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from elasticsearch import AsyncElasticsearch
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.record_bench import MAPPING, Bench, bench, run, until

pytestmark = pytest.mark.real_elasticsearch
Change = Callable[[AsyncElasticsearch, str], Awaitable[Any]]
HELD_SECONDS = 0.3
"""How long a state lasts: some retries."""


@dataclass(frozen=True)
class State:
    """How it is brought about in an index and ended, and with which status and type of error it shows."""

    begin: Change
    end: Change
    status: int
    error: str


def block(name: str, status: int) -> State:
    def setting(value: bool | None) -> Change:
        return lambda client, index: client.indices.put_settings(index=index, settings={f"index.blocks.{name}": value})

    return State(setting(True), setting(None), status, "cluster_block_exception")


def cluster(name: str, value: Any, status: int, error: str) -> State:
    """A setting of the whole cluster by which the index, which is not there, cannot be made."""

    async def begin(client: AsyncElasticsearch, index: str) -> None:
        await client.indices.delete(index=index)
        await client.cluster.put_settings(persistent={name: value})

    async def end(client: AsyncElasticsearch, index: str) -> None:
        await client.cluster.put_settings(persistent={name: None})

    return State(begin, end, status, error)


STATES = {
    # What Elasticsearch sets by itself when its disk is nearly full (flood stage), and what an operator may set.
    "disk full": block("read_only_allow_delete", 429),
    "read only": block("read_only", 403),
    "writes blocked": block("write", 403),
    "closed": State(
        lambda client, index: client.indices.close(index=index),
        lambda client, index: client.indices.open(index=index),
        400,
        "index_closed_exception",
    ),
    "no creation": cluster("action.auto_create_index", "false", 404, "index_not_found_exception"),
    "shards used up": cluster("cluster.max_shards_per_node", 1, 400, "validation_exception"),
}


async def refusal(made: Bench) -> tuple[int, str]:
    """How the store answers a document now."""
    operations = [{"update": {"_index": made.index, "_id": "0"}}, {"doc": {"number": 0}, "doc_as_upsert": True}]
    answer = (await made.client.bulk(operations=operations))["items"][0]["update"]
    return answer["status"], answer["error"]["type"]


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_documents_wait_for_the_end_of_a_state_that_is_not_their_fault(
    elasticsearch: Elasticsearch, unique: str, state: State
) -> None:
    async def test() -> None:
        async with bench(elasticsearch.url, unique) as made, bench(elasticsearch.url, f"{unique}-other"):
            await state.begin(made.client, unique)
            try:
                assert await refusal(made) == (state.status, state.error)
                write = asyncio.create_task(made.sink.write(made.numbers(50)))
                await asyncio.sleep(HELD_SECONDS)
                assert (made.count("written"), made.rejected, write.done()) == (0, [], False)
            finally:
                await state.end(made.client, unique)
            await write
            assert await made.stored() == {str(number): {"number": number} for number in range(50)}
            assert (made.count("written"), made.rejected) == (50, [])
            assert made.count("retried") >= 50

    run(test())


def test_a_block_of_one_index_holds_up_no_other(elasticsearch: Elasticsearch, unique: str) -> None:
    async def test() -> None:
        async with bench(elasticsearch.url, unique) as made:
            other = f"{unique}-other"
            await made.client.indices.create(index=other, mappings=MAPPING)
            full = STATES["disk full"]
            await full.begin(made.client, unique)
            elsewhere = [replace(record, index=other) for record in made.numbers(10)]
            write = asyncio.create_task(made.sink.write([*made.numbers(10), *elsewhere]))
            await until(lambda: made.count("written") == 10)
            await full.end(made.client, unique)
            await write
            await made.client.indices.refresh(index=other)
            assert len(await made.stored()) == (await made.client.count(index=other))["count"] == 10
            assert (made.count("written"), made.rejected) == (20, [])

    run(test())
