"""The gate follows frames however the stream is cut, and takes the spin out of idle fetching."""

import os
import struct
import time
import uuid
from itertools import pairwise

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import given
from hypothesis import strategies as st

from runtime.embedded_gate import EMPTY_BYTES, RESPONSE_HEADER, Frames

IDLE_SECONDS = 2.0


def frame(correlation: int, body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, correlation) + body


sizes = st.one_of(st.integers(0, 300), st.integers(EMPTY_BYTES * 32 - 50, EMPTY_BYTES * 32 + 50))


@given(st.lists(sizes, min_size=1, max_size=8), st.lists(st.integers(1, 70_000), max_size=12))
def test_every_frame_is_found_once_and_every_byte_passes_in_order(bodies: list[int], cuts: list[int]) -> None:
    stream = b"".join(frame(number, bytes([number]) * size) for number, size in enumerate(bodies))
    frames, passed, seen = Frames(RESPONSE_HEADER), b"", []
    edges = sorted({cut for cut in cuts if cut < len(stream)} | {0, len(stream)})
    for start, end in pairwise(edges):
        for header, piece in frames.feed(stream[start:end]):
            passed += piece
            if header is not None:
                seen.append(header[1])
    assert passed == stream
    assert seen == list(range(len(bodies)))


def test_an_idle_consumer_leaves_the_machine_idle(embedded) -> None:
    topic = f"idle-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": embedded.kafka})
    admin.create_topics([NewTopic(topic, 4, 1)])[topic].result(30)
    consumer = Consumer({"bootstrap.servers": embedded.kafka, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        deadline = time.monotonic() + 20
        while not consumer.assignment():
            consumer.poll(0.1)
            assert time.monotonic() < deadline
        before = sum(os.times()[:2])
        consumer.poll(IDLE_SECONDS)
        assert sum(os.times()[:2]) - before < IDLE_SECONDS * 0.1  # without the gate: half a core and more
    finally:
        consumer.close()


def test_the_broker_names_the_gate_as_its_address(embedded) -> None:
    metadata = AdminClient({"bootstrap.servers": embedded.kafka}).list_topics(timeout=10)
    assert {f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()} == {embedded.kafka}
