"""Laws of chunks: every message is in exactly one part or refused, and the offsets cover them all."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.chunks import Chunk, build_chunk, split_parts
from schemas.model_spec import InputSpec, ModelSpec, WeightsSpec
from schemas.payloads import DecodedRequest, decode_request
from schemas.payloads.encode import encode_npy
from schemas.refusal import Reason

SIZES = {"small": 4, "large": 16}
SPECS = {
    name: ModelSpec(
        name=name,
        version="1",
        input=InputSpec(shape=(2, 2, 1)),
        labels=("no", "yes"),
        weights=WeightsSpec(framework="null"),
        batch_sizes=(size,),
    )
    for name, size in SIZES.items()
}
DECODE = partial(decode_request, specs=SPECS, default_model="small")


@dataclass
class Message:
    """A consumed message."""

    payload: bytes | None
    header: list[tuple[str, bytes | None]]
    at: int = 0
    on: int = 0
    request_id: bytes | None = b"one"

    def value(self) -> bytes | None:
        return self.payload

    def key(self) -> bytes | None:
        return self.request_id

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self.header

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000 + self.at

    def topic(self) -> str:
        return "inference.requests"

    def partition(self) -> int:
        return self.on

    def offset(self) -> int:
        return self.at


def message(number: int, images: int = 1, model: str = "small", dtype: str = "uint8", **fields: Any) -> Message:
    """Pixels tell the message and the image within it."""
    pixels = np.zeros((images, 2, 2, 1), dtype="uint8")
    pixels[:, 0, 0, 0] = number
    pixels[:, 0, 1, 0] = range(images)
    payload = pixels if dtype == "uint8" else pixels.astype(np.float32) / np.float32(256)
    headers = [("content-type", b"application/x-npy"), ("model", model.encode())]
    return Message(encode_npy(payload), headers, number, request_id=f"m{number}".encode(), **fields)


def build(messages: list[Message]) -> Chunk:
    return build_chunk(iter(messages), DECODE, SIZES.__getitem__, 12.0, "metadata")


def test_a_chunk_remembers_when_and_under_which_assignment_it_was_read() -> None:
    chunk = build([message(1)])
    assert (chunk.received_at, chunk.group) == (12.0, "metadata")


def test_a_timestamp_that_is_absent_or_ahead_counts_as_the_time_of_reading() -> None:
    """A producer's clock is its own affair: Kafka says -1 where there is none, and takes an hour ahead and more."""

    class Stamped(Message):
        def timestamp(self) -> tuple[int, int]:
            return 1, self.at

    good = message(1)
    for at, sent_at in ((-1, 12.0), (253_370_764_800_000, 12.0), (11_500, 11.5)):
        [part] = build([Stamped(good.payload, good.header, at)]).parts
        assert part.sent_at == [sent_at]


def test_the_offsets_are_those_after_the_last_message_of_each_partition_refused_or_not() -> None:
    chunk = build(
        [message(7, on=0), message(3, on=1), Message(b"", [], 8, 0), Message(None, [], 4, 1), message(5, on=2)]
    )
    assert chunk.offsets == {
        ("inference.requests", 0): 9,
        ("inference.requests", 1): 5,
        ("inference.requests", 2): 6,
    }
    assert len(chunk.refused) == 2


def test_refused_messages_are_kept_whole_with_their_reason_and_the_others_are_computed() -> None:
    bad = Message(b"no picture", [("content-type", b"text/plain")], 2)
    chunk = build([message(1), bad, message(3)])
    assert [part.request_ids for part in chunk.parts] == [["m1", "m3"]]
    assert [(refused.source.message, refused.refusal.reason) for refused in chunk.refused] == [
        (bad, Reason.UNKNOWN_CONTENT_TYPE)
    ]


def test_parts_are_grouped_by_model_and_dtype_in_the_order_of_the_messages() -> None:
    chunk = build(
        [message(1), message(2, model="large"), message(3, dtype="float32"), message(4), message(5, model="large")]
    )
    found = {(part.job.model, part.job.images.dtype.name): part.request_ids for part in chunk.parts}
    assert found == {("small", "uint8"): ["m1", "m4"], ("large", "uint8"): ["m2", "m5"], ("small", "float32"): ["m3"]}
    assert not any(part.job.interactive for part in chunk.parts)


