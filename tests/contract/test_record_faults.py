"""What the sink does when the record store is busy, away or refusing; the store is real, the faults are a proxy's."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime.elasticsearch_sink import Record, RecordSink
from runtime.embedded import EmbeddedServers
from runtime.errors import ConfigurationError
from runtime.metrics import CommonMetrics
from tests.servers.flaky_store import DROP
from tests.servers.record_bench import bench, flaky_bench, run

BUSY_DOCUMENT = (429, "es_rejected_execution_exception")
BUSY = (429, {"error": {"type": "es_rejected_execution_exception"}, "status": 429})
AWAY = (503, {"error": {"type": "unavailable_shards_exception"}, "status": 503})


def deliveries() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "_deliver" in repr(task)]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("id", ["", "x" * 513, "\U0001f69a" * 256], ids=["empty", "long", "long in bytes"])
def test_a_document_whose_id_the_store_refuses_holds_nothing_up(
    embedded: EmbeddedServers, unique: str, id: str
) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            # Elasticsearch refuses the whole request for such an id; the embedded store takes it.
            store.poison = {id}
            await made.sink.write([*made.numbers(20), made.record(id, {"number": 1}), *made.numbers(40)[20:]])
            assert set(await made.stored()) == {str(number) for number in range(40)}
            assert [rejected for rejected, _ in made.rejected] == [id]
            assert len(store.bulks) < 20

    run(test())


def test_a_bulk_that_is_too_large_for_the_store_is_split(embedded: EmbeddedServers, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            store.failures.append((413, {"error": {"type": "content_too_large"}, "status": 413}))
            await made.sink.write(made.numbers(10))
            assert [len(bulk.ids) for bulk in store.bulks] == [10, 5, 5]
            assert len(await made.stored()) == 10

    run(test())


def test_only_the_documents_that_failed_are_sent_again(embedded: EmbeddedServers, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            store.refuse_once = {
                "3": BUSY_DOCUMENT,
                "5": (409, "version_conflict_engine_exception"),
                "7": (503, "unavailable_shards_exception"),
                "8": (403, "cluster_block_exception"),
                "9": (404, "index_not_found_exception"),
            }
            await made.sink.write(made.numbers(20))
            assert [bulk.ids for bulk in store.bulks[1:]] == [["3", "5", "7", "8", "9"]]
            assert await made.stored() == {str(number): {"number": number} for number in range(20)}
            assert [made.count(outcome) for outcome in ("written", "retried", "rejected")] == [20, 5, 0]

    run(test())


def test_records_under_one_id_are_stored_in_order_even_when_the_first_is_retried(
    embedded: EmbeddedServers, unique: str
) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            store.refuse_once = {"a": BUSY_DOCUMENT}
            values = [made.record("a", {"number": number}) for number in range(3)]
            await made.sink.write([*values, made.record("b", {"number": 0})])
            assert await made.stored() == {"a": {"number": 2}, "b": {"number": 0}}
            assert made.count("retried") == 1

    run(test())


def test_a_store_that_is_busy_or_cuts_the_line_gets_everything_in_the_end(
    embedded: EmbeddedServers, unique: str
) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            # aiohttp itself repeats a request once when a connection that it had kept is cut.
            store.failures.extend([BUSY, AWAY, (DROP, {}), (DROP, {}), AWAY])
            await made.sink.write(made.numbers(10))
            assert len(await made.stored()) == 10
            assert [made.count(outcome) for outcome in ("written", "retried", "rejected")] == [10, 40, 0]

    run(test())


def test_a_store_that_goes_away_during_a_write_and_returns_has_everything(tmp_path: Path, unique: str) -> None:
    async def test(servers: EmbeddedServers) -> None:
        async with bench(servers.elasticsearch, unique, max_documents=20, max_concurrent=2) as made:
            write = asyncio.create_task(made.sink.write(made.numbers(4000)))
            await until(lambda: made.count("written") >= 400)
            servers.stop()
            assert made.count("written") < 4000
            await until(lambda: made.count("retried") > 0)
            assert not write.done()
            servers.start()
            await write
            assert await made.stored() == {str(number): {"number": number} for number in range(4000)}
            assert (made.count("written"), made.rejected) == (4000, [])

    with EmbeddedServers(tmp_path) as servers:
        run(test(servers))


def test_bulk_requests_are_bounded_in_documents_and_bytes(embedded: EmbeddedServers, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique, max_documents=30, max_bytes=10_000) as (store, made):
            large = [made.record(f"large-{number}", {"name": "x" * 4000}) for number in range(6)]
            huge = made.record("huge", {"name": "x" * 30_000})
            await made.sink.write([*made.numbers(100), *large, huge, made.record("last", {"number": 1})])
            assert len(await made.stored()) == 108
            assert max(len(bulk.ids) for bulk in store.bulks) == 30
            assert all(bulk.size <= 10_000 or bulk.ids == ["huge"] for bulk in store.bulks)
            assert len(store.bulks) <= 4 + 3 + 2

    run(test())


def test_no_more_bulk_requests_than_allowed_are_under_way_over_all_writes(
    embedded: EmbeddedServers, unique: str
) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique, max_documents=10, max_concurrent=3) as (store, made):
            store.delay = 0.02
            await asyncio.gather(*(made.sink.write(made.numbers(50)) for _ in range(4)))
            assert store.most_at_once == 3

    run(test())


def test_a_cancelled_write_leaves_no_task_behind(embedded: EmbeddedServers, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique, max_documents=10) as (store, made):
            store.failures.extend([AWAY] * 1000)
            write = asyncio.create_task(made.sink.write(made.numbers(200)))
            await until(lambda: made.count("retried") >= 20)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            sent = len(store.bulks)
            await asyncio.sleep(0.2)
            assert len(store.bulks) == sent
            assert deliveries() == []

    run(test())


def test_a_dead_letter_that_cannot_be_written_ends_the_write_and_all_of_it(
    embedded: EmbeddedServers, unique: str
) -> None:
    async def no_dead_letters(record: Record, reason: str) -> None:
        raise ConnectionResetError(f"no broker for {record.id}")

    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            store.refuse_once = {"0": BUSY_DOCUMENT}
            metrics = CommonMetrics(CollectorRegistry(), "test")
            sink = RecordSink(made.client, metrics, no_dead_letters, max_documents=1, max_concurrent=1, first_wait=5)
            write = asyncio.create_task(sink.write([made.record("bad", {"colour": "red"}), *made.numbers(20)]))
            with pytest.raises(ConnectionResetError, match="no broker for bad"):
                await write
            assert deliveries() == []

    run(test())


@pytest.mark.parametrize(
    ("status", "error", "advice"),
    [
        (401, "security_exception", "MODELWATCH_ELASTICSEARCH_API_KEY"),
        (403, "security_exception", "MODELWATCH_ELASTICSEARCH_API_KEY"),
        (400, "media_type_header_exception", "version"),
        (405, "method_not_allowed", "ELASTICSEARCH_URL"),
    ],
)
def test_a_store_that_will_not_deal_with_us_is_a_wrong_setting_and_no_fault_of_the_documents(
    embedded: EmbeddedServers, unique: str, status: int, error: str, advice: str
) -> None:
    async def test() -> None:
        async with flaky_bench(embedded.elasticsearch, unique) as (store, made):
            store.failures.append((status, {"error": {"type": error, "reason": "told to"}, "status": status}))
            with pytest.raises(ConfigurationError, match=advice):
                await made.sink.write(made.numbers(3))
            assert made.rejected == []

    run(test())
