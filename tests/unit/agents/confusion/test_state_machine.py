"""The law of the join while models come and go: its counts are those of the plainest reading of all that came, whatever
is added, removed, dated, killed or owned twice."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agents.confusion.merging import MAX_TRUTHS
from agents.confusion.partition import LATE_WINDOW
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.identity import labels_id
from tests.unit.agents.confusion.expectations import check_classes, check_errors, check_sums
from tests.unit.agents.confusion.messages import KINDS, SERVED, Told, answered, form_of, told
from tests.unit.agents.confusion.registry_world import RegistryWorld
from tests.unit.agents.confusion.world import CLASSES, by_group

IDS, OWNERS, BEGIN = 3, 3, 1.7e9
NUMBER = st.sampled_from([0, 0, 0, 1, 2])
SPEC = st.sampled_from((*["m1"] * 6, "n1", *SERVED))
SOME = st.lists(SPEC, min_size=1, max_size=2, unique=True)
AT_ONCE = st.sampled_from([True, True, True, False])
"""Whether what comes is read, or who is told so started again, before anything else happens."""
AHEAD = st.sampled_from([*[0.0] * 12, 299.0, 301.0, 73 * 365 * 86_400.0])
"""Seconds by which a moment in a message is ahead of the message's own; more than 300 are refused."""
BROKEN_CLOCK = st.sampled_from([*[0.0] * 15, 73 * 365 * 86_400.0])
"""Seconds by which Kafka's timestamp of a message is ahead."""
KIND = st.sampled_from(("truth_index", "number", *KINDS))
ABOUT = st.sampled_from([None, None, None, "m", "m", "n", "s", "nobody"])


class JoinMachine(RuleBasedStateMachine):
    """One partition, up to three instances that take themselves for its owner, and a registry of models."""

    @initialize(specs=SOME, most=st.sampled_from([1, 2, 1000]), stay=st.booleans())
    def begin(self, specs: list[str], most: int, stay: bool) -> None:
        """Any models are registered, and an instance is started."""
        models = {SERVED[spec].name: SERVED[spec] for spec in specs}
        self.world = RegistryWorld([], most, models, now=BEGIN)
        self.always, self.stay, self.owner = set(models), stay, 0
        self.world.start(0)

    @rule(
        number=NUMBER,
        specs=SOME,
        ahead=AHEAD,
        kafka=BROKEN_CLOCK,
        at_once=AT_ONCE,
    )
    def answer(self, number: int, specs: list[str], ahead: float, kafka: float, at_once: bool) -> None:
        """Some models answer a request, whether they are registered or not; perhaps once more, and otherwise."""
        world = self.world
        turn = sum(one.name == f"id-{number}" for one in world.inputs)
        for place, spec in enumerate(specs):
            offset, moment = len(world.inputs), world.now + len(world.inputs) * 1e-3
            is_ahead = ahead > MAX_AHEAD_SECONDS or kafka > 0
            clocks = moment + ahead, moment + kafka
            world.send(answered(number, turn + place, SERVED[spec], offset, *clocks, is_ahead))
        if at_once:
            self.read(99, True)

    @rule(
        number=NUMBER,
        kind=KIND,
        said=st.integers(0, CLASSES - 1),
        about=ABOUT,
        age=st.sampled_from([0, 0, 0, 1, 100]),
        ahead=AHEAD,
        at_once=AT_ONCE,
    )
    def tell(self, number: int, kind: str, said: int, about: str | None, age: int, ahead: float, at_once: bool) -> None:
        """A truth comes: before its answer, after it, or after that has left; later ones may be given earlier."""
        world, name = self.world, f"id-{number}"
        if sum(isinstance(one, Told) and one.name == name for one in world.inputs) >= MAX_TRUTHS:
            return
        form, given_at = form_of(kind, said, 2 if said + age == 1 else 3), world.now + ahead - age * (not ahead)
        world.send(told(name, form, about, given_at, len(world.inputs), world.now, ahead > MAX_AHEAD_SECONDS))
        if at_once:
            self.read(99, True)

    @rule(number=NUMBER, back=st.integers(0, 2))
    def tell_again(self, number: int, back: int) -> None:
        """A truth comes a second time."""
        world = self.world
        before = [one for one in world.inputs if isinstance(one, Told) and one.name == f"id-{number}"]
        if back < len(before) < MAX_TRUTHS:
            one = before[-1 - back]
            again = told(one.name, one.form, one.model, one.given_at, len(world.inputs), world.now, False)
            world.send(replace(again, ahead=one.given_at > world.now + MAX_AHEAD_SECONDS))

    @rule(spec=SPEC, added=st.booleans(), at_once=AT_ONCE)
    def change(self, spec: str, added: bool, at_once: bool) -> None:
        """A model is removed; or one is added, or another version of it takes the place of the one that is there."""
        one = SERVED[spec]
        others = {name: known for name, known in self.world.models.items() if name != one.name}
        self.world.models = {**others, one.name: one} if added else others
        if at_once:
            self.start(self.owner)

    @rule(owner=st.integers(0, OWNERS - 1), rival=st.sampled_from([None, None, *range(OWNERS)]))
    def start(self, owner: int, rival: int | None = None) -> None:
        """An instance is started, or killed and started again: with the models of now, on the disk of its number. It is
        the only one to be started, or one of two at once."""
        self.owner = owner
        self.world.start(owner, None if rival == owner else rival)
        self.always &= self.world.models.keys()

    @precondition(lambda self: len(self.world.owners) > 1)
    @rule(place=st.integers(0, OWNERS - 1))
    def turn(self, place: int) -> None:
        """Another of those that are alive goes on, whether it has been outbid or not."""
        alive = sorted(self.world.owners)
        self.owner = alive[place % len(alive)]

    @rule(count=st.sampled_from([1, 2, 99, 99]), safe=st.booleans() | st.just(True))
    def read(self, count: int, safe: bool) -> None:
        """An instance reads. All is safe before anything else happens; or it is killed, and only its disk knows."""
        self.world.step(self.owner, count, safe)
        if not safe:
            self.start(self.owner)

    @rule(seconds=st.sampled_from([15, 60, 60]), safe=st.booleans() | st.just(True))
    def tick(self, seconds: int, safe: bool) -> None:
        """Time passes: old pairs leave, and late truths are joined through the records; or it is killed before that is
        safe."""
        self.world.tick(self.owner, safe, seconds)
        if not safe:
            self.start(self.owner)

    @precondition(lambda self: self.world.is_outbid(self.world.owners[self.owner]))
    @rule()
    def fold_late(self) -> None:
        """One that does not know yet that it was outbid publishes a fold."""
        self.world.fold_late(self.owner)

    @invariant()
    def sums_agree(self) -> None:
        """What is counted is in the windows and the fold, each once, and nothing is less than nothing."""
        for owner in self.world.owners.values() if hasattr(self, "world") else ():
            check_sums(owner.join)
            windows = [sums for key, sums in owner.join.windows.items() if key[2] != LATE_WINDOW]
            for sums in (*owner.join.totals.values(), *windows):
                assert all(count >= 0 for name, count in sums.items() if not name.startswith("value:"))
                assert sums["labelled"] <= sums["pairs"]

    def teardown(self) -> None:
        """One instance reads everything, and the counts are those of scikit-learn."""
        if not hasattr(self, "world"):
            return
        world = self.world
        if not self.stay:
            self.start(0)
        join = world.finish(self.owner)
        self.sums_agree()
        counted = world.counted(world.owners[self.owner])
        world.check_instances(counted)
        assert all(truth in world.truths_of(name, one) for name, one, truth in counted)
        groups = by_group([(one, truth) for _, one, truth in counted])
        assert {group for group, sums in join.totals.items() if sums["pairs"]} == groups.keys()
        for group, own in groups.items():
            total, by_value = join.totals[group], group[0] in self.always and group[0] != "s"
            labels = next(spec.labels for spec in SERVED.values() if (spec.name, spec.version) == group)
            named = {name: count for name, count in total.items() if name.startswith("labels:")}
            assert named == ({} if group[0] == "n" else {f"labels:{labels_id(labels)}": total["pairs"]})
            check_errors(total, own, by_value) if group[0] == "n" else check_classes(total, own, labels, by_value)


