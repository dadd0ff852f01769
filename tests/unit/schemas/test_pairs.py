"""Pairs: what the fast writer writes is what the message model writes, and reading refuses what is no pair."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import ImageDtype, InferencePair, Outcome
from schemas.pairs import PairWriter, read_pair
from schemas.refusal import Reason, Refusal

LABELS = ("airplane", "automobile", "bird")
SHA256 = "ab" * 32
WRITER = PairWriter("cifar10", "2.1", SHA256, LABELS, "cpu")
SENT, ANSWERED = 1_767_225_600.123456, 1_767_225_601.5


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def batch(count: int, **changes: Any) -> dict[str, Any]:
    """Arguments of `PairWriter.encode` for `count` images."""
    rng = np.random.default_rng(count)
    return {
        "request_ids": [f"truck-{index}" for index in range(count)],
        "images": rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8),
        "attributes": [{"site": f"north-{index}"} for index in range(count)],
        "sent_at": [SENT + index for index in range(count)],
        "deadlines": [None if index % 2 else SENT + 60 for index in range(count)],
        "outputs": rng.dirichlet(np.ones(len(LABELS)), count).astype(np.float32),
        "queue": [0.001 * index for index in range(count)],
        "batch": [0.002 * index for index in range(count)],
        "compute": 0.25,
        "batch_size": count,
        "answered_at": ANSWERED,
        **changes,
    }


def expected_pair(facts: dict[str, Any], index: int) -> InferencePair:
    """The pair as the message model builds it."""
    image, probabilities, deadline = facts["images"][index], facts["outputs"], facts["deadlines"][index]
    row = None if probabilities is None else probabilities[index].tolist()
    predicted = None if row is None else int(np.argmax(row))
    return InferencePair.model_validate(
        {
            "request": {
                "request_id": facts["request_ids"][index],
                "model": "cifar10",
                "image": {"dtype": image.dtype.name, "shape": image.shape, "data": image.tobytes()},
                "attributes": facts["attributes"][index],
                "sent_at": utc(facts["sent_at"][index]),
                "deadline": None if deadline is None else utc(deadline),
            },
            "response": {
                "outcome": Outcome.EXPIRED if row is None else Outcome.OK,
                "model": "cifar10",
                "model_version": "2.1",
                "weights_sha256": SHA256,
                "probabilities": row,
                "predicted": predicted,
                "label": None if predicted is None else LABELS[predicted],
                "labels_id": "45eee5383554521a",
                "confidence": None if row is None else max(row),
                "value": None,
                "timings": {
                    "queue": facts["queue"][index],
                    "batch": facts["batch"][index],
                    "compute": facts["compute"],
                },
                "batch_size": facts["batch_size"],
                "device": "cpu",
                "answered_at": utc(facts["answered_at"]),
            },
        }
    )


FLOATS = np.random.default_rng(1).random((3, 4, 5, 3), np.float32)
CASES: dict[str, dict[str, Any]] = {
    "uint8": batch(7),
    "one": batch(1),
    "float32": batch(3, images=FLOATS),
    "expired": batch(3, outputs=None, batch_size=0, compute=0.0),
    "tabular": batch(3, images=FLOATS.reshape(3, 60)),
    "column-major": batch(3, images=np.asfortranarray(FLOATS)),
    "every other row": batch(3, images=np.repeat(FLOATS, 2, axis=0)[::2]),
    "whole seconds": batch(2, sent_at=[1_767_225_600.0, 0.0], answered_at=1_767_225_601.0),
    "certain": batch(2, outputs=np.eye(3, dtype=np.float32)[:2]),
    "none": batch(0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_what_the_message_model_writes(name: str) -> None:
    facts = CASES[name]
    written = WRITER.encode(**facts)
    assert len(written) == len(facts["request_ids"])
    for index, value in enumerate(written):
        expected = expected_pair(facts, index)
        assert orjson.loads(value) == orjson.loads(expected.model_dump_json())
        assert InferencePair.model_validate_json(value) == expected
        assert read_pair(value) == expected


def test_a_read_only_view_on_a_payload_is_written() -> None:
    payload = bytes(range(60)) * 2
    images = np.frombuffer(payload, np.uint8).reshape(2, 4, 5, 3)
    assert [read_pair(value).request.image.data for value in WRITER.encode(**batch(2, images=images))] == [
        payload[:60],
        payload[60:],
    ]


def test_probabilities_come_back_to_the_last_bit() -> None:
    facts = batch(64)
    rows = [read_pair(value).response for value in WRITER.encode(**facts)]
    assert np.array_equal(np.array([row.probabilities for row in rows], np.float32), facts["outputs"])
    assert all(row.probabilities is not None and row.confidence == max(row.probabilities) for row in rows)
    assert [row.label for row in rows] == [LABELS[row.predicted or 0] for row in rows]


@settings(max_examples=200)
@given(
    st.text(min_size=1, max_size=40),
    st.dictionaries(st.text(max_size=64), st.text(max_size=256), max_size=4),
    st.floats(0, 253_402_300_799),
)
def test_any_id_attribute_and_time_survives(request_id: str, attributes: dict[str, str], sent_at: float) -> None:
    facts = batch(1, request_ids=[request_id], attributes=[attributes], sent_at=[sent_at])
    request = read_pair(WRITER.encode(**facts)[0]).request
    assert (request.request_id, request.attributes, request.sent_at) == (request_id, attributes, utc(sent_at))


def test_a_clock_that_is_behind_the_sender_s_counts_as_no_wait() -> None:
    facts = batch(2, queue=[-5.0, 1.0], batch=[0.5, -1e-9], compute=-1e-9)
    timings = [read_pair(value).response.timings for value in WRITER.encode(**facts)]
    assert [(each.queue, each.batch, each.compute) for each in timings] == [(0, 0.5, 0), (1, 0, 0)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_a_model_that_answers_no_probabilities_is_an_error_and_writes_no_pair(value: float) -> None:
    facts = batch(3)
    facts["outputs"][1, 2] = value
    with pytest.raises(ValueError, match="cifar10"):
        WRITER.encode(**facts)


NUMBERS = PairWriter("crowd", "1", SHA256, ["people"], "cpu", "regression")


def test_a_regression_model_answers_a_value_and_nothing_that_needs_classes() -> None:
    values = np.array([[-3.25], [0.1], [np.finfo(np.float32).max]], np.float32)
    pairs = [read_pair(value) for value in NUMBERS.encode(**batch(3, outputs=values))]
    assert [pair.response.value for pair in pairs] == values[:, 0].tolist()
    for pair in pairs:
        response = pair.response
        assert response.outcome is Outcome.OK
        assert response.probabilities is response.predicted is response.label is response.confidence is None
        assert orjson.loads(pair.model_dump_json())["response"].keys() == orjson.loads(GOOD)["response"].keys()


def test_a_regression_model_that_was_not_asked_answers_nothing() -> None:
    [value] = NUMBERS.encode(**batch(1, outputs=None, batch_size=0))
    response = read_pair(value).response
    assert (response.outcome, response.value) == (Outcome.EXPIRED, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_and_writes_no_pair(value: float) -> None:
    with pytest.raises(ValueError, match="crowd answered a value that is not finite"):
        NUMBERS.encode(**batch(2, outputs=np.array([[1.0], [value]], np.float32)))


def test_a_regression_model_answers_one_number() -> None:
    for shape in ((2, 2), (1, 1), (2,)):
        with pytest.raises(ValueError, match="outputs have shape"):
            NUMBERS.encode(**batch(2, outputs=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("field", ["request_ids", "images", "attributes", "sent_at", "deadlines", "queue", "batch"])
def test_arguments_of_different_lengths_are_an_error(field: str) -> None:
    facts = batch(3)
    with pytest.raises(ValueError, match=r"argument \d is (shorter|longer)"):
        WRITER.encode(**{**facts, field: facts[field][:2]})


def test_another_number_of_classes_or_rows_is_an_error() -> None:
    for shape in ((3, 4), (2, 3), (3,)):
        with pytest.raises(ValueError, match="outputs have shape"):
            WRITER.encode(**batch(3, outputs=np.zeros(shape, np.float32)))


GOOD = WRITER.encode(**batch(1))[0]


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for name in outer:
            document = document[name]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("request", None, Reason.INVALID_FIELD),
        ("request.image.data", "*", Reason.INVALID_FIELD),
        ("request.image.data", "AAAA", Reason.INVALID_FIELD),
        ("request.image.shape", [-4, -5, 3], Reason.INVALID_FIELD),
        ("request.sent_at", "2026-01-01T00:00:00", Reason.INVALID_FIELD),
        ("request.request_id", "", Reason.INVALID_FIELD),
        ("response.confidence", 1.5, Reason.INVALID_FIELD),
        ("response.timings.queue", -1, Reason.INVALID_FIELD),
        ("response.value", 1.5, Reason.INVALID_FIELD),
        ("response.probabilities", None, Reason.INVALID_FIELD),
    ],
)
def test_a_pair_with_a_wrong_field_is_refused_with_its_name(path: str, value: object, reason: Reason) -> None:
    document = orjson.loads(GOOD)
    _set(path, value)(document)
    with pytest.raises(Refusal) as caught:
        read_pair(orjson.dumps(document))
    assert caught.value.reason is reason
    assert path.rpartition(".")[0] in caught.value.detail


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY_VALUE),
        (b"", Reason.EMPTY_VALUE),
        (b"\xff", Reason.INVALID_JSON),
        (GOOD[:-1], Reason.INVALID_JSON),
        (b"[" * 100_000, Reason.INVALID_JSON),
        (b"{}", Reason.MISSING_FIELD),
        (b"[]", Reason.INVALID_FIELD),
        (GOOD.replace(b'"probabilities":[', b'"probabilities":[NaN,'), Reason.NOT_FINITE),
    ],
)
def test_what_is_no_pair_is_refused(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(Refusal) as caught:
        read_pair(value)
    assert caught.value.reason is reason


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 40), st.binary(max_size=6))
def test_a_damaged_pair_is_read_or_refused(at: int, length: int, instead: bytes) -> None:
    try:
        pair = read_pair(GOOD[:at] + instead + GOOD[at + length :])
    except Refusal:
        return
    size = 1 if pair.request.image.dtype is ImageDtype.UINT8 else 4
    assert len(pair.request.image.data) == size * int(np.prod(pair.request.image.shape))


def test_fields_of_a_later_version_are_ignored() -> None:
    document = orjson.loads(GOOD)
    document["later"] = document["request"]["later"] = {"a": 1}
    assert read_pair(orjson.dumps(document)) == read_pair(GOOD)
