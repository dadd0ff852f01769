"""Windows are a function of the log: whatever is repeated in it, and wherever a reader is killed, the same come out."""

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drift.starts import furthest
from agents.drift.windows import Entry, PartitionWindows, Window
from schemas.messages import WindowStart
from schemas.model_spec import WindowSpec

TUMBLING = WindowSpec(window_size=20, max_age_seconds=50)
SLIDING = WindowSpec(window_size=20, max_age_seconds=50, stride=7)


@dataclass(frozen=True)
class Said:
    """A message of the log of features: of a pair, or, with `pair` None, a tick."""

    model: str
    pair: tuple[int, int] | None
    time: float


def feed(partition: PartitionWindows, log: list[Said], begin: int = 0) -> list[Window]:
    closed = []
    for offset, said in enumerate(log[begin:], begin):
        if said.pair is None:
            closed += partition.tick(said.model, offset, said.time)
        else:
            closed += partition.add(said.model, Entry(offset, *said.pair, said.time, said))
    return closed


def windows_of(log: list[Said], specs: dict[str, WindowSpec]) -> list[Window]:
    return feed(PartitionWindows(0, specs, {}), log)


def contents(windows: list[Window]) -> list[tuple[str, str, list[tuple[int, int]]]]:
    return [(w.start.model, w.closed_by, [(e.pair_partition, e.pair_offset) for e in w.entries]) for w in windows]


def plain(count: int, model: str = "m", step: float = 0.1) -> list[Said]:
    return [Said(model, (0, number), number * step) for number in range(count)]


def retried_log(seed: int, models: list[str], count: int) -> list[Said]:
    """What first stages write that are killed and replaced: runs of each pairs partition, each beginning at or before
    what is in the log, two of them interleaved; and ticks."""
    chance = random.Random(seed)
    pairs = {p: [Said(chance.choice(models), (p, o), 0.0) for o in range(count)] for p in range(3)}
    written = dict.fromkeys(pairs, 0)
    runs: list[list[Said]] = []
    log: list[Said] = []
    clock = 0.0
    while any(written[p] < count for p in pairs) or runs:
        if len(runs) < 2 and any(written[p] < count for p in pairs):
            p = chance.choice([p for p in pairs if written[p] < count])
            begin = max(0, written[p] - chance.randrange(15))
            runs.append(pairs[p][begin : begin + chance.randrange(1, 40)])
        run = chance.choice(runs)
        clock += chance.choice([0.0, 0.1, 0.5, 30.0 if chance.random() < 0.02 else 0.2])
        if run and run[0].pair is not None:
            said = run.pop(0)
            p, o = said.pair
            if o <= written[p]:  # a first stage begins where all before lies in the log
                log.append(Said(said.model, said.pair, clock))
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


def test_a_slow_model_holds_only_the_commit_back() -> None:
    log = [Said("slow", (0, 0), 0.0), *plain(40)[1:], Said("m", (1, 0), 5.0)]
    partition = PartitionWindows(0, {"slow": TUMBLING, "m": TUMBLING}, {})
    closed = feed(partition, log)
    assert [window.start.model for window in closed] == ["m", "m"]
    assert partition.safe() == 0


@given(st.integers(0, 10_000), st.sampled_from([TUMBLING, SLIDING]))
@settings(max_examples=60)
def test_each_pair_is_in_the_log_of_windows_once_and_in_order_whatever_was_retried(seed: int, spec: WindowSpec) -> None:
    log = retried_log(seed, ["a", "b"], 150)
    specs = {"a": spec, "b": spec}
    first_seen = list(dict.fromkeys((said.model, said.pair) for said in log if said.pair is not None))
    for model in specs:
        counted: list[tuple[int, int]] = []
        for window in windows_of(log, specs):
            if window.start.model == model:
                pairs = [(entry.pair_partition, entry.pair_offset) for entry in window.entries]
                fresh = pairs[window.start.reported :]
                assert pairs[: window.start.reported] == counted[len(counted) - window.start.reported :]
                counted += fresh
        wanted = [pair for own, pair in first_seen if own == model]
        assert counted == wanted[: len(counted)]
        assert len(wanted) - len(counted) < spec.window_size


@given(st.integers(0, 10_000), st.sampled_from([TUMBLING, SLIDING]))
@settings(max_examples=100)
def test_a_reader_that_is_killed_anywhere_any_number_of_times_reports_the_same_windows(
    seed: int, spec: WindowSpec
) -> None:
    log = retried_log(seed, ["a", "b", "c"], 120)
    specs = dict.fromkeys("abc", spec)
    undisturbed = windows_of(log, specs)
    chance = random.Random(seed + 1)
    reported: dict[tuple[str, int], Window] = {}
    starts: list[WindowStart] = []
    committed = 0
    while committed < len(log):
        partition = PartitionWindows(0, specs, furthest(starts))
        lives_for = chance.randrange(5, 2 * len(log))
        position = committed
        for offset in range(position, min(len(log), position + lives_for)):
            for window in feed(partition, log[: offset + 1], offset):
                key = (window.start.model, window.start.sequence)
                assert key not in reported or reported[key] == window, "the same window again, or none"
                reported[key] = window
                if chance.random() < 0.8:  # else killed before the start was written: then nothing later is, either
                    starts.append(window.following)
                else:
                    lives_for = 0
                    break
            if not lives_for:
                break
            if chance.random() < 0.3:
                committed = max(committed, partition.safe())
        else:
            committed = max(committed, partition.safe())
            if position + lives_for >= len(log):
                break
    assert [reported[window.start.model, window.start.sequence] for window in undisturbed] == undisturbed
    assert len(reported) == len(undisturbed)


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_a_window_can_be_computed_again_from_its_start_alone(seed: int) -> None:
    log = retried_log(seed, ["a", "b"], 120)
    for spec in (TUMBLING, SLIDING):
        specs = {"a": spec, "b": spec}
        for window in windows_of(log, specs):
            partition = PartitionWindows(0, {window.start.model: spec}, {window.start.model: window.start})
            again = feed(partition, log, window.start.offset)
            assert again[0] == window


def test_of_several_starts_the_furthest_in_the_log_counts_whatever_was_written_last() -> None:
    def start(sequence: int, offset: int) -> WindowStart:
        return WindowStart(model="m", sequence=sequence, partition=0, offset=offset)

    assert furthest([start(3, 90), start(2, 60)])["m"].offset == 90
