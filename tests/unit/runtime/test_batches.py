"""Batches: a hole in what arrives is noticed, work in hand is finished in order, and failures end the process."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from runtime.batches import Batch, BatchStage, Bounds, Pipeline
from runtime.byte_room import ByteRoom, size_of, split
from runtime.errors import FatalError


@dataclass
class Message:
    offset: int
    previous_offset: int | None
    generation_id: int = 1
    topic: str = "t"
    partition: int = 0
    value: bytes = b""
    key: bytes | None = None
    headers: tuple[Any, ...] = ()

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)


@dataclass
class Event:
    message: Message


@dataclass
class Consumer:
    safe: list[int] = field(default_factory=list)

    def mark_safe(self, _tp: TP, offset: int, _generation: int) -> None:
        self.safe.append(offset)


@dataclass
class App:
    consumer: Consumer = field(default_factory=Consumer)
    consumer_generation_id: int = 1


class Stream:
    """Batches as Faust's stream yields them."""

    def __init__(self, *batches: list[Message]) -> None:
        self._batches = batches

    async def noack_take(self, _size: int, within: float) -> Any:
        for batch in self._batches:
            yield [Event(message) for message in batch]


class Slow(BatchStage):
    """Delivers its first batch last."""

    def __init__(self) -> None:
        self.first_may_end = asyncio.Event()
        self.delivered: list[int] = []

    def compute(self, batch: Batch) -> int:
        return batch.messages[-1].offset

    async def deliver(self, offset: int) -> None:
        if offset == 1:
            await self.first_may_end.wait()
        self.delivered.append(offset)
        if offset == 3:
            self.first_may_end.set()


class Failing(BatchStage):
    def compute(self, _batch: Batch) -> int:
        return 0

    async def deliver(self, _result: int) -> None:
        raise OSError("told to")


def run(
    app: App, stage: Any, *batches: list[Message], depth: int = 2, most: int | None = None
) -> tuple[list[BaseException], Mapping[TP, int]]:
    async def whole() -> tuple[list[BaseException], Mapping[TP, int]]:
        failures: list[BaseException] = []
        made, bounds = stage() if isinstance(stage, type) else stage, Bounds(10, 0.1, depth, 100, most)
        pipeline = Pipeline(app, made, bounds, ByteRoom(1000), failures.append)
        await pipeline.run(Stream(*batches))
        await pipeline.finish(5)
        return failures, pipeline.processed

    return asyncio.run(whole())


def test_acknowledgements_are_in_order_although_a_later_batch_is_delivered_first() -> None:
    app = App()
    failures, processed = run(app, Slow, [Message(0, None), Message(1, 0)], [Message(2, 1), Message(3, 2)])
    assert (failures, app.consumer.safe) == ([], [2, 4])
    assert processed == {TP("t", 0): 4}


def test_a_hole_between_batches_is_fatal() -> None:
    failures, _ = run(App(), Slow, [Message(0, None)], [Message(5, 3)])
    assert isinstance(failures[0], FatalError)
    assert "offset 5 follows 3, but 0 was the last to arrive" in str(failures[0])


@pytest.mark.parametrize("message", [Message(2, None), Message(9, 1)])
def test_a_new_beginning_and_a_gap_in_the_log_itself_are_none(message: Message) -> None:
    failures, _ = run(App(), Slow, [Message(0, None), Message(1, 0), message])
    assert failures == []


def test_messages_of_an_earlier_assignment_are_left_out() -> None:
    app = App(consumer_generation_id=2)
    failures, processed = run(app, Slow, [Message(7, 6, generation_id=1), Message(3, None, generation_id=2)])
    assert (failures, processed) == ([], {TP("t", 0): 4})


def test_a_delivery_that_fails_is_fatal_and_acknowledges_nothing() -> None:
    app = App()
    failures, _ = run(app, Failing, [Message(0, None)])
    assert isinstance(failures[0], OSError)
    assert app.consumer.safe == []


class Recording(BatchStage):
    """Notes the batches, and how many messages were delivered at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.at_once, self.most = 0, 0

    def compute(self, batch: Batch) -> list[int]:
        self.batches.append([message.offset for message in batch.messages])
        return self.batches[-1]

    async def deliver(self, offsets: list[int]) -> None:
        self.at_once += len(offsets)
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= len(offsets)


def test_large_messages_are_taken_in_small_batches_in_order() -> None:
    app, stage = App(), Recording()
    sizes = [10, 60, 40, 200, 1, 99, 1]
    messages = [Message(n, n - 1 if n else None, value=bytes(size)) for n, size in enumerate(sizes)]
    failures, processed = run(app, stage, messages)
    assert (failures, processed) == ([], {TP("t", 0): 7})
    assert stage.batches == [[0, 1], [2], [3], [4, 5], [6]]


def test_no_more_messages_are_delivered_at_once_than_may_be() -> None:
    app, stage = App(), Recording()
    batches = [[Message(n, n - 1 if n else None)] for n in range(20)]
    failures, processed = run(app, stage, *batches, depth=100, most=3)
    assert (failures, processed) == ([], {TP("t", 0): 20})
    assert stage.most == 3


@given(st.lists(st.integers(0, 300)), st.integers(1, 250))
def test_parts_hold_all_messages_in_order_and_only_a_single_one_is_larger(sizes: list[int], most: int) -> None:
    messages = [Message(number, None, value=bytes(size)) for number, size in enumerate(sizes)]
    parts = split(messages, most)
    assert [one for part in parts for one in part] == messages
    assert all(len(part) == 1 or sum(map(size_of, part)) <= most for part in parts)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 50))))
def test_what_was_fetched_under_an_earlier_assignment_never_fills_a_room(moves: list[tuple[bool, int, int]]) -> None:
    room, latest, held = ByteRoom(100), -1, list[int]()
    for takes, generation, size in moves:
        if takes and generation >= latest:
            held = held if generation == latest else []
            latest = generation
            room.take(size, generation)
            held.append(size)
        elif not takes and generation != latest:
            room.give_back(size, generation)
        elif not takes and held:
            room.give_back(held.pop(), generation)
        assert room.is_full == (sum(held) >= 100)


def test_what_was_processed_under_an_earlier_assignment_is_forgotten() -> None:
    app = App()

    async def whole() -> None:
        pipeline = Pipeline(app, Recording(), Bounds(10, 0.1, 2, 100), ByteRoom(1000), lambda _: None)
        await pipeline.run(Stream([Message(0, None), Message(1, 0)]))
        await pipeline.finish(5)
        assert pipeline.processed == {TP("t", 0): 2}
        app.consumer_generation_id = 2
        assert pipeline.processed == {}  # another owner may have gone on since

    asyncio.run(whole())
