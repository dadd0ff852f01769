"""Compressed topics and callers: every codec of Kafka is read, by the worker's client and by the agents'; a batch that
is damaged is held, never skipped and never taken for data."""

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from runtime import kafka
from runtime.faust_app import create_app, raw_topic
from runtime.settings import Settings
from tests.conftest import TopicFactory
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import DEADLINE, read

CODECS = ["gzip", "snappy", "lz4", "zstd"]
COUNT = 50


def values(codec: str) -> list[bytes]:
    """Messages that compress well, and tell of which topic they are."""
    return [f"{codec} {number} ".encode() * 200 for number in range(COUNT)]


def read_by_agents(settings: Settings, group: str, topics: list[str], count: int) -> list[bytes]:
    """What an agent's app is given of these topics; what ends the app is raised."""
    seen: list[bytes] = []
    failures: list[BaseException] = []

    async def take(stream: Any) -> None:
        async for events in stream.noack_take(50, within=0.1):
            seen.extend(event.value for event in events)

    async def whole() -> None:
        app = create_app(settings, group, 500)
        app.on_fatal = failures.append
        app.agent(raw_topic(app, topics), name="agent")(take)
        await app.start()
        for _ in range(int(DEADLINE / 0.05)):
            if len(seen) >= count or failures:
                break
            await asyncio.sleep(0.05)
        await asyncio.wait_for(app.stop(), DEADLINE)

    asyncio.run(whole())
    for failure in failures:
        raise failure
    return seen


@pytest.mark.parametrize("who", ["caller", "topic"])
def test_every_codec_is_read_whether_a_caller_or_a_topic_compresses(
    kafka_settings: Settings, topic: TopicFactory, unique: str, who: str
) -> None:
    everything = []
    names = {codec: topic(1, **({"compression.type": codec} if who == "topic" else {})) for codec in CODECS}
    for codec, name in names.items():
        compressing = {"compression.type": codec if who == "caller" else "none"}
        producer = kafka.producer(kafka_settings, f"{name}-writer", **compressing)
        producer.init_transactions(DEADLINE)
        producer.begin_transaction()
        for value in values(codec):
            producer.produce(name, value, key=b"k")
        producer.commit_transaction(DEADLINE)
        everything += values(codec)
        assert [message.value() for message in read(kafka_settings, name, COUNT)] == values(codec)
    assert sorted(read_by_agents(kafka_settings, unique, list(names.values()), len(everything))) == sorted(everything)


def damage(segment: Path, number: int) -> None:
    """Flip bits in one batch of a log segment, behind its 61 bytes of header, as a failing disk would."""
    data = bytearray(segment.read_bytes())
    place = 0
    for _ in range(number):
        place += 12 + struct.unpack_from(">i", data, place + 8)[0]
    for index in range(place + 61, place + 12 + struct.unpack_from(">i", data, place + 8)[0]):
        data[index] ^= 0x5A
    segment.write_bytes(bytes(data))


@pytest.mark.slow
@pytest.mark.real_kafka
def test_a_damaged_compressed_batch_is_held_with_its_place_and_read_past_once_it_is_deleted(
    apache_libraries: Path, tmp_path: Path, unique: str
) -> None:
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    server.start()
    try:
        settings = Settings(kafka_bootstrap_servers=server.bootstrap, instance=f"test-{unique}")
        admin = AdminClient(kafka.client_config(settings))
        admin.create_topics([NewTopic("damaged", 1, 1)])["damaged"].result(DEADLINE)
        client = kafka.producer(settings, **{"compression.type": "lz4"})
        for value in (b"before " * 99, b"damaged " * 99, b"after " * 99):
            client.produce("damaged", value)
            assert client.flush(DEADLINE) == 0
        server.stop()
        damage(tmp_path / "kafka" / "data" / "damaged-0" / f"{0:020}.log", 1)
        server.start()
        reader, place = kafka.assigned_consumer(settings), TopicPartition("damaged", 0, 0)
        reader.assign([place])
        found: list[Any] = []
        deadline = time.monotonic() + DEADLINE
        while len(found) < 4 and time.monotonic() < deadline:
            found += reader.consume(10, 0.5)
        assert found[0].value() == b"before " * 99
        assert {(one.error().code() in kafka.UNREADABLE, one.offset()) for one in found[1:]} == {(True, 1)}
        with pytest.raises(Exception, match="Invalid CRC"):
            read_by_agents(settings, unique, ["damaged"], 3)
        admin.delete_records([TopicPartition("damaged", 0, 2)])[place].result(DEADLINE)
        assert [one.value() for one in read(settings, "damaged", 1)] == [b"after " * 99]
        reader.close()
    finally:
        server.kill()
