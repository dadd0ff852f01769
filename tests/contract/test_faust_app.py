"""What stock Faust loses and the hardened app does not; each law is also shown to fail on stock Faust, so that an
upgrade tells which workaround may go."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import faust

from runtime import kafka
from runtime.batches import Batch, BatchStage, Bounds, Pipeline
from runtime.byte_room import ByteRoom
from runtime.faust_app import HardenedApp, create_app, raw_topic
from runtime.settings import Settings
from tests.conftest import Broker, TopicFactory
from tests.servers.messages import committed

SECONDS = 120.0
Body = Callable[[Any, Any], Awaitable[None]]


def transactions(settings: Settings, topic: str, *batches: tuple[int, bool]) -> None:
    """Write `count` messages in a transaction each, and commit or abort it; `good` or `bad` are their values."""
    producer = kafka.producer(settings, f"{topic}-writer")
    producer.init_transactions(SECONDS)
    for count, good in batches:
        producer.begin_transaction()
        for _ in range(count):
            producer.produce(topic, value=b"good" if good else b"bad", key=b"k", partition=0)
        producer.flush(SECONDS)
        if good:
            producer.commit_transaction(SECONDS)
        else:
            producer.abort_transaction(SECONDS)


def stock_app(settings: Settings, group: str, **options: Any) -> Any:
    return faust.App(
        group,
        broker=f"kafka://{settings.kafka_bootstrap_servers}",
        consumer_auto_offset_reset="earliest",
        key_serializer="raw",
        value_serializer="raw",
        broker_commit_interval=0.3,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        store="memory://",
        datadir=tempfile.mkdtemp(prefix=group),
        **options,
    )


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS:g} s: {what}"
        await asyncio.sleep(0.05)


async def run(app: Any, topic: str, body: Body, until_done: Callable[[], Any]) -> None:
    """Run an app whose agent is `body(app, stream)` until it has done its work, and commit."""

    async def take(stream: Any) -> None:
        await body(app, stream)

    app.agent(raw_topic(app, [topic]), name="agent")(take)
    await app.start()
    await until(until_done, "the agent has done its work")
    await app.consumer.commit()
    app.conf.stream_wait_empty = False
    await asyncio.wait_for(app.stop(), SECONDS)


def both(settings: Settings, group: str) -> list[Callable[[], Any]]:
    """Makers of the hardened app, and of stock Faust; called inside the loop that runs them."""
    return [lambda: create_app(settings, f"{group}-hardened", 100), lambda: stock_app(settings, f"{group}-stock")]


def test_aborted_records_are_not_read(kafka_settings: Settings, topic: TopicFactory, unique: str) -> None:
    name = topic(1)
    transactions(kafka_settings, name, (20, True), (10, False), (20, True))
    seen: list[list[bytes]] = []
    for make in both(kafka_settings, unique):
        values: list[bytes] = []

        async def body(_app: Any, stream: Any, values: list[bytes] = values) -> None:
            async for events in stream.noack_take(50, within=0.1):
                values.extend(event.value for event in events)

        async def whole(make: Any = make, body: Body = body, values: list[bytes] = values) -> None:
            await run(make(), name, body, lambda: values.count(b"good") >= 40)

        asyncio.run(whole())
        seen.append(values)
    assert seen[0] == [b"good"] * 40
    assert b"bad" in seen[1], "stock Faust reads committed records only now: `CommittedConsumerThread` may go"


def test_nothing_is_committed_behind_what_was_called_safe(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    """Offsets 0 to 9, a marker at 10, 11 to 20; all but 11 are done: a new reader must not begin behind 11."""
    name = topic(1)
    transactions(kafka_settings, name, (10, True), (10, True))

    async def hardened() -> None:
        app, events = create_app(kafka_settings, f"{unique}-hardened", 100), []

        async def body(app: Any, stream: Any) -> None:
            async for batch in stream.noack_take(50, within=0.1):
                events.extend(batch)
                app.consumer.mark_safe(batch[0].message.tp, 10, app.consumer_generation_id)

        await run(app, name, body, lambda: len(events) >= 20)

    async def stock() -> None:
        app, events = stock_app(kafka_settings, f"{unique}-stock"), []

        async def body(app: Any, stream: Any) -> None:
            async for batch in stream.noack_take(50, within=0.1):
                events.extend(batch)
                for event in batch:
                    if event.message.offset != 11:
                        await stream.ack(event)

        await run(app, name, body, lambda: len(events) >= 20)

    asyncio.run(hardened())
    asyncio.run(stock())
    assert committed(kafka_settings, f"{unique}-hardened", name) == 10
    stocks = committed(kafka_settings, f"{unique}-stock", name)
    assert stocks > 11, f"stock Faust committed {stocks} and not past unprocessed messages: `_add_gap` may go"


class Failing(BatchStage):
    """A stage whose second batch cannot be computed."""

    def __init__(self) -> None:
        self.delivered: list[int] = []

    def compute(self, batch: Batch) -> list[int]:
        offsets = [message.offset for message in batch.messages]
        if max(offsets) >= 10:
            raise RuntimeError("told to")
        return offsets

    async def deliver(self, offsets: list[int]) -> None:
        self.delivered += offsets


def test_a_batch_that_fails_is_not_acknowledged(kafka_settings: Settings, topic: TopicFactory, unique: str) -> None:
    name = topic(1)
    transactions(kafka_settings, name, (20, True))
    failures: list[BaseException] = []
    stage = Failing()

    async def hardened() -> None:
        app = create_app(kafka_settings, f"{unique}-hardened", 100)
        pipeline = Pipeline(app, stage, Bounds(10, 0.2, 2, 1 << 20), ByteRoom(1 << 20), failures.append)

        async def body(_app: Any, stream: Any) -> None:
            await pipeline.run(stream)

        await run(app, name, body, lambda: failures and not pipeline._tasks)

    async def stock() -> None:
        app, begun = stock_app(kafka_settings, f"{unique}-stock"), []

        async def body(_app: Any, stream: Any) -> None:
            async for values in stream.take(10, within=0.2):
                begun.append(values)
                if len(begun) == 2:
                    raise RuntimeError("told to")

        await run(app, name, body, lambda: len(begun) >= 2)

    asyncio.run(hardened())
    assert isinstance(failures[0], RuntimeError)
    assert committed(kafka_settings, f"{unique}-hardened", name) == max(stage.delivered, default=-1) + 1
    asyncio.run(stock())
    stocks = committed(kafka_settings, f"{unique}-stock", name)
    assert stocks >= 20, f"stock Faust committed {stocks}: `take` no longer acknowledges a batch that failed"


def test_stopping_waits_for_nobody_who_never_acknowledges(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    name = topic(1)
    transactions(kafka_settings, name, (5, True))

    async def seconds_to_stop(app: Any) -> float:
        kept: list[Any] = []

        async def take(stream: Any) -> None:
            async for events in stream.noack_take(50, within=0.1):
                kept.extend(events)

        app.agent(raw_topic(app, [name]), name="agent")(take)
        await app.start()
        await until(lambda: len(kept) >= 5, "all are in hand")
        began = time.monotonic()
        stop = asyncio.ensure_future(app.stop())
        await asyncio.wait([stop], timeout=4)
        took = time.monotonic() - began
        if not stop.done():
            app.consumer._unacked_messages.clear()  # lets stock Faust go
            await asyncio.wait([stop], timeout=SECONDS)
        return took

    async def hardened() -> float:
        return await seconds_to_stop(create_app(kafka_settings, f"{unique}-hardened", 100))

    async def stock() -> float:
        return await seconds_to_stop(stock_app(kafka_settings, f"{unique}-stock", stream_wait_empty=True))

    assert asyncio.run(hardened()) < 3
    assert asyncio.run(stock()) >= 4, "stock Faust no longer waits for ever: `stream_wait_empty` may go"


def test_assignments_are_numbered_upwards_and_nothing_is_lost_when_a_member_joins(
    kafka_settings: Settings, topic: TopicFactory, unique: str, broker: Broker
) -> None:
    name = topic(4)
    client = kafka.producer(kafka_settings)
    for number in range(400):
        client.produce(name, value=str(number).encode(), partition=number % 4)
    assert client.flush(SECONDS) == 0
    seen: list[bytes] = []

    async def body(app: Any, stream: Any) -> None:
        async for events in stream.noack_take(20, within=0.1):
            generation = app.consumer_generation_id
            for event in events:
                if event.message.generation_id == generation:
                    seen.append(event.value)
                    app.consumer.mark_safe(event.message.tp, event.message.offset + 1, generation)

    async def two_members() -> list[int]:
        apps = []
        for number in range(2):
            own = Settings(
                kafka_bootstrap_servers=kafka_settings.kafka_bootstrap_servers, instance=f"{unique}-{number}"
            )
            app = create_app(own, unique, 100, session_seconds=6)

            async def take(stream: Any, app: Any = app) -> None:
                await body(app, stream)

            app.agent(raw_topic(app, [name]), name="agent")(take)
            await app.start()
            await until(lambda app=app: app.consumer.assignment(), "it has partitions")
            apps.append(app)
        await until(lambda: all(len(app.consumer.assignment()) == 2 for app in apps), "each has half")
        for number in range(400, 800):
            client.produce(name, value=str(number).encode(), partition=number % 4)
        client.flush(SECONDS)
        await until(lambda: len(set(seen)) == 800, "all are seen")
        for app in apps:
            await app.consumer.commit()
        epochs = [app.consumer_generation_id for app in apps]
        for app in apps:
            await asyncio.wait_for(app.stop(), SECONDS)
        return epochs

    epochs = asyncio.run(two_members())
    assert epochs[0] >= 2, "the first member was assigned again when the second came"
    assert committed(kafka_settings, unique, name, 4) == 800


def test_a_crash_of_any_service_ends_the_process(kafka_settings: Settings, topic: TopicFactory, unique: str) -> None:
    name, fatal = topic(1), []

    async def crash() -> None:
        app = create_app(kafka_settings, unique, 100)
        assert isinstance(app, HardenedApp)
        app.on_fatal = fatal.append

        async def body(_app: Any, stream: Any) -> None:
            async for _ in stream.noack_take(50, within=0.1):
                raise AssertionError("there is nothing")

        async def take(stream: Any) -> None:
            await body(app, stream)

        app.agent(raw_topic(app, [name]), name="agent")(take)
        await app.start()
        await app.consumer.crash(RuntimeError("told to"))
        await asyncio.wait_for(app.stop(), SECONDS)

    asyncio.run(crash())
    assert str(fatal[0]) == "told to"


def test_the_group_is_never_left_for_a_pause(kafka_settings: Settings, unique: str) -> None:
    async def interval(make: Callable[[], Any]) -> float:
        return float(make().conf.broker_max_poll_interval)

    ours = asyncio.run(interval(lambda: create_app(kafka_settings, unique, 100)))
    assert ours >= 86_400
    assert asyncio.run(interval(lambda: stock_app(kafka_settings, unique))) < 86_400


def test_lag_reads_zero_behind_a_trailing_marker(kafka_settings: Settings, topic: TopicFactory, unique: str) -> None:
    name = topic(1)
    transactions(kafka_settings, name, (10, True))
    lags: list[Any] = []

    async def measure() -> None:
        app, processed = create_app(kafka_settings, unique, 100), {}

        async def take(stream: Any) -> None:
            async for events in stream.noack_take(50, within=0.1):
                processed.update({event.message.tp: event.message.offset + 1 for event in events})

        app.agent(raw_topic(app, [name]), name="agent")(take)
        await app.start()
        await until(lambda: 10 in processed.values(), "all are processed")
        tp = next(iter(processed))
        await until(lambda: app.consumer.lag(tp, 10) == 0, "lag is 0")
        lags.append(app.consumer.lag(tp, 4))
        await asyncio.wait_for(app.stop(), SECONDS)

    asyncio.run(measure())
    assert lags == [7], "the end is at 11, behind the marker"


def test_a_fetch_that_spans_a_rebalance_leaves_no_hole(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    """The assignment changes while a fetch is under way: what it brought is left out, and read again."""
    name = topic(1)
    transactions(kafka_settings, name, (100, True))
    failures: list[BaseException] = []
    offsets: list[int] = []

    class Collecting(BatchStage):
        def compute(self, batch: Batch) -> list[int]:
            return [message.offset for message in batch.messages]

        async def deliver(self, found: list[int]) -> None:
            offsets.extend(found)

    async def spanned() -> None:
        app = create_app(kafka_settings, unique, 200)
        pipeline = Pipeline(app, Collecting(), Bounds(50, 0.2, 2, 1 << 20), ByteRoom(1 << 20), failures.append)

        async def take(stream: Any) -> None:
            await pipeline.run(stream)

        app.agent(raw_topic(app, [name]), name="agent")(take)
        fetch, changes = app.consumer._getmany, []

        async def fetch_across_a_change(*arguments: Any, **options: Any) -> Any:
            records = await fetch(*arguments, **options)
            if records and len(changes) < 2:
                changes.append(app.consumer_generation_id)
                app.consumer_generation_id += 1
            return records

        app.consumer._getmany = fetch_across_a_change
        await app.start()
        await until(lambda: 99 in offsets, "all are processed")
        await app.consumer.commit()
        await asyncio.wait_for(app.stop(), SECONDS)
        assert len(changes) == 2

    asyncio.run(spanned())
    assert failures == []
    assert sorted(set(offsets)) == list(range(100))
    assert committed(kafka_settings, unique, name) == 100


class Held(BatchStage):
    """A stage that delivers nothing until it may."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.may_go_on = asyncio.Event()

    def compute(self, batch: Batch) -> None:
        self.begun += [message.offset for message in batch.messages]

    async def deliver(self, _: None) -> None:
        await self.may_go_on.wait()