JoinMachine.TestCase.settings = settings(max_examples=2000, stateful_step_count=25, derandomize=True)


class TestCountsAreThoseOfThePlainestReadingWhateverModelsComeAndGo(JoinMachine.TestCase):  # type: ignore[misc]
    """2,000 histories, the same ones at each run: a change of the code is judged by what it does, not by chance."""


def test_late_feedback_about_an_answer_that_was_not_counted_changes_no_count() -> None:
    machine = JoinMachine()
    machine.begin(["m1", "n1"], 1, True)
    machine.answer(0, ["m1", "n1"], 0, 0, True)
    machine.change("m1", False, True)
    machine.answer(1, ["m1"], 0, 0, True)
    machine.change("m1", True, True)
    machine.answer(2, ["n1"], 0, 0, True)
    machine.tick(60, True)
    machine.tell(1, "truth_index", 1, None, 0, 0, True)
    machine.tick(15, True)
    machine.sums_agree()
    machine.teardown()
    assert machine.world.owners[0].join.totals["m", "1"]["labelled"] == 0


def test_a_version_with_the_labels_in_another_order_leaves_the_counts_of_the_one_before() -> None:
    for kind, correct in (("truth_label", 1), ("truth_index", 0)):
        machine = JoinMachine()
        machine.begin(["m1"], 1000, True)
        machine.answer(0, ["m1"], 0, 0, True)
        machine.tell(0, "truth_index", 0, None, 0, 0, True)
        machine.change("m4", True, True)
        machine.tell(0, kind, 1, None, 0, 0, True)
        machine.teardown()
        total = machine.world.owners[0].join.totals["m", "1"]
        assert (total["cell:0:0"], total["cell:1:0"]) == (correct, 1 - correct)


def test_late_feedback_about_a_request_that_was_asked_again_leaves_the_earlier_answers_count() -> None:
    machine = JoinMachine()
    machine.begin(["m1"], 1, True)
    for truth in (1, 2):
        machine.answer(0, ["m1"], 0, 0, True)
        if truth == 1:
            machine.tell(0, "truth_index", truth, None, 0, 0, True)
        machine.tick(60, True)
    machine.tell(0, "truth_index", 2, None, 0, 0, True)
    machine.tick(15, True)
    machine.sums_agree()
    machine.teardown()
    assert machine.world.owners[0].join.totals["m", "1"]["labelled"] == 2
