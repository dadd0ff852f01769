"""The law of the join: whatever order, repetition, kills and take-overs, its counts are those of the final truth."""

import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, mean_absolute_error, mean_squared_error

from agents.confusion.counts import counts_of
from agents.confusion.entries import EMPTY, UNLABELLED, Answer, Entry, PairHalf, Truth, answer_of, decode, encode
from agents.confusion.figures import figures
from agents.confusion.fold import claimed, decode_fold, encode_fold, latest
from agents.confusion.merging import MAX_ANSWERS, MAX_TRUTHS
from agents.confusion.partition import FOLD, Limits, PartitionJoin
from agents.confusion.records import truth_record
from agents.confusion.store import Changes, MemoryStore
from agents.confusion.sums import Sums, add
from agents.confusion.truth import resolve
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason, Refusal

CLASSES = 3
SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("a", "b", "c"),
        "weights": {"framework": "null"},
        "breakdown": {"attribute": "site", "values": ("north", "south")},
    }
)
NUMBERS = SPEC.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
SPECS = {"m": SPEC, "n": NUMBERS}
VALUES = (-1.0, 0.3, 4096.7)
"""Truths about the regression model, in the place of classes."""
SITES = ({"site": "north"}, {"site": "south"}, {"site": "a new one"}, {})
LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=1000, lookup_seconds=1, orphan_seconds=1e9)
IDS = 8
ANSWERERS = (("m", "1"), ("m", "2"), ("n", "1"))
"""Who may answer a request: two versions of a classifier, and a regression model beside it."""
CLAIM = b""

Input = tuple[str, PairHalf | Truth]


def half(number: int, who: tuple[str, str], offset: int, now: float, repeat: int = 0) -> PairHalf:
    """Each time that it is asked again, a model answers something else."""
    model, version = who
    spec, turn = SPECS[model], number + repeat + int(version)
    outputs = np.roll([0.7, 0.2, 0.1], turn % CLASSES).tolist() if spec is SPEC else [1.1 * turn - 6]
    answer, value = answer_of(outputs, bool(spec.classes)), spec.value_of(SITES[number % len(SITES)])
    return PairHalf(0, offset, model, version, float(number * 7), now, *answer, value=value)


@dataclass
class Owner:
    """An instance that takes itself for the owner of the partition.

    Attributes:
        claim: where its claim stands in the log.
        read: how far it has read the inputs.
    """

    join: PartitionJoin
    claim: int
    read: int


