"""Feedback in every form the article's servers take; what is wrong is refused with the reason, item by item."""

from typing import Any

import numpy as np
import orjson
import pytest

from agents.confusion.inputs import partition_of, read_inputs
from agents.confusion.truth import read_feedback, resolve
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal


class Message:
    """A message as Faust hands it over."""

    topic, headers, offset, timestamp = "inference.feedback", (), 5, 0.0

    def __init__(self, value: bytes, key: bytes | None = None, partition: int = 0) -> None:
        self.value, self.key, self.partition = value, key, partition


def spec(*labels: str) -> ModelSpec:
    document = {"name": "m", "version": "1", "input": {"shape": (2, 2, 3)}, "weights": {"framework": "null"}}
    return ModelSpec.model_validate({**document, "labels": labels})


THREE, BINARY = spec("a", "b", "c"), spec("no", "yes")


def item(**fields: Any) -> dict[str, Any]:
    return {"request_id": "x", "given_at": "2026-01-01T00:00:00Z", **fields}


@pytest.mark.parametrize(
    "form",
    [
        {"truth_index": 1},
        {"truth_label": "b"},
        {"truth_one_hot": [0, 1, 0]},
        {"truth_probabilities": [0.2, 0.5, 0.3]},
        {"truth": 1},
        {"truth": "b"},
        {"truth": [1]},
        {"truth": [1.0]},
        {"truth": [0, 1, 0]},
        {"truth": [0.2, 0.5, 0.3]},
    ],
)
def test_every_form_names_the_same_class(form: dict[str, Any]) -> None:
    [told], refused = read_feedback(orjson.dumps(item(**form)), 7)
    assert refused == []
    assert resolve(told.truth.form, THREE) == 1


@pytest.mark.parametrize(("truth", "index"), [([1], 1), ([0], 0), ([0, 1], 1), ("yes", 1), (0, 0)])
def test_binary_models_take_the_same_forms(truth: Any, index: int) -> None:
    [told], _ = read_feedback(orjson.dumps(item(truth=truth)), 0)
    assert resolve(told.truth.form, BINARY) == index


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (3, Reason.OUT_OF_RANGE),
        (-1, Reason.OUT_OF_RANGE),
        ("zebra", Reason.INVALID_FIELD),
        ([0.0, 1.0], Reason.WRONG_SHAPE),
        ([0.5], Reason.INVALID_FIELD),
        ([7.0], Reason.OUT_OF_RANGE),
        ([float("nan"), 0.0, 0.0], Reason.NOT_FINITE),
        ([0.0, 0.0, 0.0], Reason.INVALID_FIELD),
        ([1.0, 1.0, 0.0], Reason.INVALID_FIELD),
        ([2.0, 0.0, 0.0], Reason.INVALID_FIELD),
    ],
)
def test_what_names_no_single_class_is_refused(form: Any, reason: Reason) -> None:
    with pytest.raises(Refusal) as caught:
        resolve(form, THREE)
    assert caught.value.reason is reason


NUMBERS = spec("people").model_copy(update={"name": "n", "task": "regression"})


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ({"truth_value": 21.5}, 21.5),
        ({"truth_value": -1}, -1.0),
        ({"truth": 21.5}, 21.5),
        ({"truth": 21}, 21.0),
        ({"truth": 0}, 0.0),
        ({"truth": [0.1]}, 0.1),
        ({"truth_value": -3.4e38}, -3.4e38),
    ],
)
def test_every_form_names_the_same_number(form: dict[str, Any], number: float) -> None:
    [told], refused = read_feedback(orjson.dumps(item(**form)), 7)
    found = resolve(told.truth.form, NUMBERS)
    assert refused == [] and (found, type(found)) == (number, float)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"truth_index": 1}, Reason.INVALID_FIELD),
        ({"truth_label": "people"}, Reason.INVALID_FIELD),
        ({"truth": "21.5"}, Reason.INVALID_FIELD),
        ({"truth": "NaN"}, Reason.INVALID_FIELD),
        ({"truth_value": "21.5"}, Reason.INVALID_FIELD),
        ({"truth_one_hot": [0, 1, 0]}, Reason.WRONG_SHAPE),
        ({"truth": [1.0, 2.0]}, Reason.WRONG_SHAPE),
        ({"truth_value": 3.5e38}, Reason.OUT_OF_RANGE),
        ({"truth": [-1e300]}, Reason.OUT_OF_RANGE),
    ],
)
def test_what_is_no_number_is_refused_for_a_regression_model(form: dict[str, Any], reason: Reason) -> None:
    inputs = read_inputs([Message(orjson.dumps(item(model="n", **form)))], {"m": THREE, "n": NUMBERS}, 30, 0.0, 1)
    [(_, refusal)] = inputs.refused
    assert refusal.reason is reason and inputs.parts == []


