"""One request id answered by several models and versions: each answer has its record, and is found by its names."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import numpy as np
import pytest

from agents.explanations.lookup import NotAnswered, PairLookup, SeveralAnswers, Sought, StoreAway
from agents.explanations.recent_pairs import KeptPair, RecentPairs
from agents.outliers.records import document_of, index_of
from agents.pairs import ReadPair, record_id_of
from elasticsearch import AsyncElasticsearch
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.record_indices import INFERENCES, apply_templates, index_of_day
from schemas.base import utc_now
from schemas.identity import record_id
from schemas.messages import InferencePair
from schemas.pairs import PairWriter
from tests.servers.flaky_store import FlakyStore
from tests.servers.record_bench import Bench, Store, client_of, flaky_bench, run

LABELS = ("cat", "dog")


def pair(request_id: str, model: str, version: str, primary: bool, predicted: int = 0) -> ReadPair:
    now = time.time()
    outputs = np.eye(2, dtype=np.float32)[predicted : predicted + 1]
    arguments = ([{}], [now], [None], outputs, [0.0], [0.0], 0.0, 1, now)
    [value] = PairWriter(model, version, "ab" * 32, LABELS, "cpu").encode(
        [request_id], np.zeros((1, 2, 2, 3), np.uint8), *arguments
    )
    found = InferencePair.model_validate_json(value)
    response = found.response.model_copy(update={"primary": primary})
    found = found.model_copy(update={"response": response})
    message = SimpleNamespace(value=found.model_dump_json().encode(), partition=0, offset=0, timestamp=now)
    return ReadPair(found, message)


async def record(sink: RecordSink, *pairs: ReadPair) -> None:
    records = [Record(index_of(read), record_id_of(read.pair), document_of(read, None), INFERENCES) for read in pairs]
    await sink.write(records)


async def named(lookup: PairLookup, request_id: str, model: str | None = None, version: str | None = None) -> str:
    """Model, version and answer of what is found."""
    found = await lookup.find(Sought(request_id, model, version), "anchors", 0.0)
    response = found.pair.response
    assert found.record_id == record_id(request_id, response.model, response.model_version, response.primary)
    return f"{response.model}:{response.model_version}:{response.label}"


def in_store(test: Callable[[PairLookup, Bench, AsyncElasticsearch], Awaitable[None]], store: Store) -> None:
    async def whole() -> None:
        async with client_of(store.url) as client:
            await apply_templates(client)
            made = Bench(client, index_of_day(INFERENCES, utc_now()))
            await test(PairLookup(RecentPairs(0, 0), client, 300.0), made, client)
            assert made.rejected == []

    run(whole())


def test_answers_of_two_models_and_versions_never_take_each_others_record(store: Store, unique: str) -> None:
    async def test(lookup: PairLookup, made: Bench, client: AsyncElasticsearch) -> None:
        own = [pair(unique, "m", "1", True), pair(unique, "n", "1", False, 1), pair(unique, "n", "2", False)]
        await record(made.sink, *own)
        await client.indices.refresh(index=made.index)
        assert await named(lookup, unique) == "m:1:cat"  # the primary one
        assert await named(lookup, unique, "n", "1") == "n:1:dog"
        assert await named(lookup, unique, "n", "2") == "n:2:cat"
        with pytest.raises(SeveralAnswers, match="n:1, n:2"):
            await named(lookup, unique, "n")
        with pytest.raises(NotAnswered, match="there is m:1, n:1, n:2"):
            await named(lookup, unique, "n", "3")
        explained = {"explanation": {"anchors": {"outcome": "ok", "model_version": "2"}}}
        await made.sink.write([Record(made.index, f"{unique}@n:2", explained, INFERENCES)])
        for version, outcome in (("1", None), ("2", "ok")):
            found = await lookup.find(Sought(unique, "n", version), "anchors", 0.0)
            assert found.record.get("explanation", {}).get("anchors", {}).get("outcome") == outcome

    in_store(test, store)


def test_an_id_that_only_another_model_answered_is_found_without_naming_it(store: Store, unique: str) -> None:
    async def test(lookup: PairLookup, made: Bench, client: AsyncElasticsearch) -> None:
        await record(made.sink, pair(unique, "n", "1", False, 1))
        await client.indices.refresh(index=made.index)
        assert await named(lookup, unique) == "n:1:dog"

    in_store(test, store)


def test_of_an_id_that_was_asked_again_the_last_answer_is_found_and_recorded(store: Store, unique: str) -> None:
    async def test(lookup: PairLookup, made: Bench, client: AsyncElasticsearch) -> None:
        await record(made.sink, pair(unique, "m", "1", True, 0))
        await record(made.sink, pair(unique, "m", "1", True, 1))
        await client.indices.refresh(index=made.index)
        assert await named(lookup, unique) == "m:1:dog"
        for predicted in (0, 1, 0):
            again = pair(unique, "m", "1", True, predicted)
            lookup._recent = RecentPairs(10, 1 << 20)
            lookup._recent.put(unique, KeptPair(again.message.value, again.message.timestamp))
            assert await named(lookup, unique) == f"m:1:{LABELS[predicted]}"

    in_store(test, store)


def test_what_is_not_among_the_latest_is_looked_for_in_the_store_although_others_are(store: Store, unique: str) -> None:
    async def test(lookup: PairLookup, made: Bench, client: AsyncElasticsearch) -> None:
        await record(made.sink, pair(unique, "m", "1", True, 1))
        await client.indices.refresh(index=made.index)
        lookup._recent = RecentPairs(10, 1 << 20)
        shadow = pair(unique, "n", "1", False)
        lookup._recent.put(unique, KeptPair(shadow.message.value, shadow.message.timestamp))
        assert await named(lookup, unique) == "m:1:dog"
        assert await named(lookup, unique, "n") == "n:1:cat"

    in_store(test, store)


def test_a_pair_from_the_future_or_under_another_key_is_not_found(store: Store, unique: str) -> None:
    async def test(lookup: PairLookup, _made: Bench, _client: AsyncElasticsearch) -> None:
        lookup._recent = RecentPairs(10, 1 << 20)
        early = pair(unique, "m", "1", True)
        lookup._recent.put(unique, KeptPair(early.message.value, early.message.timestamp - 1000))
        other = pair(f"{unique}-other", "m", "1", True)
        lookup._recent.put(unique, KeptPair(other.message.value, other.message.timestamp))
        lookup._recent.put(unique, KeptPair(b"garbage", time.time()))
        with pytest.raises(NotAnswered, match="no pair of id"):
            await named(lookup, unique)

    in_store(test, store)


def test_the_latest_pairs_are_found_while_the_store_is_away_and_others_are_not_denied(unique: str) -> None:
    async def test() -> None:
        async with client_of("http://127.0.0.1:1") as client:
            lookup = PairLookup(RecentPairs(10, 1 << 20), client, 300.0)
            own = pair(unique, "n", "1", False, 1)
            lookup._recent.put(unique, KeptPair(own.message.value, own.message.timestamp))
            assert await named(lookup, unique) == "n:1:dog"
            with pytest.raises(StoreAway):
                await named(lookup, f"{unique}-other")

    run(test())


def test_a_later_write_of_a_record_waits_for_an_earlier_one_that_is_tried_again(store: Store, unique: str) -> None:
    async def test() -> None:
        async with flaky_bench(store.url, unique) as (flaky, made):
            flaky.refuse_once = {"a": (429, "es_rejected_execution_exception")}
            writes = [asyncio.ensure_future(made.sink.write([made.record("a", {"number": 1})]))]
            await asyncio.sleep(0)
            writes.append(asyncio.ensure_future(made.sink.write([made.record("a", {"number": 2})])))
            await asyncio.gather(*writes)
            assert (await made.stored())["a"] == {"number": 2}

    run(test())


def test_writes_of_other_records_do_not_wait(store: Store, unique: str) -> None:
    async def test() -> None:
        async with FlakyStore(store.url) as flaky, client_of(flaky.url) as client:
            made = Bench(client, unique, first_wait=3600.0, max_wait=3600.0)
            flaky.refuse_once = {"a": (429, "es_rejected_execution_exception")}
            stuck = asyncio.ensure_future(made.sink.write([made.record("a", {"number": 1})]))
            await asyncio.sleep(0)
            await made.sink.write([made.record("b", {"number": 2})])
            assert not stuck.done()
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)

    run(test())
