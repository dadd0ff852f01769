"""`decode_request`: which fact comes from where, and what makes each of them unacceptable."""

import uuid
from collections import Counter

import numpy as np
import orjson
import pytest

from schemas.base import MAX_ATTRIBUTES
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.identity import MAX_ID_BYTES
from schemas.payloads import CONTENT_TYPES, FORMATS, MAX_IMAGES, decode_request, encode_json, encode_npy, encode_v2
from schemas.refusal import Reason, Refusal
from schemas.topics import MAX_REQUEST_BYTES
from tests.corpus import FAULTS, bad_requests
from tests.payloads import JSON, NOW, NPY, PNG, SHAPE, decode, images, refusal_of, spec_of

RNG = np.random.default_rng(7)
IMAGE = images(RNG)
GOOD = encode_npy(IMAGE)


def our_json(**fields: object) -> bytes:
    return orjson.dumps({**orjson.loads(encode_json(IMAGE)), **fields})


def v2_json(**parameters: object) -> bytes:
    return orjson.dumps({**orjson.loads(encode_v2(IMAGE, request_id="of-body")), "parameters": parameters})


def test_every_bad_message_of_the_corpus_is_refused_for_one_of_its_reasons() -> None:
    specs = {"reference": spec_of(*SHAPE)}
    refused: Counter[str] = Counter()
    for bad in bad_requests(20 * len(FAULTS) + 1, seed=3, oversize=True):
        with pytest.raises(Refusal) as caught:
            decode_request(bad.value, bad.key, bad.headers, NOW, specs, "reference")
        assert caught.value.reason in bad.reasons, f"{bad.fault}: {caught.value.reason}: {caught.value.detail}"
        assert caught.value.detail
        refused[bad.fault] += 1
    assert refused == {"oversize": 1, **{fault.__name__: 20 for fault in FAULTS}}


def test_the_corpus_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert list(bad_requests(50, seed=1)) == list(bad_requests(50, seed=1))
    assert list(bad_requests(50, seed=1)) != list(bad_requests(50, seed=2))


def test_the_name_and_value_of_the_content_type_are_read_without_case_and_parameters() -> None:
    specs = {"reference": spec_of(*SHAPE)}
    headers = [("Content-Type", b" Application/X-NPY ; charset=utf-8")]
    assert np.array_equal(decode_request(GOOD, b"id", headers, NOW, specs, "reference").images[0], IMAGE)


@pytest.mark.parametrize("content_type", ["", ";", "image/gif", "image/png2", "\xff"])
def test_another_content_type_is_refused_with_the_accepted_ones(content_type: str) -> None:
    refusal = refusal_of(GOOD, content_type)
    assert refusal.reason is Reason.UNKNOWN_CONTENT_TYPE
    assert all(accepted in refusal.detail for accepted in CONTENT_TYPES)


@pytest.mark.parametrize("headers", [None, [], [("content-type", None)], [("model", b"reference")]])
def test_a_message_without_a_content_type_is_refused(headers: list[tuple[str, bytes | None]] | None) -> None:
    with pytest.raises(Refusal) as caught:
        decode_request(GOOD, b"id", headers, NOW, {"reference": spec_of(*SHAPE)}, "reference")
    assert caught.value.reason is Reason.UNKNOWN_CONTENT_TYPE


def test_size_is_judged_before_anything_else() -> None:
    assert refusal_of(b"", "nonsense").reason is Reason.EMPTY_VALUE
    assert refusal_of(None, "nonsense").reason is Reason.EMPTY_VALUE
    assert refusal_of(bytes(MAX_REQUEST_BYTES + 1), "nonsense").reason is Reason.OVERSIZE
    assert refusal_of(bytes(MAX_REQUEST_BYTES), PNG).reason is Reason.UNREADABLE_IMAGE