def test_a_group_larger_than_the_models_batch_is_split_even_within_a_message() -> None:
    chunk = build([message(1, 3), message(2, 3), message(3, model="large", images=16)])
    assert [(part.job.model, part.request_ids) for part in chunk.parts] == [
        ("small", ["m1-0", "m1-1", "m1-2", "m2-0"]),
        ("small", ["m2-1", "m2-2"]),
        ("large", [f"m3-{index}" for index in range(16)]),
    ]
    pixels = np.concatenate([part.job.images for part in chunk.parts[:2]])
    assert pixels[:, 0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert pixels[:, 0, 1, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_chunk_of_refused_messages_alone_has_offsets_and_no_parts() -> None:
    chunk = build([Message(b"", [], 4), Message(None, [], 5)])
    assert chunk.parts == []
    assert chunk.offsets == {("inference.requests", 0): 6}


def request(ids: list[str], deadline: float | None = None, traceparent: bytes | None = None) -> DecodedRequest:
    images = np.arange(len(ids) * 4, dtype=np.uint8).reshape(len(ids), 2, 2, 1)
    return DecodedRequest(ids, images, "small", {"of": ids[0]}, float(len(ids)), deadline, traceparent)


def test_facts_of_a_message_go_with_each_of_its_images() -> None:
    parts = list(split_parts("small", [request(["a-0", "a-1"], 5.0, b"00-x"), request(["b"])], 2, interactive=True))
    assert [part.request_ids for part in parts] == [["a-0", "a-1"], ["b"]]
    assert [part.attributes for part in parts] == [[{"of": "a-0"}] * 2, [{"of": "b"}]]
    assert [part.sent_at for part in parts] == [[2.0, 2.0], [1.0]]
    assert [part.deadlines for part in parts] == [[5.0, 5.0], [None]]
    assert [part.traceparents for part in parts] == [[b"00-x"] * 2, [None]]
    assert all(part.job.interactive for part in parts)


def test_deadlines_are_an_array_only_where_there_is_one() -> None:
    (with_one,) = split_parts("small", [request(["a"], 5.0), request(["b"])], 4)
    (without,) = split_parts("small", [request(["a"]), request(["b"])], 4)
    assert with_one.job.deadlines is not None
    assert with_one.job.deadlines.tolist() == [5.0, math.inf]
    assert without.job.deadlines is None


def test_the_images_of_a_lone_request_are_not_copied() -> None:
    lone = request(["a", "b", "c"])
    (part,) = split_parts("small", [lone], 4)
    assert np.shares_memory(part.job.images, lone.images)


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(list(SIZES)), st.sampled_from(["uint8", "float32"])), max_size=30
    )
)
def test_every_image_of_every_good_message_is_in_exactly_one_part_of_fitting_size(
    drawn: list[tuple[int, str, str]],
) -> None:
    messages = [
        message(number, images, model, dtype) if images else Message(b"", [], number)
        for number, (images, model, dtype) in enumerate(drawn)
    ]
    chunk = build(messages)
    expected = []
    for number, (images, _model, _dtype) in enumerate(drawn):
        expected += [f"m{number}"] if images == 1 else [f"m{number}-{index}" for index in range(images)]
    found: dict[str, tuple[int, int]] = {}
    for part in chunk.parts:
        images_of = part.job.images
        assert len(part.request_ids) == len(images_of) <= SIZES[part.job.model]
        scale = 255 if images_of.dtype == np.float32 else 1
        for request_id, image in zip(part.request_ids, images_of * scale, strict=True):
            assert request_id not in found
            found[request_id] = (round(float(image[0, 0, 0])), round(float(image[0, 1, 0])))
    assert sorted(found) == sorted(expected)
    for request_id, (number, index) in found.items():
        name, _, rest = request_id.partition("-")
        assert (name, int(rest or 0)) == (f"m{number}", index)
    assert len(chunk.refused) == sum(images == 0 for images, _, _ in drawn)
    if drawn:
        assert chunk.offsets == {("inference.requests", 0): len(drawn)}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_hold_at_most_the_size_asked_for_and_keep_the_order(size: int) -> None:
    requests = [request([f"{number}-{index}" for index in range(3)]) for number in range(4)]
    parts = list(split_parts("small", requests, size))
    assert [name for part in parts for name in part.request_ids] == [name for r in requests for name in r.request_ids]
    assert {len(part.request_ids) for part in parts[:-1]} == {size}
    assert 1 <= len(parts[-1].request_ids) <= size


def test_a_chunk_ends_when_it_has_enough_bytes_and_the_next_one_goes_on_where_it_ended() -> None:
    messages = [message(number) for number in range(10)]
    waiting, sizes = iter(messages), []
    whole = build(messages)
    while (chunk := build_chunk(waiting, DECODE, SIZES.__getitem__, 12.0, "metadata", whole.nbytes / 4)).offsets:
        sizes.append(sum(len(part.request_ids) for part in chunk.parts))
    assert sum(sizes) == 10
    assert max(sizes) <= 3
    assert whole.nbytes == sum(len(one.value() or b"") for one in messages) + sum(
        part.job.images.nbytes for part in whole.parts
    )
