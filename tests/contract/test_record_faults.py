"""What the sink does when the record store is busy, away or refusing; the store is real, the faults are a proxy's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime.elasticsearch_sink import FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS, Record, RecordSink
from runtime.embedded import EmbeddedServers
from runtime.errors import ConfigurationError
from runtime.metrics import CommonMetrics
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.flaky_store import DROP
from tests.servers.record_bench import Store, bench, flaky_bench, run, until

BUSY_DOCUMENT = (429, "es_rejected_execution_exception")
BUSY = (429, {"error": {"type": "es_rejected_execution_exception"}, "status": 429})
AWAY = (503, {"error": {"type": "unavailable_shards_exception"}, "status": 503})


def deliveries() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "_deliver" in repr(task)]


@pytest.mark.parametrize("id", ["", "x" * 513, "\U0001f69a" * 256], ids=["empty", "long", "long in bytes"])
def test_a_document_whose_id_the_store_refuses_holds_nothing_up(store: Store, unique: str, id: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            # Elasticsearch refuses the whole request for such an id; the embedded store takes it.
            if not store.real:
                flaky.poison = {id}
            await made.sink.write([*made.numbers(20), made.record(id, {"number": 1}), *made.numbers(40)[20:]])
            assert set(await made.stored()) == {str(number) for number in range(40)}
            assert [rejected for rejected, _ in made.rejected] == [id]
            assert len(flaky.bulks) < 20

    run(test())


def test_a_bulk_that_is_too_large_for_the_store_is_split(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.failures.append((413, {"error": {"type": "content_too_large"}, "status": 413}))
            await made.sink.write(made.numbers(10))
            assert [len(bulk.ids) for bulk in flaky.bulks] == [10, 5, 5]
            assert len(await made.stored()) == 10

    run(test())


def test_only_the_documents_that_failed_are_sent_again(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.refuse_once = {
                "3": BUSY_DOCUMENT,
                "5": (409, "version_conflict_engine_exception"),
                "7": (503, "unavailable_shards_exception"),
                "8": (403, "cluster_block_exception"),
                "9": (404, "index_not_found_exception"),
            }
            await made.sink.write(made.numbers(20))
            assert [bulk.ids for bulk in flaky.bulks[1:]] == [["3", "5", "7", "8", "9"]]
            assert await made.stored() == {str(number): {"number": number} for number in range(20)}
            assert [made.count(outcome) for outcome in ("written", "retried", "rejected")] == [20, 5, 0]

    run(test())


def test_records_under_one_id_are_stored_in_order_even_when_the_first_is_retried(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.refuse_once = {"a": BUSY_DOCUMENT}
            values = [made.record("a", {"number": number}) for number in range(3)]
            await made.sink.write([*values, made.record("b", {"number": 0})])
            assert await made.stored() == {"a": {"number": 2}, "b": {"number": 0}}
            assert made.count("retried") == 1

    run(test())


def test_a_store_that_is_busy_or_cuts_the_line_gets_everything_in_the_end(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            # aiohttp itself repeats a request once when a connection that it had kept is cut.
            flaky.failures.extend([BUSY, AWAY, (DROP, {}), (DROP, {}), AWAY])
            await made.sink.write(made.numbers(10))
            assert len(await made.stored()) == 10
            assert [made.count(outcome) for outcome in ("written", "retried", "rejected")] == [10, 40, 0]

    run(test())


def test_a_store_too_slow_for_a_whole_bulk_gets_smaller_ones_until_it_answers_in_time_and_larger_ones_again(
    store: Store, unique: str
) -> None:
    async def test() -> None:
        options = {"request_timeout": 0.5, "max_documents": 64, "max_concurrent": 1}
        async with flaky_bench(store.url, unique, **options) as (flaky, made):
            flaky.delay_each = 0.05  # 3.2 s for 64 documents
            await made.sink.write(made.numbers(64))
            assert len(await made.stored()) == 64
            assert made.count("written") == 64
            flaky.delay_each = 0.0
            await made.sink.write(made.numbers(3000))
            assert max(len(bulk.ids) for bulk in flaky.bulks[-10:]) == 64
            assert len(await made.stored()) == 3000

    run(test())


def test_small_bulks_that_are_answered_make_no_large_ones_of_those_that_were_not(store: Store, unique: str) -> None:
    async def test() -> None:
        options = {"request_timeout": 0.25, "max_documents": 64, "max_concurrent": 4}
        async with flaky_bench(store.url, unique, **options) as (flaky, made):
            flaky.delay_each = 0.03
            large = asyncio.create_task(made.sink.write(made.numbers(64)))
            number = 0
            while not large.done():
                await made.sink.write([made.record(f"small {number}", {"number": number})])
                number += 1
            await large
            assert number > 0
            assert len(await made.stored()) == 64 + number

    run(test())


def test_after_a_long_outage_the_next_attempt_is_seconds_away(
    store: Store, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def hurried(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async def test() -> None:
        waiting = {"first_wait": FIRST_WAIT_SECONDS, "max_wait": MAX_WAIT_SECONDS}
        async with flaky_bench(store.url, unique, **waiting) as (flaky, made):
            flaky.failures.extend([AWAY] * 20)
            monkeypatch.setattr("runtime.elasticsearch_sink.asyncio.sleep", hurried)
            await made.sink.write(made.numbers(1))
            monkeypatch.undo()
            assert len(await made.stored()) == 1

    run(test())
    assert [wait for wait in waits if wait < 1]
    assert 1 < max(waits) <= 5


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


@pytest.mark.real_elasticsearch
def test_elasticsearch_killed_during_a_write_has_everything_when_it_is_back(
    elasticsearch: Elasticsearch, unique: str
) -> None:
    async def test() -> None:
        async with bench(elasticsearch.url, unique, max_documents=20, max_concurrent=2) as made:
            write = asyncio.create_task(made.sink.write(made.numbers(4000)))
            await until(lambda: made.count("written") >= 400)
            elasticsearch.kill()
            assert made.count("written") < 4000
            await until(lambda: made.count("retried") > 0)
            elasticsearch.launch()  # from this thread, with which it would end
            await write
            assert await made.stored() == {str(number): {"number": number} for number in range(4000)}
            assert (made.count("written"), made.rejected) == (4000, [])

    run(test())


def test_bulk_requests_are_bounded_in_documents_and_bytes(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique, max_documents=30, max_bytes=10_000) as (flaky, made):
            large = [made.record(f"large-{number}", {"name": "x" * 4000}) for number in range(6)]
            huge = made.record("huge", {"name": "x" * 30_000})
            await made.sink.write([*made.numbers(100), *large, huge, made.record("last", {"number": 1})])
            assert len(await made.stored()) == 108
            assert max(len(bulk.ids) for bulk in flaky.bulks) == 30
            assert all(bulk.size <= 10_000 or bulk.ids == ["huge"] for bulk in flaky.bulks)
            assert len(flaky.bulks) <= 4 + 3 + 2

    run(test())


def test_no_more_bulk_requests_than_allowed_are_under_way_over_all_writes(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique, max_documents=10, max_concurrent=3) as (flaky, made):
            flaky.delay = 0.02
            await asyncio.gather(*(made.sink.write(made.numbers(50)) for _ in range(4)))
            assert flaky.most_at_once == 3

    run(test())


def test_a_cancelled_write_leaves_no_task_behind(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique, max_documents=10) as (flaky, made):
            flaky.failures.extend([AWAY] * 1000)
            write = asyncio.create_task(made.sink.write(made.numbers(200)))
            await until(lambda: made.count("retried") >= 20)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            sent = len(flaky.bulks)
            await asyncio.sleep(0.2)
            assert len(flaky.bulks) == sent
            assert deliveries() == []

    run(test())


def test_a_dead_letter_that_cannot_be_written_ends_the_write_and_all_of_it(store: Store, unique: str) -> None:
    async def no_dead_letters(record: Record, reason: str) -> None:
        raise ConnectionResetError(f"no broker for {record.id}")

    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.refuse_once = {"0": BUSY_DOCUMENT}
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
    store: Store, unique: str, status: int, error: str, advice: str
) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.failures.append((status, {"error": {"type": error, "reason": "told to"}, "status": status}))
            with pytest.raises(ConfigurationError, match=advice):
                await made.sink.write(made.numbers(3))
            assert made.rejected == []

    run(test())