def test_the_id_is_the_header_s_else_the_key_else_the_body_s() -> None:
    """The key of a CloudEvent tells its partition: that of a camera, say."""
    body, header = our_json(request_id="of-body"), ("ce_id", b"of-header")
    assert decode(body, JSON, header, key=b"of-key").request_ids == ["of-header"]
    assert decode(body, JSON, header, key=None).request_ids == ["of-header"]
    assert decode(body, JSON, key=b"of-key").request_ids == ["of-key"]
    assert decode(body, JSON, key=None).request_ids == ["of-body"]
    assert decode(body, JSON, key=b"").request_ids == ["of-body"]
    assert decode(v2_json(), JSON, key=None).request_ids == ["of-body"]


def test_a_missing_id_is_made_and_sorts_by_time() -> None:
    ids = [decode(GOOD, NPY, key=None).request_ids[0] for _ in range(3)]
    assert [uuid.UUID(each).version for each in ids] == [7, 7, 7]
    assert ids == sorted(set(ids))


def test_several_images_have_numbered_ids_and_one_image_has_none() -> None:
    assert decode(encode_npy(images(RNG, 1, *SHAPE)), NPY).request_ids == ["id"]
    assert decode(encode_npy(images(RNG, 3, *SHAPE)), NPY).request_ids == ["id-0", "id-1", "id-2"]


def test_up_to_the_limit_of_images_are_taken() -> None:
    assert len(decode(encode_npy(images(RNG, MAX_IMAGES, *SHAPE)), NPY).request_ids) == MAX_IMAGES
    refusal = refusal_of(encode_npy(images(RNG, MAX_IMAGES + 1, *SHAPE)), NPY)
    assert (refusal.reason, str(MAX_IMAGES + 1) in refusal.detail) == (Reason.TOO_MANY_IMAGES, True)


@pytest.mark.parametrize(
    "key", [b" \t", b"\xc3\x28", b"a\nb", b"a\x00b", b"\x7f", "\u0085x".encode(), b"x" * 513, "画".encode() * 171]
)
def test_an_unusable_id_is_refused(key: bytes) -> None:
    assert refusal_of(GOOD, NPY, key=key).reason is Reason.INVALID_ID
    for also in (key, b"good", None):
        assert refusal_of(GOOD, NPY, ("ce_id", key), key=also).reason is Reason.INVALID_ID


def test_an_empty_key_is_none_and_an_empty_header_is_an_unusable_id() -> None:
    assert uuid.UUID(decode(GOOD, NPY, key=b"").request_ids[0]).version == 7
    assert refusal_of(GOOD, NPY, ("ce_id", b"")).reason is Reason.INVALID_ID


@pytest.mark.parametrize("body_id", ["", "\n", 7, ["x"], {"a": 1}, True])
def test_an_unusable_id_in_the_body_is_refused(body_id: object) -> None:
    assert refusal_of(our_json(request_id=body_id), JSON, key=None).reason is Reason.INVALID_ID


@pytest.mark.parametrize("key", ["x" * 512, "画" * 170, "Zürich 7", "ид", "a\u00a0b", "🚚"])
def test_any_other_text_is_an_id(key: str) -> None:
    assert decode(GOOD, NPY, key=key.encode()).request_ids == [key]


def test_the_number_of_an_image_counts_towards_the_length_of_its_id() -> None:
    two, fits = encode_npy(images(RNG, 2, *SHAPE)), b"x" * (MAX_ID_BYTES - 2)
    assert max(map(len, decode(two, NPY, key=fits).request_ids)) == MAX_ID_BYTES
    assert refusal_of(two, NPY, key=fits + b"x").reason is Reason.INVALID_ID


