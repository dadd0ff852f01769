"""The law of the join: whatever order, repetition, kills and take-overs, its counts are those of the final truth."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.confusion.entries import Entry, PairHalf, Truth
from agents.confusion.fold import latest
from agents.confusion.merging import MAX_ANSWERS, MAX_TRUTHS
from agents.confusion.partition import PartitionJoin
from agents.confusion.records import truth_record
from agents.confusion.store import MemoryStore
from agents.confusion.sums import Sums
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason
from tests.unit.agents.confusion.expectations import check_classes, check_errors, check_sums, expected
from tests.unit.agents.confusion.world import CLASSES, LIMITS, NUMBERS, SPEC, SPECS, Input, World, by_group, half

VALUES = (-1.0, 0.3, 4096.7)
"""Truths about the regression model, in the place of classes."""
IDS = 8
ANSWERERS = (("m", "1"), ("m", "2"), ("n", "1"))
"""Who may answer a request: two versions of a classifier, and a regression model beside it."""


@st.composite
def histories(draw: Any) -> tuple[list[Input], list[tuple[str, int]], int]:
    """Inputs in the order of a log, in which a pair may come after its feedback, twice or never; what happens; and how
    many pairs the state may hold."""
    events = draw(
        st.lists(
            st.tuples(
                st.integers(0, IDS - 1),
                st.sampled_from(["pair", "truth", "truth", "again"]),
                st.integers(0, CLASSES - 1),
                st.integers(0, 4),
            ),
            max_size=24,
        )
    )
    happenings = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["read", "lost", "tick", "tick-lost", "kill", "move", "rival", "turn", "fold-late"]),
                st.integers(1, 6),
            ),
            max_size=16,
        )
    )
    # What is asked again after its pair has left the state is another request; within it, the last answer counts. And
    # an answer that comes after the truth has left the state with the others is not judged by it.
    once = any("tick" in what or "fold" in what for what, _ in happenings)
    inputs: list[Input] = []
    for number, kind, truth, given_at in events:
        name = f"id-{number}"
        told = [part for other, part in inputs if other == name and isinstance(part, Truth)]
        if kind == "pair":
            answered = [part for other, part in inputs if other == name and isinstance(part, PairHalf)]
            if not (once and answered):
                who = draw(st.lists(st.sampled_from(ANSWERERS), min_size=1, max_size=3, unique=True))
                inputs += [
                    (name, half(number, one, len(inputs) + place, 0.0, len(answered))) for place, one in enumerate(who)
                ]
        elif kind == "again" and told:
            inputs.append((name, replace(told[-1], offset=len(inputs))))
        elif len(told) < MAX_TRUTHS:
            about = draw(st.sampled_from([None, None, "m", "n"]))
            form = draw(st.sampled_from(forms_of(truth)))
            inputs.append((name, Truth(float(given_at), len(inputs), 0, form, model=about)))
    return inputs, happenings, draw(st.sampled_from([3, 1000]))


def forms_of(truth: int) -> list[Any]:
    """The forms that a truth of that number may be given in; each fits one of the models, or both."""
    return [truth, SPEC.labels[truth], [float(truth)], [float(i == truth) for i in range(CLASSES)], VALUES[truth]]


def run(inputs: list[Input], happenings: list[tuple[str, int]], max_entries: int = 1000) -> PartitionJoin:
    world, number = World(inputs, max_entries), 0
    world.start(number)
    for what, count in happenings:
        if what in ("read", "lost"):
            world.step(number, count, what == "read")
        elif what.startswith("tick"):
            world.tick(number, what == "tick")
        elif what == "fold-late":
            world.fold_late(number)
        elif what == "turn":
            number = next((other for other in world.owners if other != number), number)
        elif what == "rival":
            world.start(number + 1)
        else:
            number = (number + 1) % 2 if what == "move" else number
            world.start(number)
        if what in ("lost", "tick-lost"):
            world.start(number)  # what was not durable is only ever lost by a kill
    return world.finish(number)


@settings(max_examples=2500)
@given(histories())
def test_counts_are_those_of_the_final_truth(history: tuple[list[Input], list[tuple[str, int]], int]) -> None:
    inputs, happenings, max_entries = history
    join = run(inputs, happenings, max_entries)
    groups = by_group(expected(inputs))
    assert {group for group, sums in join.totals.items() if sums["pairs"]} == groups.keys()
    for group, known in groups.items():
        check_errors(join.totals[group], known) if group[0] == "n" else check_classes(join.totals[group], known)


@settings(max_examples=300)
@given(histories(), st.randoms(use_true_random=False))
def test_all_sums_are_the_same_whatever_happened(history: Any, chance: random.Random) -> None:
    inputs, happenings, max_entries = history
    disturbed, calm = run(inputs, happenings, max_entries), run(inputs, [])
    assert {group: sums for group, sums in disturbed.totals.items() if sums} == {
        group: sums for group, sums in calm.totals.items() if sums
    }
    check_sums(disturbed)


@pytest.mark.parametrize(("who", "truth"), [(("m", "1"), 5.5), (("n", "1"), "a")])
def test_a_truth_that_fits_the_model_but_not_the_version_that_answered_is_refused(
    who: tuple[str, str], truth: Any
) -> None:
    other = NUMBERS if who[0] == "m" else SPEC
    join = PartitionJoin(MemoryStore(), latest([], 0), {who[0]: other.model_copy(update={"name": who[0]})}, LIMITS)
    join.apply([("id", Entry((half(0, who, 0, 0.0),)))])
    [applied] = join.apply([("id", Entry((), (Truth(0.0, 1, 0, truth),), 0.0, 1.0))])
    assert [refusal.reason for _, refusal in applied.refused] == [Reason.INVALID_FIELD]
    assert applied.new.pairs[0].told is None and join.totals[who]["labelled"] == 0


def test_feedback_that_is_read_ahead_pushes_no_pair_out() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": SPEC}, replace(LIMITS, max_entries=4))
    join.apply([(f"id-{offset}", Entry((half(0, ("m", "1"), offset, 0.0),))) for offset in range(4)])
    join.apply([(f"ahead-{offset}", Entry((), (Truth(0.0, offset, 0, 1),), 0.0, 1.0)) for offset in range(9)])
    assert join.expire(0.0) == []
    join.apply([(f"id-{offset}", Entry((half(0, ("m", "1"), offset, 0.0),))) for offset in range(4, 6)])
    assert [name for name, _ in join.expire(0.0)] == ["id-0", "id-1"]
    assert join.entries == 4 + 9


def test_one_request_that_is_asked_again_counts_by_its_last_answer_and_is_counted_as_repeated() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), SPECS, LIMITS)
    first, again = half(0, ("m", "1"), 0, 0.0), half(0, ("m", "1"), 1, 0.0, repeat=1)
    assert first.predicted != again.predicted
    truth = Entry((), (Truth(0.0, 0, 0, int(first.predicted)),), 0.0, 1.0)
    join.apply([("dup", Entry((first,))), ("dup", truth)])
    [applied] = join.apply([("dup", Entry((again,)))])
    assert applied.merge.repeated == {"m": 1}
    assert join.totals["m", "1"][f"cell:{first.predicted}:{again.predicted}"] == join.totals["m", "1"]["pairs"] == 1
    [reread] = join.apply([("dup", Entry((first,)))])
    assert not reread.merge.repeated and reread.new == applied.new


def test_answers_and_truths_of_one_request_are_bounded_in_number_and_bytes() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), SPECS, LIMITS)
    answers = [Entry((half(0, ("m", f"{number:02}"), number, 0.0),)) for number in range(MAX_ANSWERS + 3)]
    applied = join.apply([("id", one) for one in answers])
    assert sum(len(one.merge.surplus) for one in applied) == 3
    join.apply([("id", Entry((), (Truth(float(at), at, 0, 1),), 0.0, 1.0)) for at in range(100)])
    entry = join.entry("id")
    assert (len(entry.pairs), len(entry.truths)) == (MAX_ANSWERS, MAX_TRUTHS)
    wide = replace(answers[0].pairs[0], probabilities="A" * 400_000)
    entries = [Entry((replace(wide, version=str(number), offset=number),)) for number in range(5)]
    join.apply([("wide", one) for one in entries])
    assert len(join.entry("wide").pairs) == 2


def test_a_truth_without_a_model_is_about_every_answer_also_about_later_ones() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), SPECS, LIMITS)
    join.apply([("id", Entry((), (Truth(0.0, 0, 0, [1.0]),), 0.0, 1.0))])
    for offset, who in enumerate(ANSWERERS):
        join.apply([("id", Entry((half(0, who, offset, 0.0),)))])
    assert [one.truth for one in join.entry("id").pairs] == [1, 1, 1.0]
    join.apply([("id", Entry((), (Truth(1.0, 1, 0, "c", model="m"),), 0.0, 1.0))])
    assert [one.truth for one in join.entry("id").pairs] == [2, 2, 1.0]


@pytest.mark.parametrize("specs", [{}, {"m": SPEC.model_copy(update={"version": "9", "labels": ("a",)})}])
def test_a_model_that_is_removed_or_has_fewer_classes_now_ends_nothing_and_keeps_its_counts(
    specs: dict[str, ModelSpec],
) -> None:
    store, log = MemoryStore(), list[tuple[str, Entry]]()
    join = PartitionJoin(store, latest([], 0), SPECS, LIMITS)
    inputs = [("id", Entry((half(1, ("m", "1"), 0, 0.0),))), ("id", Entry((), (Truth(0.0, 0, 0, "c"),), 0.0, 1.0))]
    log += [(one.request_id, one.new) for one in join.apply(inputs)]
    before = Sums(join.totals["m", "1"])
    later = PartitionJoin(store, latest([], 0), specs, LIMITS)
    rebuilt = PartitionJoin(MemoryStore(), latest([], 0), specs, LIMITS)
    rebuilt.apply(log, replay=True)
    for one in (later, rebuilt):
        assert one.totals["m", "1"] == before
        [label] = one.apply([("id", Entry((), (Truth(1.0, 1, 0, "b"),), 0.0, 1.0))])
        assert [why.reason for _, why in label.refused] == [Reason.INVALID_FIELD if specs else Reason.UNKNOWN_MODEL]
        one.apply([("id", Entry((), (Truth(2.0, 2, 0, 1, model="m"),), 0.0, 1.0))])
        [(name, folded)] = one.expire(1e6)
        document: Any = truth_record(0, name, folded, specs).document
        assert document["feedback"]["truth"] == (2 if specs else 1) and "label" not in document["feedback"]
        assert one.totals["m", "1"]["labelled"] == 1
