"""Feedback in every form the article's servers take; what is wrong is refused with the reason, item by item."""

import json
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson
import pytest

from agents.confusion.entries import EMPTY, Entry, PairHalf, answer_of, encode
from agents.confusion.inputs import InputReader, Inputs, partition_of
from agents.confusion.merging import merge
from agents.confusion.truth import read_feedback, resolve
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

NOW = 1.8e9


def read(messages: list[Any], specs: dict[str, ModelSpec], partitions: int = 1) -> Inputs:
    return InputReader(specs, 30, partitions).read(messages, NOW)


class Message:
    """A message as Faust hands it over."""

    topic, headers, offset, timestamp = "inference.feedback", (), 5, NOW

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
    inputs = read([Message(orjson.dumps(item(model="n", **form)))], {"m": THREE, "n": NUMBERS})
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
    inputs = read([Message(orjson.dumps(batch))], {"m": THREE})
    assert len(inputs.parts) == 2
    assert [orjson.loads(letter.value) for letter, _ in inputs.refused] == [batch[1], batch[2], batch[3]]
    assert inputs.outcomes["", "invalid"] == 3


def test_feedback_is_taken_where_its_pair_is_and_sent_on_elsewhere() -> None:
    batch = [{**item(truth=1), "request_id": f"id-{number}"} for number in range(40)]
    taken: list[str] = []
    for partition in range(4):
        inputs = read([Message(orjson.dumps(batch), None, partition)], {"m": THREE}, 4)
        taken += [name for name, _ in inputs.parts]
        assert len(inputs.parts) + len(inputs.misplaced) == 40
        for name, target, value, _ in inputs.misplaced:
            assert target == partition_of(name, 4) != partition
            assert orjson.loads(value)["request_id"] == name
    assert sorted(taken) == sorted(one["request_id"] for one in batch)


def test_self_contained_feedback_is_a_joined_entry() -> None:
    value = orjson.dumps(item(truth="c", model="m", response=[0.1, 0.7, 0.2]))
    [(_, entry)] = read([Message(value)], {"m": THREE}).parts
    [half] = merge(EMPTY, entry, {"m": THREE}).entry.pairs
    assert (half.predicted, half.truth) == (1, 2)
    assert np.allclose(half.vector(), [0.1, 0.7, 0.2])


def test_self_contained_feedback_about_a_regression_model_is_a_joined_entry() -> None:
    value = orjson.dumps(item(truth=20, model="n", response=[17.25]))
    [(_, entry)] = read([Message(value)], {"n": NUMBERS}).parts
    [half] = merge(EMPTY, entry, {"n": NUMBERS}).entry.pairs
    assert (half.predicted, half.truth) == (17.25, 20.0)


@pytest.mark.parametrize(("response", "reason"), [([1.0, 2.0], Reason.WRONG_SHAPE), ([4e38], Reason.OUT_OF_RANGE)])
def test_a_response_that_is_no_number_is_refused(response: list[float], reason: Reason) -> None:
    value = orjson.dumps(item(truth=20, model="n", response=response))
    [(_, refusal)] = read([Message(value)], {"n": NUMBERS}).refused
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
    inputs = read([Message(orjson.dumps(item(truth=1, **fields)))], {"m": THREE})
    [(_, refusal)] = inputs.refused
    assert refusal.reason is reason and inputs.parts == []


@pytest.mark.parametrize("model", ["gone", None])
@pytest.mark.parametrize(
    ("form", "truth"),
    [({"truth_index": 2}, 2), ({"truth_one_hot": [0, 1, 0]}, 1), ({"truth_index": 3}, None), ({"truth": 1}, None)],
)
def test_a_truth_that_needs_no_label_is_joined_with_the_answer_of_a_model_that_was_removed(
    model: str | None, form: dict[str, Any], truth: int | None
) -> None:
    told = Message(orjson.dumps(item(model=model, **form)))
    specs = {"m": BINARY}
    [(_, entry)] = InputReader(specs, 30, 1).read([told], NOW, unlabelled={"gone"}).parts
    pair = Entry((PairHalf(0, 0, "gone", "1", NOW, NOW, *answer_of([0.7, 0.2, 0.1], True)),))
    merged = merge(pair, entry, specs)
    assert [half.truth for half in merged.entry.pairs] == [truth]
    assert len(merged.refused) == (truth is None)


@pytest.mark.parametrize("fields", [{"truth_label": "c"}, {"truth": "c"}, {"truth": 1, "response": [0.7, 0.2, 0.1]}])
def test_what_needs_the_labels_of_a_model_that_was_removed_is_refused(fields: dict[str, Any]) -> None:
    told = Message(orjson.dumps(item(model="gone", **fields)))
    [(_, refusal)] = InputReader({"m": BINARY}, 30, 1).read([told], NOW, unlabelled={"gone"}).refused
    assert refusal.reason is Reason.UNKNOWN_MODEL


NUMBERED = spec("1", "2", "3")


@pytest.mark.parametrize("form", [{"truth": 1}, {"truth": [1]}, {"truth": 2.0}, {"truth": 0}, {"truths": [1]}])
def test_a_number_where_labels_are_numbers_is_refused_with_the_remedy(form: dict[str, Any]) -> None:
    [(_, refusal)] = read([Message(orjson.dumps(item(**form)))], {"m": NUMBERED}).refused
    assert refusal.reason is Reason.INVALID_FIELD and "say truth_index or truth_label" in refusal.detail