def test_nothing_is_fetched_of_a_stream_whose_messages_in_hand_are_too_large_while_others_go_on(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    large, small = topic(1), topic(1)
    held, free, failures = Held(), Held(), list[BaseException]()
    free.may_go_on.set()

    def send(name: str, count: int) -> None:
        producer = kafka.producer(kafka_settings)
        for _ in range(count):
            producer.produce(name, value=bytes(10_000), partition=0)
        producer.flush(SECONDS)

    async def story() -> None:
        app = create_app(kafka_settings, unique, 200)
        for name, stage in ((large, held), (small, free)):
            app.rooms[name] = ByteRoom(50_000)
            pipeline = Pipeline(app, stage, Bounds(10, 0.1, 20, 1 << 20), app.rooms[name], failures.append)
            app.agent(raw_topic(app, [name]), name=name)(pipeline.run)
        await app.start()
        send(large, 5)
        await until(lambda: len(held.begun) == 5 and app.rooms[large].is_full, "the first are in hand")
        send(large, 20)
        for count in (100, 200):
            send(small, 100)
            await until(lambda count=count: len(free.begun) == count, "the other stream goes on")
        assert len(held.begun) == 5
        held.may_go_on.set()
        await until(lambda: len(held.begun) == 25, "the rest is fetched")
        await asyncio.wait_for(app.stop(), SECONDS)

    asyncio.run(story())
    assert (failures, held.begun, free.begun) == ([], list(range(25)), list(range(200)))