@dataclass
class World:
    """One partition: its inputs, what is durable (committed offsets, log, folds, record), and owners with local disks.

    An owner that is killed loses what it had not made durable; the next one is the same with its disk, or another. Of
    two that are alive at once, the one that claimed last holds; the other one sees that when it has written to the log.
    """

    inputs: list[Input]
    max_entries: int = 1000
    committed: int = 0
    log: list[tuple[str, bytes]] = field(default_factory=list)
    folds: dict[int, bytes] = field(default_factory=dict)
    records: dict[tuple[str, tuple[str, str]], Truth] = field(default_factory=dict)
    disks: dict[int, MemoryStore] = field(default_factory=dict)
    owners: dict[int, Owner] = field(default_factory=dict)
    now: float = 0.0

    def open(self, number: int) -> Owner:
        """As `JoinLoader.open`."""
        claim = len(self.log)
        self.log.append(("", CLAIM))
        fold = latest([decode_fold(value) for value in self.folds.values()], 0)
        store = self.disks.setdefault(number, MemoryStore())
        if store.items.get(FOLD) != encode_fold(fold):
            store.items.clear()
        fold = claimed(fold, claim, True)
        self.folds[fold.epoch] = encode_fold(fold)
        store.write(Changes({FOLD: encode_fold(fold)}))
        join = PartitionJoin(store, fold, SPECS, replace(LIMITS, max_entries=self.max_entries))
        join.apply([(name, decode(value)) for name, value in self.log if value != CLAIM], replay=True)
        owner = self.owners[number] = Owner(join, claim, self.committed)
        return owner

    def step(self, number: int, count: int, durable: bool) -> None:
        """Read some inputs; `durable` says whether log, record and offset were written before whatever comes next."""
        owner = self.owners[number]
        end = owner.read + count
        while end < len(self.inputs) and self._is_one_answer(end):
            end += 1
        batch = [(name, self._part(part)) for name, part in self.inputs[owner.read : end]]
        read = owner.read + len(batch)
        applied = owner.join.apply(batch)
        owner.read = read
        if durable:
            self._deliver(number, batch, applied)
            self.owners[number].read = read
            self.committed = max(self.committed, read)

    def tick(self, number: int, durable: bool) -> None:
        """Time passes: old entries are folded, and waiting truths whose pair is folded are joined by their record."""
        self.now += 15
        owner = self.owners[number]
        if durable and self._is_outbid(owner):
            owner = self.open(number)
        folded = owner.join.expire(self.now)
        if folded and durable:
            self.records |= {(name, one.identity): one.told for name, one in folded if one.told is not None}
            self.folds[owner.join.fold.epoch] = encode_fold(owner.join.fold)
        if durable:
            late = [(name, part) for name, entry in owner.join.due(self.now) for part in self._late(owner, name, entry)]
            self._deliver(number, late, owner.join.apply(late))

    def fold_late(self, number: int) -> None:
        """A fold is published by one that does not know yet that it was outbid."""
        owner = self.owners[number]
        if self._is_outbid(owner) and owner.join.expire(self.now + 1000):
            self.folds[owner.join.fold.epoch] = encode_fold(owner.join.fold)

    def _is_outbid(self, owner: Owner) -> bool:
        return any(value == CLAIM for _, value in self.log[owner.claim + 1 :])

    def _is_one_answer(self, end: int) -> bool:
        """Whether the inputs before and at a place are answers to one request, given at once."""
        (name, part), (other, before) = self.inputs[end], self.inputs[end - 1]
        return name == other and isinstance(part, PairHalf) and isinstance(before, PairHalf)

    def _deliver(self, number: int, batch: list[tuple[str, Entry]], applied: list[Any]) -> None:
        self._write(applied)
        if self._is_outbid(self.owners[number]):
            applied = self.open(number).join.apply(batch)
            self._write(applied)
        for one in applied:
            for found in self.owners[number].join.entry(one.request_id).pairs:
                if found.told is not None:
                    self.records[one.request_id, found.identity] = found.told

    def _write(self, applied: list[Any]) -> None:
        self.log += [(one.request_id, encode(one.new)) for one in applied if one.new != EMPTY]

    def _part(self, part: PairHalf | Truth) -> Entry:
        if isinstance(part, PairHalf):
            return Entry((replace(part, kept_from=self.now),))
        return Entry((), (part,), self.now, self.now + 1)

    def _late(self, owner: Owner, name: str, waiting: Entry) -> list[Entry]:
        found = {part.identity: part for other, part in self.inputs if other == name and isinstance(part, PairHalf)}
        parts = []
        for identity, original in found.items():
            if not owner.join.fold.has(original):
                continue
            known = self.records.get((name, identity))
            again = replace(
                original,
                lane=1,
                offset=min(truth.offset for truth in waiting.truths),
                kept_from=waiting.since,
                counted=UNLABELLED if known is None else known.form,  # type: ignore[arg-type]
                told=known,
            )
            parts.append(Entry((again,)))
        return parts

    def finish(self, number: int) -> PartitionJoin:
        """Everything is read by one owner, without further kills."""
        self.step(number, len(self.inputs), True)
        for _ in range(3):
            self.tick(number, True)
        return self.owners[number].join


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


def expected(inputs: list[Input]) -> list[tuple[PairHalf, Answer | None]]:
    """Every answer with its final truth, None if it has none, by the plainest reading of the rules."""
    answers = {(name, part.identity): part for name, part in inputs if isinstance(part, PairHalf)}
    return [(pair, truth_about(name, pair, inputs)) for (name, _), pair in answers.items()]


def truth_about(name: str, pair: PairHalf, inputs: list[Input]) -> Answer | None:
    told = [part for other, part in inputs if other == name and isinstance(part, Truth)]
    for truth in sorted(told, key=lambda one: (one.given_at, one.offset), reverse=True):
        if truth.model in (None, pair.model):
            try:
                return resolve(truth.form, SPECS[pair.model])
            except Refusal:
                continue
    return None


