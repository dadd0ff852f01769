"""A pair that is made again from its record counts exactly as the one that was folded, whatever its kind of answer."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.confusion.entries import UNLABELLED, Entry, PairHalf, Truth, answer_of, number_of
from agents.confusion.late import late_part
from agents.confusion.records import truth_record
from agents.confusion.sums import Sums, add, contribution
from schemas.model_spec import ModelSpec

CLASSES = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("a", "b", "c"),
        "weights": {"framework": "null"},
    }
)
NUMBERS = CLASSES.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
SPECS = {"m": CLASSES, "n": NUMBERS}
WAITING = Entry((), (Truth(9.0, 7, 0, "told"),), 5.0, 6.0)


def pair(spec: ModelSpec, outputs: list[float]) -> PairHalf:
    return PairHalf(0, 3, spec.name, "1", 1.0, 2.0, *answer_of(outputs, bool(spec.classes)))


def judged(spec: ModelSpec, outputs: list[float], truth: Truth) -> PairHalf:
    return replace(pair(spec, outputs), told=truth)


def record(spec: ModelSpec, outputs: list[float], joined: PairHalf | None) -> dict[str, Any]:
    """As the outliers agent and this one write it."""
    own = {"value": outputs[0]} if spec is NUMBERS else {"probabilities": outputs, "predicted": int(np.argmax(outputs))}
    response = {"model": spec.name, "model_version": "1", "answered_at": "1970-01-01T00:00:01Z", **own}
    written: Any = {} if joined is None else truth_record(0, "id", joined, SPECS).document
    return {"response": response, **written}


def late(known: dict[str, Any]) -> tuple[PairHalf, ...]:
    part = late_part(known, WAITING, SPECS)
    return () if part is None else part.pairs


CASES = [(CLASSES, [0.1, 0.7, 0.2], 2), (NUMBERS, [float(np.float32(0.1))], -1.0), (NUMBERS, [-7.3], 1 / 3)]


@pytest.mark.parametrize(("spec", "outputs", "truth"), CASES)
def test_the_same_truth_again_changes_no_sum(spec: ModelSpec, outputs: list[float], truth: Any) -> None:
    form = number_of(truth) if spec is NUMBERS else truth
    folded = judged(spec, outputs, Truth(1.0, 1, 0, form))
    [half] = late(record(spec, outputs, folded))
    assert half.truth == form
    assert contribution(half, {}) == Sums()


@pytest.mark.parametrize(("spec", "outputs", "truth"), CASES)
def test_the_first_truth_counts_as_if_it_had_come_in_time(spec: ModelSpec, outputs: list[float], truth: Any) -> None:
    [half] = late(record(spec, outputs, None))
    assert half.truth is None
    told = Truth(1.0, 1, 0, truth)
    total = contribution(pair(spec, outputs), {})
    add(total, contribution(replace(half, told=told), {}))
    assert total == contribution(judged(spec, outputs, told), {})


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(-1e30, 1e30), st.sampled_from([-math.inf, math.inf]))
def test_a_store_that_changes_the_last_digit_of_a_number_changes_no_sum(
    answer: float, told: float, direction: float
) -> None:
    outputs, truth = [answer], number_of(told)
    known = record(NUMBERS, outputs, judged(NUMBERS, outputs, Truth(1.0, 1, 0, truth)))
    for part, name in ((known["response"], "value"), (known["feedback"], "value")):
        part[name] = math.nextafter(part[name], direction)
    [half] = late(known)
    assert contribution(half, {}) == Sums()


def test_a_truth_about_an_earlier_answer_to_the_same_request_is_not_one_that_the_last_is_counted_under() -> None:
    earlier = judged(CLASSES, [0.1, 0.7, 0.2], Truth(1.0, 1, 0, 2))
    known = record(CLASSES, [0.6, 0.3, 0.1], earlier)
    known["response"]["answered_at"] = "1970-01-01T00:01:01Z"
    [half] = late(known)
    assert (half.predicted, half.time, half.truth, half.counted) == (0, 61.0, None, UNLABELLED)
    told = replace(half, told=Truth(2.0, 2, 0, 1))
    assert contribution(told, {})["labelled"] == contribution(told, {})["cell:1:0"] == 1
    assert not [name for name, count in contribution(told, {}).items() if count < 0]
    known["response"]["answered_at"] = "1970-01-01T00:00:00Z"
    assert late(known) == (), "the record of the answer that was judged is on its way"


def test_an_answer_that_was_not_counted_is_no_pair_until_it_is_asked_again() -> None:
    known = record(CLASSES, [0.1, 0.7, 0.2], None)
    known["uncounted"] = {"reason": "unknown_model", "answered_at": known["response"]["answered_at"]}
    assert late(known) == ()
    known["response"]["answered_at"] = "1970-01-01T00:01:01Z"
    assert len(late(known)) == 1


def test_a_truth_in_a_record_of_an_earlier_version_is_about_the_answer_in_it() -> None:
    known = record(CLASSES, [0.1, 0.7, 0.2], judged(CLASSES, [0.1, 0.7, 0.2], Truth(1.0, 1, 0, 2)))
    del known["feedback"]["answered_at"]
    known["response"]["answered_at"] = "1970-01-01T00:01:01Z"
    assert [half.truth for half in late(known)] == [2]


def test_a_record_with_an_answer_of_another_kind_is_no_pair() -> None:
    wrong = record(NUMBERS, [1.5], None)
    wrong["response"]["model"] = "m"
    assert late_part(wrong, WAITING, SPECS) is None
    wrong = record(CLASSES, [0.5, 0.25, 0.25], None)
    wrong["response"]["model"] = "n"
    assert late_part(wrong, WAITING, SPECS) is None


def test_the_record_of_a_number_says_by_how_much_the_model_was_off() -> None:
    joined = judged(NUMBERS, [17.25], Truth(1.0, 1, 0, 20.0))
    feedback: Any = truth_record(0, "id", joined, SPECS).document
    assert feedback["feedback"].items() >= {"value": 20.0, "error": -2.75}.items()
    assert feedback["feedback"].keys().isdisjoint({"truth", "label", "correct"})