def test_the_model_is_the_header_s_else_the_body_s_else_the_default() -> None:
    specs = {name: spec_of(*SHAPE, name=name) for name in ("first", "second", "third")}
    plain, header = [("content-type", JSON.encode())], ("model", b"first")
    body = our_json(model="second")
    assert decode_request(body, b"id", [*plain, header], NOW, specs, "third").model == "first"
    assert decode_request(body, b"id", plain, NOW, specs, "third").model == "second"
    assert decode_request(our_json(), b"id", plain, NOW, specs, "third").model == "third"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    refusal = refusal_of(GOOD, NPY, ("model", b"no-such"))
    assert (refusal.reason, "no-such" in refusal.detail, "reference" in refusal.detail) == (
        Reason.UNKNOWN_MODEL,
        True,
        True,
    )
    assert refusal_of(our_json(model="no-such"), JSON).reason is Reason.UNKNOWN_MODEL
    assert refusal_of(our_json(model=["reference"]), JSON).reason is Reason.INVALID_FIELD
    assert refusal_of(GOOD, NPY, ("model", b"\xff")).reason is Reason.INVALID_HEADER


def test_attributes_of_headers_stand_over_those_of_the_body() -> None:
    headers = ("attribute-site", b"of-header"), ("Attribute-Line", b"3")
    found = decode(our_json(attributes={"site": "of-body", "shift": "night"}), JSON, *headers)
    assert found.attributes == {"site": "of-header", "shift": "night", "Line": "3"}
    assert decode(v2_json(attributes={"site": "of-v2"}), JSON).attributes == {"site": "of-v2"}
    assert decode(GOOD, NPY).attributes == {}


def test_parameters_of_v2_that_are_no_flat_map_of_strings_are_somebody_else_s() -> None:
    assert decode(v2_json(attributes={"depth": {"a": 1}}, temperature=0.5), JSON).attributes == {}


@pytest.mark.parametrize("attributes", [[], "x", 1, {"a": 1}, {"a": None}, {"": "x"}, {"a" * 65: ""}, {"a": "x" * 257}])
def test_unusable_attributes_of_the_body_are_refused(attributes: object) -> None:
    assert refusal_of(our_json(attributes=attributes), JSON).reason is Reason.INVALID_FIELD


def test_more_attributes_than_a_message_may_carry_are_refused() -> None:
    given = {f"a{index}": "x" for index in range(MAX_ATTRIBUTES)}
    assert decode(our_json(attributes=given), JSON).attributes == given
    assert refusal_of(our_json(attributes=given), JSON, ("attribute-b", b"x")).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("header", [("attribute-", b"x"), ("attribute-a", b"\xff"), ("attribute-a", b"x" * 257)])
def test_unusable_attributes_in_headers_are_refused(header: tuple[str, bytes]) -> None:
    assert refusal_of(GOOD, NPY, header).reason is Reason.INVALID_HEADER


def test_the_time_of_sending_is_the_header_s_else_the_body_s_else_the_message_s() -> None:
    body = our_json(sent_at="2026-01-01T00:00:00.25Z")
    assert decode(body, JSON, ("ce_time", b"2026-01-01T01:00:00+01:00")).sent_at == 1_767_225_600
    assert decode(body, JSON).sent_at == 1_767_225_600.25
    assert decode(our_json(sent_at=None), JSON).sent_at == NOW


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        ("2026-01-01t00:00:00z", 1_767_225_600.0),
        ("2025-12-31T23:30:00.5-00:30", 1_767_225_600.5),
        ("2026-01-01T00:00:00.123456789Z", 1_767_225_600.123456),
        ("1767225600", 1_767_225_600.0),
        ("1767225600.75", 1_767_225_600.75),
        ("1970-01-01T00:00:00Z", 0.0),
    ],
)
def test_a_deadline_is_rfc_3339_or_seconds_since_the_epoch(text: str, seconds: float) -> None:
    assert decode(GOOD, NPY, ("deadline", text.encode())).deadline == seconds
    assert decode(our_json(deadline=text), JSON).deadline == seconds
    assert decode(v2_json(deadline=text), JSON).deadline == seconds
    assert decode(v2_json(deadline=seconds), JSON).deadline == seconds


