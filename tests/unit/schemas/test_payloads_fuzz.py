"""Whatever bytes come in: an image or a `Refusal`, nothing else, and in bounded memory."""

import gc
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.payloads import CONTENT_TYPES, FORMATS, MAX_IMAGES, DecodedRequest, decode_request, encode_png
from schemas.refusal import Refusal
from schemas.topics import MAX_REQUEST_BYTES
from tests.payloads import JPEG, JSON, NOW, NPY, PNG, png_chunk, png_file, refusal_of, spec_of

SPEC = spec_of(4, 5, 3)
SPECS = {SPEC.name: SPEC}
IMAGE = np.random.default_rng(3).integers(0, 256, SPEC.input.shape, dtype=np.uint8)
GOOD = {name: (payload.encode(IMAGE), payload.content_type) for name, payload in FORMATS.items()}
FUZZ = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
NOT_SMALL = 64 << 20
"""Bytes by which no refusal of a small message may grow the process."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("A" * 80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def attempt(value: bytes | None, key: bytes | None, headers: Any, timestamp: float = NOW) -> DecodedRequest | None:
    """Decode; None if refused. Every other exception fails the test, and so does a result that breaks the contract."""
    try:
        found = decode_request(value, key, headers, timestamp, SPECS, SPEC.name)
    except Refusal as refusal:
        assert 0 < len(refusal.detail) < 1500
        return None
    count = len(found.images)
    assert 1 <= count <= MAX_IMAGES and found.images.shape[1:] == SPEC.input.shape
    assert found.images.flags.c_contiguous and found.images.dtype in (np.uint8, np.float32)
    if found.images.dtype == np.float32:
        assert found.images.min() >= -1e-6 and found.images.max() <= 1 + 2e-6
    assert len(found.request_ids) == len(set(found.request_ids)) == count
    assert all(identity.encode() for identity in found.request_ids)
    return found


def damaged(good: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    """Replace stretches: each is a position, a length, and what comes in their place."""
    data = bytearray(good)
    for at, length, instead in cuts:
        at %= len(data) + 1
        data[at : at + length] = instead
    return bytes(data)


def repaired_png(data: bytes) -> bytes:
    """The same chunks with right checksums, so that damage goes deeper."""
    at, out = 8, data[:8]
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        out += png_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out


changes = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=4)


@settings(FUZZ, max_examples=500)
@given(
    st.binary(max_size=300), st.sampled_from(CONTENT_TYPES), st.sampled_from(("", *(good for good, _ in GOOD.values())))
)
def test_arbitrary_bytes_are_refused_or_decoded(tail: bytes, content_type: str, head: str | bytes) -> None:
    value = (head[:40] if isinstance(head, bytes) else b"") + tail
    attempt(value, b"id", [("content-type", content_type.encode())])


@pytest.mark.parametrize("name", GOOD)
@settings(FUZZ, max_examples=300)
@given(cuts=changes)
def test_a_good_payload_that_was_damaged_is_refused_or_decoded(name: str, cuts: list[tuple[int, int, bytes]]) -> None:
    good, content_type = GOOD[name]
    attempt(damaged(good, cuts), b"id", [("content-type", content_type.encode())])


@settings(FUZZ, max_examples=300)
@given(cuts=changes, interlace=st.sampled_from([0, 1]), colour=st.sampled_from([0, 2, 3, 4, 6]), extra=st.booleans())
def test_a_damaged_png_with_right_checksums_is_refused_or_decoded(
    cuts: list[tuple[int, int, bytes]], interlace: int, colour: int, extra: bool
) -> None:
    more = png_chunk(b"PLTE", bytes(30)) + png_chunk(b"tRNS", b"\0\1") if extra else b""
    width = {0: 5, 2: 15, 3: 5, 4: 10, 6: 20}[colour]
    good = png_file(zlib.compress(bytes(4 * (width + 1))), (5, 4), colour=colour, interlace=interlace, extra=more)
    for data in (repaired_png(damaged(good, cuts)), png_file(zlib.compress(damaged(bytes(64), cuts)), (5, 4))):
        attempt(data, b"id", [("content-type", PNG.encode())])


@settings(FUZZ, max_examples=500)
@given(
    st.sampled_from(["json", "v2", "v1"]),
    st.lists(st.tuples(st.integers(0, 12), json_values), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_value_in_any_field_is_refused_or_decoded(
    name: str, given_values: list[tuple[int, Any]], more: bool
) -> None:
    document = orjson.loads(GOOD[name][0])
    if more:
        document |= {"parameters": {"deadline": 1, "attributes": {}}, "attributes": {}, "deadline": 1, "sent_at": 1}
        document |= {"id": "x", "request_id": "x", "model": SPEC.name}
    for index, value in given_values:
        places = [(document, field) for field in document]
        places += [(inner, field) for inner in document.values() if isinstance(inner, dict) for field in inner]
        if isinstance(document.get("inputs"), list) and document["inputs"] and isinstance(document["inputs"][0], dict):
            places += [(document["inputs"][0], field) for field in document["inputs"][0]]
        if places:
            holder, field = places[index % len(places)]
            holder[field] = value
    attempt(json.dumps(document).encode(), None, [("content-type", JSON.encode())])


@settings(FUZZ, max_examples=300)
@given(
    st.none() | st.binary(max_size=300),
    st.lists(
        st.tuples(
            st.sampled_from(["content-type", "Model", "deadline", "ce_time", "ce_id", "attribute-a", "traceparent"])
            | st.text(max_size=80).map("attribute-".__add__),
            st.none() | st.binary(max_size=300) | st.text(max_size=40).map(str.encode),
        ),
        max_size=20,
    ),
    st.floats(),
)
def test_any_key_header_and_timestamp_is_refused_or_decoded(
    key: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: float
) -> None:
    attempt(GOOD["npy"][0], key, [*headers, ("content-type", NPY.encode())], timestamp)


def grown(action: Callable[[], object]) -> int:
    """Bytes by which the process was larger at its peak during `action` than before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    before = _memory("VmRSS")
    action()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


