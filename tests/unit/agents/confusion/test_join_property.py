"""The law of the join: whatever order, repetition, kills and take-overs, its counts are those of the final truth."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, mean_absolute_error, mean_squared_error

from agents.confusion.entries import EMPTY, UNLABELLED, Answer, Entry, PairHalf, Truth, answer_of, decode, encode
from agents.confusion.figures import confusion_of, figures
from agents.confusion.fold import decode_fold, encode_fold, latest
from agents.confusion.partition import FOLD, Limits, PartitionJoin
from agents.confusion.store import Changes, MemoryStore
from agents.confusion.sums import Sums, add
from schemas.model_spec import ModelSpec
from schemas.refusal import Reason

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


def spec_of(number: int) -> ModelSpec:
    """Half of the requests are of a classifier, half of a regression model."""
    return SPEC if number < IDS // 2 else NUMBERS


def half(number: int, offset: int, now: float) -> PairHalf:
    spec = spec_of(number)
    outputs = np.roll([0.7, 0.2, 0.1], number % CLASSES).tolist() if spec is SPEC else [1.1 * number - 6]
    answer, value = answer_of(outputs, spec), spec.value_of(site(number))
    return PairHalf(0, offset, spec.name, "1", float(number * 7), now, *answer, value=value)


def site(number: int) -> dict[str, str]:
    return SITES[number % len(SITES)]


@dataclass
class World:
    """One partition: its inputs, what is durable (committed offsets, log, folds, record), and owners with local disks.

    An owner that is killed loses what it had not made durable; the next one is the same with its disk, or another.
    """

    inputs: list[tuple[str, Any]] = field(default_factory=list)
    committed: int = 0
    read: int = 0
    log: list[tuple[str, bytes]] = field(default_factory=list)
    folds: list[bytes] = field(default_factory=list)
    records: dict[str, Truth] = field(default_factory=dict)
    disks: dict[int, MemoryStore] = field(default_factory=dict)
    now: float = 0.0

    def open(self, owner: int) -> None:
        """As `JoinLoader.open`."""
        fold = latest([decode_fold(value) for value in self.folds], 0)
        store = self.disks.setdefault(owner, MemoryStore())
        if store.items.get(FOLD) != encode_fold(fold):
            store.items.clear()
        fold.epoch += 1
        self.folds.append(encode_fold(fold))
        store.write(Changes({FOLD: encode_fold(fold)}))
        self.join = PartitionJoin(store, fold, SPECS, LIMITS)
        self.join.apply([(name, decode(value)) for name, value in self.log], replay=True)
        self.read = self.committed

    def step(self, count: int, durable: bool) -> None:
        """Read some inputs; `durable` says whether log, record and offset were written before whatever comes next."""
        batch = [(name, self._part(part)) for name, part in self.inputs[self.read : self.read + count]]
        applied = self.join.apply(batch)
        self.read += len(batch)
        if durable:
            self._deliver(applied)
            self.committed = max(self.committed, self.read)

    def tick(self, durable: bool) -> None:
        """Time passes: old entries are folded, and waiting truths whose pair is folded are joined by their record."""
        self.now += 15
        folded = self.join.expire(self.now)
        if folded and durable:
            self.records |= {name: entry.truths[0] for name, entry in folded.items() if entry.truth is not None}
            self.folds.append(encode_fold(self.join.fold))
        if durable:
            late = [(name, self._late(name, entry)) for name, entry in self.join.due(self.now)]
            self._deliver(self.join.apply([(name, part) for name, part in late if part is not None]))

    def _deliver(self, applied: list[Any]) -> None:
        for one in applied:
            if one.new != EMPTY:
                self.log.append((one.request_id, encode(one.new)))
        for one in applied:
            entry = self.join.entry(one.request_id)
            if entry.truth is not None:
                self.records[one.request_id] = entry.truths[0]

    def _part(self, part: Any) -> Entry:
        if isinstance(part, PairHalf):
            return Entry(
                PairHalf(*(self.now if name == "kept_from" else getattr(part, name) for name in part.__slots__))
            )
        return Entry(None, (part,), self.now, self.now + 1)

    def _late(self, name: str, waiting: Entry) -> Entry | None:
        place = next(
            (i for i, (other, part) in enumerate(self.inputs) if other == name and isinstance(part, PairHalf)), None
        )
        if place is None or not self.join.fold.has((0, place)):
            return None
        original, known = self.inputs[place][1], self.records.get(name)
        pair = PairHalf(
            1,
            waiting.truths[0].offset,
            original.model,
            "1",
            original.time,
            waiting.since,
            original.predicted,
            original.probabilities,
            UNLABELLED if known is None else known.form,  # type: ignore[arg-type]
            original.value,
        )
        return Entry(pair, (known,) if known else ())

    def finish(self) -> None:
        """Everything is read, without further kills."""
        self.step(len(self.inputs), True)
        for _ in range(3):
            self.tick(True)


@st.composite
def histories(draw: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Inputs in the order of a log, in which a pair may come after its feedback, twice or never; and what happens."""
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
            st.tuples(st.sampled_from(["read", "lost", "tick", "tick-lost", "kill", "move"]), st.integers(1, 6)),
            max_size=14,
        )
    )
    # An id that is asked again after its pair has left the state is another request; within it, the first one counts.
    once = any(what.startswith("tick") for what, _ in happenings)
    inputs: list[tuple[str, Any]] = []
    for number, kind, truth, given_at in events:
        name, offset = f"id-{number}", len(inputs)
        earlier = [part for other, part in inputs if other == name and isinstance(part, Truth)]
        if kind == "pair":
            if once and any(other == name and isinstance(part, PairHalf) for other, part in inputs):
                continue
            inputs.append((name, half(number, offset, 0.0)))
        elif kind == "again" and earlier:
            last = earlier[-1]
            inputs.append((name, Truth(last.given_at, offset, 0, last.form)))
        else:
            form = draw(st.sampled_from(forms_of(truth, spec_of(number))))
            inputs.append((name, Truth(float(given_at), offset, 0, form)))
    return inputs, happenings


