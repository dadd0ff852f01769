"""Figures over all partitions: what counts is the latest owner's last word; the rolling window is the newest."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.confusion.board import Board
from agents.confusion.sums import Sums, add
from agents.confusion.told_sums import LIFETIME, ToldSums
from agents.confusion.versions import KEPT_VERSIONS, surplus

GROUP = ("m", "1")


def board() -> Board:
    return Board(window_seconds=10, rolling_pairs=100, rolling_seconds=50, max_windows=10)


def labelled(count: int) -> Sums:
    return Sums(pairs=count, labelled=count)


def place(
    one: Board, window: int, sums: Sums | None, partition: int = 0, epoch: int = 1, closed: int = -1, version: str = "1"
) -> bool:
    return one.place(ToldSums("m", version, window, partition, epoch, sums, closed))


def test_a_former_owner_changes_nothing_any_more() -> None:
    one = board()
    place(one, LIFETIME, labelled(7), epoch=2)
    assert not place(one, LIFETIME, labelled(5), epoch=1)
    place(one, LIFETIME, labelled(1), partition=1)
    assert one.sums(GROUP, LIFETIME) == labelled(8)
    place(one, LIFETIME, labelled(6), epoch=2)
    assert one.sums(GROUP, LIFETIME) == labelled(7)


def test_of_one_epoch_the_later_in_the_log_counts() -> None:
    one = board()
    for count in (7, 9, 8):
        assert place(one, LIFETIME, labelled(count), epoch=3)
    assert one.sums(GROUP, LIFETIME) == labelled(8)


def test_windows_that_the_new_owner_does_not_have_do_not_stay() -> None:
    one = board()
    place(one, 3, labelled(5))
    place(one, 4, labelled(6))
    place(one, LIFETIME, labelled(11))
    assert one.take_changed() == {(GROUP, 3), (GROUP, 4), (GROUP, LIFETIME)}
    place(one, LIFETIME, labelled(9), epoch=2)
    place(one, 4, labelled(9), epoch=2)
    for _ in range(3):
        one.take_changed()
    assert one.sums(GROUP, 3) == Sums() and one.rolling(GROUP) == labelled(9)


def test_a_window_that_the_new_owner_lost_is_reported_as_empty() -> None:
    one = board()
    place(one, 3, labelled(5))
    assert one.take_changed() == {(GROUP, 3)}
    place(one, 4, labelled(9), epoch=2)
    assert (GROUP, 3) not in one.take_changed(), "its publication may be half read"
    assert [one.take_changed() for _ in range(3)].count({(GROUP, 3)}) == 1


def test_windows_that_left_the_state_before_a_new_owner_came_stay() -> None:
    one = board()
    place(one, 3, labelled(5))
    place(one, 4, labelled(7))
    place(one, 4, None)
    place(one, LIFETIME, labelled(12), epoch=2, closed=3)
    place(one, 5, labelled(1), epoch=2)
    for _ in range(3):
        one.take_changed()
    assert one.rolling(GROUP) == labelled(13)


def test_sums_that_are_told_again_as_they_are_make_no_report() -> None:
    one = board()
    for window in range(5):
        place(one, window, labelled(5))
    assert len(one.take_changed()) == 5
    for epoch in (1, 1, 2, 2):
        for window in range(5):
            place(one, window, labelled(5), epoch=epoch)
        assert one.take_changed() == set()
    place(one, 2, labelled(6), epoch=2)
    assert one.take_changed() == {(GROUP, 2)}


def test_a_window_that_lost_its_pairs_is_reported_once_more() -> None:
    one = board()
    place(one, 3, Sums())
    assert one.take_changed() == set()
    place(one, 3, labelled(1))
    assert one.take_changed() == {(GROUP, 3)}
    place(one, 3, Sums())
    assert one.take_changed() == {(GROUP, 3)}


def test_the_rolling_window_is_as_few_of_the_newest_windows_as_hold_enough() -> None:
    one = board()
    for window, count in ((1, 500), (5, 60), (6, 60), (7, 60)):
        place(one, window, labelled(count))
    assert one.rolling(GROUP) == labelled(120)


def test_the_rolling_window_is_bounded_by_age() -> None:
    one = board()
    place(one, 1, labelled(10))
    place(one, 9, labelled(20))
    assert one.rolling(GROUP) == labelled(20)


def test_windows_without_labels_are_in_the_latest_and_not_in_the_rolling_one() -> None:
    one = board()
    place(one, 1, labelled(10))
    place(one, 2, Sums(pairs=200))
    assert one.rolling(GROUP) == labelled(10)
    assert one.latest(GROUP) == Sums(pairs=200)


def test_a_window_that_has_left_the_state_of_a_partition_is_reported_while_it_is_whole() -> None:
    one = board()
    place(one, 1, labelled(10))
    place(one, 1, labelled(5), partition=1)
    assert one.take_changed() == {(GROUP, 1)}
    place(one, 1, None)
    place(one, 1, labelled(6), partition=1)
    assert one.take_changed() == {(GROUP, 1)}
    assert one.sums(GROUP, 1) == labelled(16)


def test_a_window_of_which_a_part_is_unknown_is_not_reported_until_it_is_told() -> None:
    one = board()
    place(one, 1, None)
    place(one, 1, labelled(6), partition=1)
    assert one.take_changed() == set()
    place(one, 1, labelled(2), epoch=2)
    assert one.take_changed() == {(GROUP, 1)}


def test_only_the_newest_windows_are_kept() -> None:
    one = board()
    for window in range(20):
        place(one, window, labelled(1))
        place(one, window, None, partition=1)
    one.take_changed()
    assert one.sums(GROUP, 19) == labelled(1)
    assert one.sums(GROUP, 9) == Sums()
    assert one.outdated == [(GROUP, window, 0) for window in range(10)]


def test_only_the_versions_that_answered_last_are_kept_and_the_present_one() -> None:
    one = board()
    for number in range(KEPT_VERSIONS + 5):
        place(one, number, labelled(1), version=str(number))
    dropped = one.drop_versions({("m", "0")})
    assert sorted(dropped) == sorted(("m", str(number)) for number in range(1, 6))
    assert ("m", "0") in one.groups() and len(one.groups()) == KEPT_VERSIONS


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.text("123", min_size=1, max_size=3)), st.integers(-1, 9)))
def test_no_model_keeps_more_versions_than_there_is_room_for(newest: dict[tuple[str, str], int]) -> None:
    dropped = surplus(newest)
    for model in "ab":
        kept = [group for group in newest if group[0] == model and group not in dropped]
        gone = [group for group in dropped if group[0] == model]
        assert len(kept) <= KEPT_VERSIONS and (not gone or len(kept) == KEPT_VERSIONS)
        assert all(newest[one] <= newest[other] for one in gone for other in kept)


Told = tuple[int, dict[int, int]]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.dictionaries(st.integers(0, 4), st.integers(1, 9))), max_size=8),
    st.data(),
)
def test_the_last_owners_windows_are_all_that_counts_whatever_stands_between(
    owners: list[Told], data: st.DataObject
) -> None:
    """Owners of two partitions come one after another; each tells all it has at once. Former ones go on for a while."""
    one, truth = board(), defaultdict[int, dict[int, int]](dict)
    for epoch, (partition, windows) in enumerate(owners, 1):
        for window, count in windows.items():
            place(one, window, labelled(count), partition, epoch)
        place(one, LIFETIME, labelled(sum(windows.values())), partition, epoch)
        truth[partition] = windows
        if data.draw(st.booleans(), label="a former owner tells something"):
            stale = data.draw(st.integers(0, epoch - 1))
            place(one, data.draw(st.integers(0, 4)), labelled(99), partition, stale)
        if data.draw(st.booleans(), label="the clock ticks"):
            one.take_changed()
    for _ in range(3):
        one.take_changed()
    for window in range(5):
        expected = Sums()
        for held in truth.values():
            add(expected, labelled(held.get(window, 0)))
        assert one.sums(GROUP, window) == expected
    assert one.sums(GROUP, LIFETIME)["pairs"] == sum(sum(held.values()) for held in truth.values())
