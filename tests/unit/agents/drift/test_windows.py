"""Windows are a function of the log: whatever is repeated in it, and wherever a reader is killed, the same come out."""

import random
from collections import defaultdict
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drift.partition import MAX_OPEN, PartitionWindows
from agents.drift.states import furthest
from agents.drift.windows import SUPERSEDED_SECONDS, Entry, Identity, Window
from schemas.messages import DriftState, DriftStream
from schemas.model_spec import WindowSpec

TUMBLING = WindowSpec(window_size=20, max_age_seconds=50)
SLIDING = WindowSpec(window_size=20, max_age_seconds=50, stride=7)


@dataclass(frozen=True)
class Said:
    """A message of the log of features: of a pair, or, with `pair` None, a tick."""

    model: str
    pair: tuple[int, int] | None
    time: float
    version: str | None = None
    detector: str | None = None
    topic: str | None = None

    @property
    def identity(self) -> Identity:
        return Identity(self.version, (("d", self.detector * 64),) if self.detector else ())

    def entry(self, offset: int) -> Entry:
        assert self.pair is not None
        return Entry(offset, self.identity, self.topic, *self.pair, self.time, self)


def feed(partition: PartitionWindows, log: list[Said], begin: int = 0) -> list[Window]:
    closed = []
    for offset, said in enumerate(log[begin:], begin):
        if said.pair is None:
            closed += partition.tick(said.model, offset, said.time)
        else:
            closed += partition.add(said.model, said.entry(offset))
    return closed


def windows_of(log: list[Said], specs: dict[str, WindowSpec]) -> list[Window]:
    return feed(PartitionWindows(0, specs, {}), log)


def contents(windows: list[Window]) -> list[tuple[str, str, list[tuple[int, int]]]]:
    return [(w.start.model, w.closed_by, [(e.pair_partition, e.pair_offset) for e in w.entries]) for w in windows]


def plain(count: int, model: str = "m", step: float = 0.1) -> list[Said]:
    return [Said(model, (0, number), number * step) for number in range(count)]


def retried_log(seed: int, models: list[str], count: int) -> list[Said]:
    """What first stages write that are killed and replaced: runs of each pairs partition, each beginning at or before
    what is in the log, two of them interleaved; some have another detector, or none of those that know of identities;
    pairs are of two versions; and ticks."""
    chance = random.Random(seed)
    versions = ["1"] if chance.random() < 0.3 else ["1", "2"]
    pairs = {
        p: [Said(chance.choice(models), (p, o), 0.0, chance.choice(versions)) for o in range(count)] for p in range(3)
    }
    detectors = chance.choice([["a"], ["a", "b"], ["a", "b", ""]])
    written = dict.fromkeys(pairs, 0)
    runs: list[list[Said]] = []
    log: list[Said] = []
    clock = 0.0
    while any(written[p] < count for p in pairs) or runs:
        if len(runs) < 2 and any(written[p] < count for p in pairs):
            p = chance.choice([p for p in pairs if written[p] < count])
            begin = max(0, written[p] - chance.randrange(15))
            detector = chance.choice(detectors)
            run = pairs[p][begin : begin + chance.randrange(1, 40)]
            if detector:
                runs.append([replace(one, detector=detector) for one in run])
            else:
                runs.append([replace(one, version=None) for one in run])
        run = chance.choice(runs)
        clock += chance.choice([0.0, 0.1, 0.5, 30.0 if chance.random() < 0.02 else 0.2])
        if run and run[0].pair is not None:
            said = run.pop(0)
            p, o = said.pair
            if o <= written[p]:  # a first stage begins where all before lies in the log
                log.append(replace(said, time=clock))
                written[p] = max(written[p], o + 1)
        if not run or chance.random() < 0.02:
            runs.remove(run)  # it ended, or was killed
        if chance.random() < 0.02:
            log.append(Said(chance.choice(models), None, clock))
    return log


def test_a_window_closes_when_it_is_full_and_the_next_begins_behind_it() -> None:
    closed = windows_of(plain(45), {"m": TUMBLING})
    assert contents(closed) == [
        ("m", "full", [(0, number) for number in range(20)]),
        ("m", "full", [(0, number) for number in range(20, 40)]),
    ]
    assert [window.start.sequence for window in closed] == [0, 1]