HUGE_TEXT = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))
BOMBS = {
    "png of 30000 x 30000": (png_file(zlib.compress(bytes(1 << 24)), (30_000, 30_000)), PNG),
    "png with 100 MB of pixels for 60": (png_file(zlib.compress(bytes(100_000_000)), (5, 4)), PNG),
    "png of another size with 50 MB of text": (png_file(b"", (6, 6), extra=HUGE_TEXT), PNG),
    "png of a million chunks": (encode_png(IMAGE)[:33] + png_chunk(b"tEXt", b"") * 600_000, PNG),
    "jpeg of fill bytes": (b"\xff\xd8" + b"\xff" * 8_000_000 + b"\xff\xd9", JPEG),
    "json nested 100000 deep": (b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON),
    "json of a million brackets": (b"[" * 1_000_000, JSON),
    "json objects nested 100000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON),
    "instances of a million brackets": (b'{"instances":' + b"[" * 1_000_000, JSON),
    "json of millions of empty lists": (b'{"a":[' + b"[]," * 2_000_000 + b"1]}", JSON),
    "instances of millions of empty lists": (b'{"instances":[' + b"[]," * 2_000_000 + b"1]}", JSON),
    "json claiming a huge tensor": (b'{"image":{"dtype":"uint8","shape":[1000000000,4,5,3],"data":"AAAA"}}', JSON),
    "v2 claiming a huge tensor": (b'{"inputs":[{"datatype":"FP64","shape":[99999999999,4,5,3],"data":"AAAA"}]}', JSON),
    "npy claiming a huge tensor": (GOOD["npy"][0].replace(b"(4, 5, 3)", b"(64,4,5,3)", 1), NPY),
    "npy header of a million brackets": (b"\x93NUMPY\x02\x00" + (2**20).to_bytes(4, "little") + b"(" * 2**20, NPY),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(name: str) -> None:
    value, content_type = BOMBS[name]
    assert len(value) <= MAX_REQUEST_BYTES
    assert grown(lambda: refusal_of(value, content_type, spec=SPEC)) < NOT_SMALL


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_a_good_picture_with_a_huge_compressed_text_is_decoded_without_it() -> None:
    pixels = b"".join(b"\0" + row.tobytes() for row in IMAGE)
    value = png_file(zlib.compress(pixels), (5, 4), extra=HUGE_TEXT)
    images: list[np.ndarray] = []
    headers = [("content-type", PNG.encode())]
    assert grown(lambda: images.append(decode_request(value, b"id", headers, NOW, SPECS, SPEC.name).images)) < NOT_SMALL
    assert np.array_equal(images[0][0], IMAGE)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("filling", [b"[],", b"{},", b"0,", b'"",', b'{"a":1},'])
def test_the_costliest_json_takes_a_bounded_multiple_of_its_size(filling: bytes) -> None:
    body = b'{"instances":[' + filling * (MAX_REQUEST_BYTES // len(filling) - 16)
    value = body.rstrip(b",") + b"]}"
    assert grown(lambda: refusal_of(value, JSON, spec=SPEC)) < 40 * len(value)
