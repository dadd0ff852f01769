"""Results are safe when `publish` returns, in the order given, and dead letters are whole."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime import kafka
from runtime.errors import FatalError
from runtime.metrics import CommonMetrics
from runtime.results import DeadLetters, Outgoing, Results
from runtime.settings import Settings
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS
from tests.conftest import TopicFactory
from tests.servers.messages import read


@dataclass
class Source:
    key: bytes | None
    value: bytes | None
    headers: list[Any] = field(default_factory=list)
    topic: str = "inference.pairs"
    partition: int = 3
    offset: int = 77


def with_results(settings: Settings, use: Callable[[Results], Awaitable[None]]) -> None:
    async def whole() -> None:
        results = Results(settings, asyncio.get_running_loop())
        try:
            await use(results)
        finally:
            results.close()

    asyncio.run(whole())


def test_messages_are_in_the_log_in_the_order_of_the_calls(kafka_settings: Settings, topic: TopicFactory) -> None:
    name = topic(1)

    async def use(results: Results) -> None:
        calls = [results.publish([Outgoing(name, "k", f"{call}-{n}".encode()) for n in range(50)]) for call in range(4)]
        await asyncio.gather(*calls)

    with_results(kafka_settings, use)
    assert [message.value().decode() for message in read(kafka_settings, name, 200)] == [
        f"{call}-{number}" for call in range(4) for number in range(50)
    ]


def test_partition_time_and_an_absent_value_are_as_given(kafka_settings: Settings, topic: TopicFactory) -> None:
    name, moment = topic(4), int(time.time() * 1000) - 60_000

    async def use(results: Results) -> None:
        await results.publish([Outgoing(name, "m", None, [], 2, moment)])

    with_results(kafka_settings, use)
    [message] = read(kafka_settings, name, 1)
    assert (message.partition(), message.value(), message.timestamp()[1]) == (2, None, moment)


def test_one_that_cannot_be_delivered_is_fatal(kafka_settings: Settings, topic: TopicFactory) -> None:
    name = topic(1, **{"max.message.bytes": "1000"})

    async def use(results: Results) -> None:
        with pytest.raises(FatalError, match=name):
            await results.publish([Outgoing(name, "k", os.urandom(100_000))])

    with_results(kafka_settings, use)


def test_a_dead_letter_is_whole_and_counted(kafka_settings: Settings, unique: str) -> None:
    kafka.create_topics(kafka_settings)
    registry = CollectorRegistry()
    source = Source(f"key-{unique}".encode(), b"\x00whatever", [("traceparent", b"00-1")])

    async def use(results: Results) -> None:
        letters = DeadLetters(results, CommonMetrics(registry, "test"), "outliers")
        await letters.send([(source, Refusal(Reason.INVALID_JSON, "told to"))])

    with_results(kafka_settings, use)
    [letter] = [one for one in read(kafka_settings, DEAD_LETTERS.name) if one.key() == source.key]
    headers = dict(letter.headers())
    assert letter.value() == source.value
    assert headers["traceparent"] == b"00-1"
    assert (headers["topic"], headers["partition"], headers["offset"]) == (b"inference.pairs", b"3", b"77")
    assert (headers["stage"], headers["reason"], headers["error"]) == (b"outliers", b"invalid_json", b"told to")
    labels = {"stage": "outliers", "reason": "invalid_json"}
    assert registry.get_sample_value("modelwatch_dead_letters_total", labels) == 1