def test_a_number_that_is_not_finite_is_refused() -> None:
    for form in (float("nan"), [float("inf")]):
        with pytest.raises(Refusal) as caught:
            resolve(form, NUMBERS)
        assert caught.value.reason is Reason.NOT_FINITE


def test_a_value_is_no_class() -> None:
    with pytest.raises(Refusal, match="m is a classifier"):
        resolve(1.0, THREE)


@pytest.mark.parametrize("value", [b"", None, b"{", b"[]", b"[NaN]"])
def test_a_message_that_holds_nothing_is_refused_whole(value: bytes | None) -> None:
    with pytest.raises(Refusal):
        read_feedback(value, 0)


def test_feedback_in_a_schema_registry_s_framing_is_told_so() -> None:
    with pytest.raises(Refusal, match="schema registry's framing") as caught:
        read_feedback(b"\0\0\0\0\1" + orjson.dumps(item(truth=1)), 0)
    assert caught.value.reason is Reason.INVALID_JSON


def test_a_bad_item_does_not_spoil_its_batch() -> None:
    batch = [item(truth=1), item(), 5, item(truth=2, truth_label="a"), item(truth=0)]
    inputs = read_inputs([Message(orjson.dumps(batch))], {"m": THREE}, 30, 0.0, 1)
    assert len(inputs.parts) == 2
    assert [orjson.loads(letter.value) for letter, _ in inputs.refused] == [batch[1], batch[2], batch[3]]
    assert inputs.outcomes["", "invalid"] == 3


def test_feedback_is_taken_where_its_pair_is_and_sent_on_elsewhere() -> None:
    batch = [{**item(truth=1), "request_id": f"id-{number}"} for number in range(40)]
    taken: list[str] = []
    for partition in range(4):
        inputs = read_inputs([Message(orjson.dumps(batch), None, partition)], {"m": THREE}, 30, 0.0, 4)
        taken += [name for name, _ in inputs.parts]
        assert len(inputs.parts) + len(inputs.misplaced) == 40
        for name, target, value, _ in inputs.misplaced:
            assert target == partition_of(name, 4) != partition
            assert orjson.loads(value)["request_id"] == name
    assert sorted(taken) == sorted(one["request_id"] for one in batch)


def test_self_contained_feedback_is_a_joined_entry() -> None:
    value = orjson.dumps(item(truth="c", model="m", response=[0.1, 0.7, 0.2]))
    [(_, entry)] = read_inputs([Message(value)], {"m": THREE}, 30, 0.0, 1).parts
    assert entry.pair is not None and (entry.pair.predicted, entry.truth) == (1, 2)
    assert np.allclose(entry.pair.vector(), [0.1, 0.7, 0.2])


def test_self_contained_feedback_about_a_regression_model_is_a_joined_entry() -> None:
    value = orjson.dumps(item(truth=20, model="n", response=[17.25]))
    [(_, entry)] = read_inputs([Message(value)], {"n": NUMBERS}, 30, 0.0, 1).parts
    assert entry.pair is not None and (entry.pair.predicted, entry.truth) == (17.25, 20.0)


@pytest.mark.parametrize(("response", "reason"), [([1.0, 2.0], Reason.WRONG_SHAPE), ([4e38], Reason.OUT_OF_RANGE)])
def test_a_response_that_is_no_number_is_refused(response: list[float], reason: Reason) -> None:
    value = orjson.dumps(item(truth=20, model="n", response=response))
    [(_, refusal)] = read_inputs([Message(value)], {"n": NUMBERS}, 30, 0.0, 1).refused
    assert refusal.reason is reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"response": [0.1, 0.9]}, Reason.MISSING_FIELD),
        ({"model": "m", "response": [0.1, 0.9]}, Reason.WRONG_SHAPE),
        ({"model": "m", "response": [0.1, 1.9, 0.0]}, Reason.OUT_OF_RANGE),
        ({"model": "nobody"}, Reason.UNKNOWN_MODEL),
    ],
)
def test_a_response_or_model_that_does_not_fit_is_refused(fields: dict[str, Any], reason: Reason) -> None:
    inputs = read_inputs([Message(orjson.dumps(item(truth=1, **fields)))], {"m": THREE}, 30, 0.0, 1)
    [(_, refusal)] = inputs.refused
    assert refusal.reason is reason and inputs.parts == []