def run(inputs: list[Input], happenings: list[tuple[str, int]], max_entries: int = 1000) -> PartitionJoin:
    world, number = World(inputs, max_entries), 0
    world.open(number)
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
            world.open(number + 1)
        else:
            number = (number + 1) % 2 if what == "move" else number
            world.open(number)
        if what in ("lost", "tick-lost"):
            world.open(number)  # what was not durable is only ever lost by a kill
    return world.finish(number)


@settings(max_examples=2500)
@given(histories())
def test_counts_are_those_of_the_final_truth(history: tuple[list[Input], list[tuple[str, int]], int]) -> None:
    inputs, happenings, max_entries = history
    join = run(inputs, happenings, max_entries)
    by_group = defaultdict[tuple[str, str], list[tuple[PairHalf, Any]]](list)
    for pair, truth in expected(inputs):
        by_group[pair.identity].append((pair, truth))
    assert {group for group, sums in join.totals.items() if sums["pairs"]} == by_group.keys()
    for group, known in by_group.items():
        check_errors(join.totals[group], known) if group[0] == "n" else check_classes(join.totals[group], known)


def check_classes(total: Sums, known: list[tuple[PairHalf, Any]]) -> None:
    """The counts of a version of the classifier are scikit-learn's, over all pairs and by value."""
    joined = [(pair, truth) for pair, truth in known if truth is not None]
    truths, predicted = [truth for _, truth in joined], [pair.predicted for pair, _ in joined]
    matrix = confusion_matrix(truths, predicted, labels=range(CLASSES)) if truths else np.zeros((CLASSES, CLASSES))
    assert (counts_of(total, CLASSES).matrix == matrix).all()
    assert total["pairs"] == len(known)
    assert total["labelled"] == len(truths)
    by_value = figures(total, SPEC.labels)["by_value"]
    assert by_value.keys() == {pair.value for pair, _ in known} <= set(SPEC.breakdown_values)
    for value, one in by_value.items():
        assert one.size == sum(pair.value == value for pair, _ in known)
        assert one.labelled == sum(pair.value == value for pair, _ in joined)
        assert one.correct == sum(pair.value == value and pair.predicted == truth for pair, truth in joined)


def check_errors(total: Sums, known: list[tuple[PairHalf, Any]]) -> None:
    """The figures of the regression model are scikit-learn's, over all pairs and by value."""
    found = figures(total, NUMBERS.classes)
    parts = [(found["size"], found["labelled"], found["rmse"], found["mae"], known)]
    assert found["by_value"].keys() == {pair.value for pair, _ in known}
    for value, one in found["by_value"].items():
        parts.append((one.size, one.labelled, one.rmse, one.mae, [pair for pair in known if pair[0].value == value]))
    for size, labelled, rmse, mae, own in parts:
        joined = [(truth, pair.predicted) for pair, truth in own if truth is not None]
        assert (size, labelled) == (len(own), len(joined))
        if not joined:
            assert rmse is mae is None
            continue
        truths, predicted = zip(*joined, strict=True)
        assert rmse == pytest.approx(mean_squared_error(truths, predicted) ** 0.5, rel=1e-12, abs=1e-12)
        assert mae == pytest.approx(mean_absolute_error(truths, predicted), rel=1e-12, abs=1e-12)


@settings(max_examples=300)
@given(histories(), st.randoms(use_true_random=False))
def test_all_sums_are_the_same_whatever_happened(history: Any, chance: random.Random) -> None:
    inputs, happenings, max_entries = history
    disturbed, calm = run(inputs, happenings, max_entries), run(inputs, [])
    assert {group: sums for group, sums in disturbed.totals.items() if sums} == {
        group: sums for group, sums in calm.totals.items() if sums
    }
    for group, total in disturbed.totals.items():
        parts = Sums()
        for key, sums in [*disturbed.windows.items(), *disturbed.fold.sums.items()]:
            add(parts, sums if key[:2] == group else Sums())
        assert parts == total


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