@pytest.mark.parametrize(
    ("form", "labels", "index"),
    [
        ({"truth_index": 1}, ("1", "2", "3"), 1),
        ({"truth": "1"}, ("1", "2", "3"), 0),
        ({"truth_label": "1"}, ("1", "2", "3"), 0),
        ({"truth": [0, 1, 0]}, ("1", "2", "3"), 1),
        ({"truth": 1}, ("0", "1", "2"), 1),
        ({"truth": "true"}, ("true", "false"), 0),
    ],
)
def test_what_names_its_form_is_taken_as_it_says(form: dict[str, Any], labels: tuple[str, ...], index: int) -> None:
    [told], _ = read_feedback(orjson.dumps(item(**form)), 0)
    assert resolve(told.truth.form, spec(*labels)) == index


@pytest.mark.parametrize("form", [{"truth": True}, {"truth": [True]}, {"truth_index": True}, {"truths": [[False]]}])
def test_true_is_no_class(form: dict[str, Any]) -> None:
    [(_, refusal)] = read([Message(orjson.dumps(item(**form)))], {"m": spec("true", "false")}).refused
    assert refusal.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("form", [{"truth": 10**400}, {"truth": [10**30]}, {"truth_one_hot": [10**400, 0, 0]}])
def test_whole_numbers_of_any_length_are_refused(form: dict[str, Any]) -> None:
    value = json.dumps(item(**form)).encode()
    inputs = read([Message(value)], {"m": THREE, "n": NUMBERS})
    assert len(inputs.refused) == 1 or [encode(entry) for _, entry in inputs.parts]


@pytest.mark.parametrize(
    "rows",
    [
        {"truths": ["c", "a", "b"]},
        {"truth": ["c", "a", "b"]},
        {"truths": [2, 0, 1]},
        {"truth": [[2], [0], [1]]},
        {"truth": [[0, 0, 1], [1, 0, 0], [0, 1, 0]]},
    ],
)
def test_feedback_about_a_request_of_several_images_is_about_each_of_their_answers(rows: dict[str, Any]) -> None:
    inputs = read([Message(orjson.dumps({**item(**rows), "request_id": "b1", "model": "m"}))], {"m": THREE})
    assert inputs.refused == []
    assert [name for name, _ in inputs.parts] == ["b1-0", "b1-1", "b1-2"]
    assert [resolve(entry.truths[0].form, THREE) for _, entry in inputs.parts] == [2, 0, 1]
    assert all(entry.truths[0].model == "m" for _, entry in inputs.parts)


def test_one_row_is_about_the_request_itself() -> None:
    [(name, entry)] = read([Message(orjson.dumps(item(truth=[[0, 1, 0]])))], {"m": THREE}).parts
    assert (name, resolve(entry.truths[0].form, THREE)) == ("x", 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"truths": ["a", "zebra"]}, "zebra"),
        ({"truths": ["a", "b"], "response": [0.1, 0.2, 0.7], "model": "m"}, "an item of its own"),
        ({"truths": []}, "truths"),
        ({"truths": ["a"], "truth": "a"}, "exactly one"),
        ({"truths": ["a"] * 1025}, "truths"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(fields: dict[str, Any], said: str) -> None:
    inputs = read([Message(orjson.dumps(item(**fields)))], {"m": THREE})
    [(_, refusal)] = inputs.refused
    assert said in refusal.detail


def test_a_message_has_no_more_truths_than_it_may_rows_counted() -> None:
    inputs = read([Message(orjson.dumps([item(truths=["a"] * 1000)] * 11))], {"m": THREE})
    assert (len(inputs.parts), len(inputs.refused)) == (10_000, 1)


@pytest.mark.parametrize(("ahead", "taken"), [(299, True), (301, False), (73 * 365 * 86_400, False)])
@pytest.mark.parametrize("more", [{}, {"model": "m", "response": [0.1, 0.7, 0.2]}])
def test_feedback_of_the_future_is_refused(ahead: float, taken: bool, more: dict[str, Any]) -> None:
    given_at = datetime.fromtimestamp(NOW + ahead, timezone.utc).isoformat()
    inputs = read([Message(orjson.dumps({**item(truth=1, **more), "given_at": given_at}))], {"m": THREE})
    assert len(inputs.parts) == taken
    assert [refusal.reason for _, refusal in inputs.refused] == ([] if taken else [Reason.IN_FUTURE])


@pytest.mark.parametrize("timestamp", [-0.001, NOW + 73 * 365 * 86_400])
def test_a_timestamp_that_is_none_or_itself_of_the_future_is_no_measure(timestamp: float) -> None:
    message = Message(orjson.dumps({**item(truth=1), "given_at": "2099-01-01T00:00:00Z"}))
    message.timestamp = timestamp  # type: ignore[misc]
    [(_, refusal)] = read([message], {"m": THREE}).refused
    assert refusal.reason is Reason.IN_FUTURE


def test_a_truth_waits_from_when_it_came_not_from_when_it_was_read() -> None:
    message = Message(orjson.dumps(item(truth=1)))
    message.timestamp = NOW - 5000  # type: ignore[misc]
    [(_, entry)] = read([message], {"m": THREE}).parts
    assert (entry.since, entry.due) == (NOW - 5000, NOW - 5000 + 30)


def test_what_is_kept_of_a_truth_while_it_waits_is_short() -> None:
    wide = spec(*(f"class-{number}" for number in range(5000)))
    value = orjson.dumps(item(truth=[float(number == 7) for number in range(5000)]))
    [(_, entry)] = read([Message(value)], {"m": wide}).parts
    assert len(encode(entry)) < 1000 and resolve(entry.truths[0].form, wide) == 7
    assert orjson.loads(entry.truths[0].letter or "")["truth_index"] == 7