def test_a_request_without_a_deadline_has_none() -> None:
    assert [decode(value, JSON).deadline for value in (our_json(), v2_json())] == [None, None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "2026-01-01T25:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "-1",
        "nan",
        "inf",
        "1e300",
        "1767225600000",
        "२०२६-01-01T00:00:00Z",
    ],
)
def test_an_unreadable_time_is_refused(text: str) -> None:
    for name in ("deadline", "ce_time"):
        assert refusal_of(GOOD, NPY, (name, text.encode())).reason is Reason.INVALID_HEADER
    for name in ("deadline", "sent_at"):
        assert refusal_of(our_json(**{name: text}), JSON).reason is Reason.INVALID_FIELD
    assert refusal_of(v2_json(deadline=text), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("value", [True, [], {}, -1, 1e300, 10**18])
def test_a_time_of_another_type_or_range_is_refused(value: object) -> None:
    assert refusal_of(our_json(deadline=value), JSON).reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("text", ["9999-01-01T00:00:00Z", str(NOW + MAX_AHEAD_SECONDS + 1)])
def test_a_request_that_says_it_was_sent_after_it_arrived_is_refused(text: str) -> None:
    for refusal in (refusal_of(GOOD, NPY, ("ce_time", text.encode())), refusal_of(our_json(sent_at=text), JSON)):
        assert refusal.reason is Reason.IN_FUTURE
        assert "ce_time" in refusal.detail or "sent_at" in refusal.detail
    fits = NOW + MAX_AHEAD_SECONDS
    assert decode(our_json(sent_at=fits), JSON).sent_at == fits


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"])
def test_a_deadline_is_a_wish_and_may_lie_anywhere(text: str) -> None:
    assert decode(our_json(deadline=text), JSON).deadline is not None


def test_the_framing_of_a_schema_registry_is_named_with_the_schema_s_number() -> None:
    framed = b"\0\0\0\0\x07" + our_json()
    refusal = refusal_of(framed, JSON)
    assert refusal.reason is Reason.INVALID_JSON
    assert "schema registry" in refusal.detail and "id, 7)" in refusal.detail
    for other in (b"\0" + our_json(), our_json()[1:], b"\0\0\0\0\x07", b"\x01\0\0\0\x07{}"):
        assert "registry" not in refusal_of(other, JSON).detail


@pytest.mark.parametrize("timestamp", [-0.001, 9.2e15, float("nan")])
def test_a_message_timestamp_that_no_pair_could_carry_is_refused(timestamp: float) -> None:
    headers = [("content-type", NPY.encode())]
    with pytest.raises(Refusal) as caught:
        decode_request(GOOD, b"id", headers, timestamp, {"reference": spec_of(*SHAPE)}, "reference")
    assert caught.value.reason is Reason.INVALID_HEADER


def test_the_trace_parent_is_carried_on_unchanged() -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert decode(GOOD, NPY, ("Traceparent", trace)).traceparent == trace
    assert decode(GOOD, NPY).traceparent is None


def test_of_headers_with_one_name_the_last_counts_and_an_empty_one_is_absent() -> None:
    assert decode(GOOD, NPY, ("ce_id", b"first"), ("CE_ID", b"last"), ("ce_id", None), key=None).request_ids == ["last"]


@pytest.mark.parametrize("name", FORMATS)
def test_images_are_contiguous_and_of_the_models_shape_in_every_format(name: str) -> None:
    found = decode(FORMATS[name].encode(IMAGE), FORMATS[name].content_type).images
    assert found.shape == (1, *SHAPE)
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8


def test_without_a_default_model_a_request_that_names_none_is_refused_with_the_names() -> None:
    specs = {name: spec_of(*SHAPE) for name in ("second", "first")}
    with pytest.raises(Refusal, match=r"names no model.* header `model`: first, second") as caught:
        decode_request(GOOD, b"id", [("content-type", NPY.encode())], NOW, specs, None)
    assert caught.value.reason is Reason.UNKNOWN_MODEL
    headers = [("content-type", NPY.encode()), ("model", b"second")]
    assert len(decode_request(GOOD, b"id", headers, NOW, specs, None).images) == 1