def test_a_window_closes_by_age_before_the_first_pair_that_is_too_late() -> None:
    log = [*plain(5), Said("m", (0, 5), 50.0), Said("m", (0, 6), 51.0)]
    assert contents(windows_of(log, {"m": TUMBLING})) == [("m", "age", [(0, number) for number in range(5)])]


def test_a_pair_just_under_the_age_stays_in_the_window() -> None:
    log = [*plain(5), Said("m", (0, 5), 49.999)]
    assert windows_of(log, {"m": TUMBLING}) == []


def test_a_tick_closes_an_over_age_window_where_it_lies_and_no_other() -> None:
    early, late = Said("m", None, 49.0), Said("m", None, 50.0)
    log = [*plain(5), early, Said("m", (0, 5), 49.5), late, late, Said("m", (0, 6), 51.0)]
    assert contents(windows_of(log, {"m": TUMBLING})) == [("m", "age", [(0, number) for number in range(6)])]


def test_time_of_one_model_closes_no_window_of_another() -> None:
    log = [*plain(5), Said("other", (1, 0), 1000.0), Said("other", None, 2000.0)]
    assert windows_of(log, {"m": TUMBLING, "other": TUMBLING})[:1] != [] and all(
        window.start.model == "other" for window in windows_of(log, {"m": TUMBLING, "other": TUMBLING})
    )


def test_a_model_without_detectors_has_no_windows_and_holds_nothing_back() -> None:
    partition = PartitionWindows(0, {}, {})
    assert feed(partition, plain(100)) == []
    assert partition.safe() == 100


def test_a_sliding_window_holds_the_last_pairs_at_each_stride() -> None:
    closed = windows_of(plain(40), {"m": SLIDING})
    firsts = [window.entries[0].pair_offset for window in closed]
    assert firsts == [0, 7, 14]
    assert all(len(window.entries) == 20 for window in closed)


def test_a_sliding_window_that_closes_by_age_reports_what_is_new_once() -> None:
    log = [*plain(23), Said("m", None, 60.0), Said("m", None, 200.0)]
    closed = windows_of(log, {"m": SLIDING})
    assert [(len(window.entries), window.closed_by) for window in closed] == [(20, "full"), (16, "age")]


def test_overlap_alone_does_not_age() -> None:
    log = [*plain(20), Said("m", None, 1000.0)]
    assert len(windows_of(log, {"m": SLIDING})) == 1


def test_a_sliding_window_of_a_model_that_went_silent_holds_no_commit_back() -> None:
    log = [*plain(20), *plain(20, "other")]
    partition = PartitionWindows(0, {"m": SLIDING, "other": TUMBLING}, {})
    feed(partition, log)
    assert partition.safe() == 7
    assert partition.over_age(51.8) == [] and partition.over_age(52.0) == ["m"]
    log.append(Said("m", None, 52.0))
    assert feed(partition, log, 40) == []
    assert partition.safe() == 41
    [state] = [one for one in partition.changed() if one.model == "m"]
    log += [Said("m", (0, number), 60.0) for number in range(20, 45)]
    [window] = feed(PartitionWindows(0, {"m": SLIDING}, {"m": state}), log, 41)
    assert [entry.pair_offset for entry in window.entries] == list(range(20, 40))
    assert window.start.sequence == 1, "no number is left out"


def test_a_slow_model_holds_only_the_commit_back() -> None:
    log = [Said("slow", (0, 0), 0.0), *plain(40)[1:], Said("m", (1, 0), 5.0)]
    partition = PartitionWindows(0, {"slow": TUMBLING, "m": TUMBLING}, {})
    closed = feed(partition, log)
    assert [window.start.model for window in closed] == ["m", "m"]
    assert partition.safe() == 0