def forms_of(truth: int, spec: ModelSpec) -> list[Any]:
    """The forms that the truth of that number may be given in."""
    if spec is NUMBERS:
        return [VALUES[truth], [VALUES[truth]]]
    return [truth, SPEC.labels[truth], [float(truth)], [float(i == truth) for i in range(CLASSES)]]


def expected(inputs: list[tuple[str, Any]]) -> list[tuple[PairHalf, Answer | None]]:
    """Every pair with its final truth, None if it has none, by the plainest reading of the rules."""
    found: list[tuple[PairHalf, Answer | None]] = []
    pairs = {name: part for name, part in reversed(inputs) if isinstance(part, PairHalf)}
    for name, pair in pairs.items():
        told = [part for other, part in inputs if other == name and isinstance(part, Truth)]
        index = None
        if told:
            form = max(told, key=lambda one: (one.given_at, one.offset)).form
            index = SPEC.labels.index(form) if isinstance(form, str) else form
            if isinstance(index, list):
                index = index[0] if len(index) == 1 else index.index(1.0)
            index = int(index) if pair.model == "m" else index
        found.append((pair, index))
    return found


def run(inputs: list[tuple[str, Any]], happenings: list[tuple[str, int]]) -> World:
    world, owner = World(inputs), 0
    world.open(owner)
    for what, count in happenings:
        if what in ("read", "lost"):
            world.step(count, what == "read")
        elif what.startswith("tick"):
            world.tick(what == "tick")
        else:
            owner = (owner + 1) % 2 if what == "move" else owner
            world.open(owner)
        if what in ("lost", "tick-lost"):
            world.open(owner)  # what was not durable is only ever lost by a kill
    world.finish()
    return world


@settings(max_examples=2500)
@given(histories())
def test_counts_are_those_of_the_final_truth(history: tuple[list[tuple[str, Any]], list[tuple[str, int]]]) -> None:
    inputs, happenings = history
    join = run(inputs, happenings).join
    known = [(pair, truth) for pair, truth in expected(inputs) if pair.model == "m"]
    joined = [(pair, truth) for pair, truth in known if truth is not None]
    truths, predicted = [truth for _, truth in joined], [pair.predicted for pair, _ in joined]
    total = join.totals["m", "1"]
    matrix = confusion_matrix(truths, predicted, labels=range(CLASSES)) if truths else np.zeros((CLASSES, CLASSES))
    assert (confusion_of(total, CLASSES) == matrix).all()
    assert total["pairs"] == len(known)
    assert total["labelled"] == len(truths)
    by_value = figures(total, SPEC.labels)["by_value"]
    assert by_value.keys() == {pair.value for pair, _ in known} <= set(SPEC.breakdown_values)
    for value, one in by_value.items():
        assert one.size == sum(pair.value == value for pair, _ in known)
        assert one.labelled == sum(pair.value == value for pair, _ in joined)
        assert one.correct == sum(pair.value == value and pair.predicted == truth for pair, truth in joined)
    check_errors(join, [(pair, truth) for pair, truth in expected(inputs) if pair.model == "n"])


def check_errors(join: PartitionJoin, known: list[tuple[PairHalf, Any]]) -> None:
    """The figures of the regression model are scikit-learn's, over all pairs and by value."""
    total = join.totals["n", "1"]
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
    inputs, happenings = history
    disturbed, calm = run(inputs, happenings).join, run(inputs, []).join
    assert disturbed.totals == calm.totals
    for group, total in disturbed.totals.items():
        parts = Sums()
        for key, sums in [*disturbed.windows.items(), *disturbed.fold.sums.items()]:
            add(parts, sums if key[:2] == group else Sums())
        assert parts == total


@pytest.mark.parametrize(("number", "truth"), [(0, 5.5), (7, "a")])
def test_a_truth_that_fits_the_model_but_not_the_version_that_answered_is_refused(number: int, truth: Any) -> None:
    answered, other = spec_of(number), NUMBERS if spec_of(number) is SPEC else SPEC
    changed = {answered.name: other.model_copy(update={"name": answered.name})}
    join = PartitionJoin(MemoryStore(), latest([], 0), changed, LIMITS)
    join.apply([("id", Entry(half(number, 0, 0.0)))])
    [applied] = join.apply([("id", Entry(None, (Truth(0.0, 1, 0, truth),), 0.0, 1.0))])
    assert [refusal.reason for _, refusal in applied.refused] == [Reason.INVALID_FIELD]
    assert applied.new.truths == () and join.totals[answered.name, "1"]["labelled"] == 0


def test_feedback_that_is_read_ahead_pushes_no_pair_out() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": SPEC}, replace(LIMITS, max_entries=4))
    join.apply([(f"id-{offset}", Entry(half(0, offset, 0.0))) for offset in range(4)])
    join.apply([(f"ahead-{offset}", Entry(None, (Truth(0.0, offset, 0, 1),), 0.0, 1.0)) for offset in range(9)])
    assert join.expire(0.0) == {}
    join.apply([(f"id-{offset}", Entry(half(0, offset, 0.0))) for offset in range(4, 6)])
    assert set(join.expire(0.0)) == {"id-0", "id-1"}
    assert join.entries == 4 + 9
