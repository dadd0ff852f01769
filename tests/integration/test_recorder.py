"""Laws of the recorder: an answer is safe before it is given, and an end in the middle of one breaks nothing."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from inference.batcher import Job
from inference.chunks import Part
from inference.recorder import MAX_WAITING, Recorder
from runtime import kafka
from runtime.embedded import EmbeddedServers, free_ports
from runtime.errors import TransientError
from runtime.settings import Settings
from tests.integration.traffic import Traffic

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True, scope="session")
TIME = "2026-01-31T12:00:00Z"
SECONDS = 120.0


@pytest.fixture
def recorder(broker_settings: Settings) -> Iterator[Recorder]:
    made = Recorder(partial(kafka.producer, broker_settings))
    yield made
    made.close()


def part_of(*request_ids: str) -> Part:
    count = len(request_ids)
    job = Job("m", np.zeros((count, 1), np.uint8))
    return Part(job, list(request_ids), [{}] * count, [0.0] * count, [None] * count, [None] * count)


@contextlib.contextmanager
def polled(recorder: Recorder) -> Iterator[None]:
    """Poll as the worker does."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            recorder.poll(0.05)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def record(recorder: Recorder, *request_ids: str) -> None:
    values = [b"{}"] * len(request_ids)
    asyncio.run(asyncio.wait_for(recorder.record(part_of(*request_ids), values, TIME), SECONDS))


def test_recording_ends_when_every_pair_is_acknowledged(recorder: Recorder, traffic: Traffic, unique: str) -> None:
    ids = [f"{unique}-{number}" for number in range(5)]
    with polled(recorder):
        record(recorder, *ids)
    assert len(traffic.pairs(ids)) == 5


def test_a_broker_that_forgot_what_it_had_acknowledged_is_recorded_to_again(
    embedded: EmbeddedServers, broker: object, tmp_path: Path, unique: str
) -> None:
    own = EmbeddedServers(tmp_path)
    settings = Settings(kafka_bootstrap_servers=own.kafka, instance=unique)
    client = partial(kafka.producer, settings, **{"message.timeout.ms": 3_000, "log_level": 0})
    try:
        own.start()
        kafka.create_topics(settings)
        recorder = Recorder(client)
        with polled(recorder):
            for _ in range(5):
                record(recorder, "one-partition")
            own.kill()
            own.start()
            kafka.create_topics(settings)
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    record(recorder, "one-partition")
                    break
                except TransientError as error:
                    assert "ask again" in str(error)
                    assert time.monotonic() < deadline
    finally:
        own.kill()


def test_pairs_are_still_sent_when_the_server_ended_before_they_were_acknowledged(
    recorder: Recorder, traffic: Traffic, unique: str
) -> None:
    # Nobody polls, so the acknowledgement comes to the callback in `close`, after the loop has ended.
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(recorder.record(part_of(unique), [b"{}"], TIME), 0.1))
    recorder.close()
    assert list(traffic.pairs([unique])) == [unique]


def test_a_broker_that_does_not_answer_fills_the_queue_only_to_its_bound(broker: object, unique: str) -> None:
    nowhere = Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}", instance=unique)
    client = kafka.producer(nowhere, **{"queue.buffering.max.kbytes": 1024, "log_level": 0})
    recorder = Recorder(lambda: client)

    async def record_all() -> list[BaseException | None]:
        big = [asyncio.ensure_future(recorder.record(part_of(unique), [bytes(300_000)], TIME)) for _ in range(6)]
        done, waiting = await asyncio.wait(big, timeout=0.5)
        for one in waiting:
            one.cancel()
        return [one.exception() for one in done]

    refused = asyncio.run(record_all())
    assert len(refused) == 3, "four of six messages of 300 kB are more than 1 MiB"
    assert all(isinstance(error, TransientError) and "ask again" in str(error) for error in refused)
    for number in range(3, MAX_WAITING):
        client.produce("inference.pairs", b"", str(number))
    with pytest.raises(TransientError, match="too many"):
        asyncio.run(recorder.record(part_of(unique), [b"{}"], TIME))
    client.purge()
    began = time.monotonic()
    recorder.close()
    assert time.monotonic() - began < 5