@given(st.integers(0, 10_000), st.sampled_from([TUMBLING, SLIDING]))
@settings(max_examples=20)
def test_each_pair_is_in_the_log_of_windows_once_and_in_order_whatever_was_retried(seed: int, spec: WindowSpec) -> None:
    log = retried_log(seed, ["a", "b"], 150)
    specs = {"a": spec, "b": spec}
    first_seen = {(said.model, said.pair): said for said in reversed(log) if said.pair is not None}
    wanted: dict[tuple[str, Identity], list[tuple[int, int] | None]] = defaultdict(list)
    for said in log:
        if first_seen.get((said.model, said.pair)) is said:
            wanted[said.model, said.identity].append(said.pair)
    counted: dict[tuple[str, Identity], list[tuple[int, int]]] = defaultdict(list)
    for window in windows_of(log, specs):
        own = counted[window.start.model, window.identity]
        pairs = [(entry.pair_partition, entry.pair_offset) for entry in window.entries]
        reported = len([entry for entry in window.entries if entry.offset < (window.start.seen or 0)])
        assert reported == window.start.reported
        assert pairs[:reported] == own[len(own) - reported :]
        own += pairs[reported:]
    for key, pairs_of in wanted.items():
        assert counted[key] == pairs_of[: len(counted[key])]
        assert len(pairs_of) - len(counted[key]) < spec.window_size


@given(st.integers(0, 10_000), st.sampled_from([TUMBLING, SLIDING]))
@settings(max_examples=25)
def test_a_window_holds_one_version_and_one_detector(seed: int, spec: WindowSpec) -> None:
    for window in windows_of(retried_log(seed, ["a"], 150), {"a": spec}):
        assert {entry.identity for entry in window.entries} == {window.identity}


@given(st.integers(0, 10_000), st.sampled_from([TUMBLING, SLIDING]))
@settings(max_examples=25)
def test_a_reader_that_is_killed_anywhere_any_number_of_times_reports_the_same_windows(
    seed: int, spec: WindowSpec
) -> None:
    log = retried_log(seed, ["a", "b", "c"], 100)
    specs = dict.fromkeys("abc", spec)
    undisturbed = [(offset, window) for offset, window in numbered(PartitionWindows(0, specs, {}), log)]
    chance = random.Random(seed + 1)
    reported: dict[tuple[str, Identity, int], Window] = {}
    states: list[DriftState] = []
    committed = 0
    while committed < len(log):
        partition = PartitionWindows(0, specs, furthest(states))
        offset, dies_at = committed, committed + chance.randrange(5, 2 * len(log))
        while offset < min(len(log), dies_at):
            for window in feed(partition, log[: offset + 1], offset):
                key = (window.start.model, window.identity, window.start.sequence)
                assert key not in reported or reported[key] == window, "the same window again, or none"
                reported[key] = window
            offset += 1
            if chance.random() < 0.2:
                continue  # a batch goes on
            written = [DriftState.model_validate_json(one.model_dump_json()) for one in partition.changed()]
            if written and chance.random() < 0.2:
                break  # killed before the state was written: then nothing is committed, either
            states += written
            if chance.random() < 0.3:
                committed = max(committed, partition.safe())
        if offset >= len(log):
            break
    assert {key_of(window): window for _, window in undisturbed} == reported


def key_of(window: Window) -> tuple[str, Identity, int]:
    return window.start.model, window.identity, window.start.sequence


def numbered(partition: PartitionWindows, log: list[Said]) -> list[tuple[int, Window]]:
    return [(offset, window) for offset in range(len(log)) for window in feed(partition, log[: offset + 1], offset)]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_window_can_be_computed_again_from_its_start_alone_and_those_after_it_too(seed: int) -> None:
    log = retried_log(seed, ["a", "b"], 120)
    for spec in (TUMBLING, SLIDING):
        specs = {"a": spec, "b": spec}
        windows = windows_of(log, specs)
        for window in windows:
            start = window.start
            state = DriftState(
                model=start.model,
                partition=0,
                seen=start.seen or 0,
                marks=start.marks,
                streams=(DriftStream(start=start),),
            )
            partition = PartitionWindows(0, {start.model: spec}, {start.model: state})
            again = [one for one in feed(partition, log, start.offset) if one.identity == window.identity]
            own = [one for one in windows if key_of(one)[:2] == key_of(window)[:2]]
            assert again == own[own.index(window) :]


def test_of_several_states_the_furthest_in_the_log_counts_whatever_was_written_last() -> None:
    def state(seen: int, features_id: str | None = None) -> DriftState:
        return DriftState(model="m", partition=0, seen=seen, streams=(), features_id=features_id)

    assert furthest([state(90), state(60)])["m"].seen == 90
    assert furthest([state(90, "old"), state(60, "new")], "new")["m"].seen == 60
    assert furthest([state(90), state(60)], end=70)["m"].seen == 60


def retrained(*detectors: str, step: float = 1.0, version: str = "1") -> list[Said]:
    """A pair a second, with the features of these detectors in turn."""
    return [Said("m", (0, number), number * step, version, detector) for number, detector in enumerate(detectors)]


def test_a_retrained_detector_ends_the_window_in_progress_and_begins_a_new_one() -> None:
    last = 10 + SUPERSEDED_SECONDS
    spec = WindowSpec(window_size=200, max_age_seconds=3600)
    log = [*retrained(*"a" * 10, *"b" * 65), Said("m", None, last + 5)]
    [window] = windows_of(log, {"m": spec})
    assert (window.closed_by, len(window.entries)) == ("superseded", 10)
    assert window.identity == Identity("1", (("d", "a" * 64),))
    partition = PartitionWindows(0, {"m": spec}, {})
    feed(partition, log)
    assert partition.safe() == 10, "the new window is open"


def test_instances_that_are_replaced_one_after_another_end_no_window_by_turns() -> None:
    spec = WindowSpec(window_size=20, max_age_seconds=3600)
    closed = windows_of(retrained(*"ab" * 20), {"m": spec})
    assert [(window.closed_by, len(window.entries)) for window in closed] == [("full", 20), ("full", 20)]


def test_versions_side_by_side_have_windows_of_their_own_and_end_none_of_each_other() -> None:
    one, other = retrained(*"a" * 40, step=3.0), retrained(*"a" * 40, step=3.0, version="2")
    log = [said for pair in zip(one[::2], other[1::2], strict=True) for said in pair]
    closed = windows_of(log, {"m": WindowSpec(window_size=20, max_age_seconds=3600)})
    assert [(window.identity.version, window.closed_by) for window in closed] == [("1", "full"), ("2", "full")]


def test_features_that_name_no_version_are_gone_on_with_at_an_upgrade_without_counting_a_pair_twice() -> None:
    legacy = [replace(said, version=None, detector=None) for said in retrained(*"a" * 12)]
    log = [*legacy, *retrained(*"a" * 40)]
    closed = windows_of(log, {"m": WindowSpec(window_size=20, max_age_seconds=30)})
    counted = [entry.pair_offset for window in closed for entry in window.entries]
    assert sorted(counted) == list(range(32)) and len(closed[0].entries) == 12


def test_windows_that_are_open_at_a_time_are_bounded_whatever_versions_messages_name() -> None:
    log = [Said("m", (0, number), float(number), str(number), "a") for number in range(40)]
    partition = PartitionWindows(0, {"m": TUMBLING}, {})
    closed = feed(partition, log)
    assert len([one for one in partition.models["m"].streams.values() if one.fill]) == MAX_OPEN
    assert [window.closed_by for window in closed] == ["superseded"] * (40 - MAX_OPEN)
    [state] = partition.changed()
    assert len(state.streams) <= 2 * MAX_OPEN


def test_pairs_of_a_topic_that_was_made_anew_are_new_although_their_offsets_come_again() -> None:
    old = [Said("m", (0, number), 0.0, topic="old") for number in range(100)]
    new = [Said("m", (0, number), 1.0, topic="new") for number in range(100)]
    partition = PartitionWindows(0, {"m": TUMBLING}, {})
    closed = feed(partition, [*old, *new, *new[:50], *old[:50]])
    assert len(closed) == 10 and all(window.closed_by == "full" for window in closed)
    assert partition.models["m"].made_anew == 1


def test_features_of_a_model_that_was_removed_are_passed_over_and_hold_nothing_back() -> None:
    log = retrained(*"a" * 10)
    partition = PartitionWindows(0, {"m": TUMBLING}, {})
    feed(partition, log)
    later = PartitionWindows(0, {}, {"m": partition.models["m"].state()})
    assert feed(later, log) == []
    assert (later.safe(), later.unknown) == (10, 10)
