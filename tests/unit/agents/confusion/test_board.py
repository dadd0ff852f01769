"""Figures over all partitions: what counts is the latest owner's last word; the rolling window is the newest."""

from agents.confusion.board import LIFETIME, Board
from agents.confusion.sums import Sums

GROUP = ("m", "1")


def board() -> Board:
    return Board(window_seconds=10, rolling_pairs=100, rolling_seconds=50, max_windows=10)


def labelled(count: int) -> Sums:
    return Sums(pairs=count, labelled=count)


def test_a_former_owner_changes_nothing_any_more() -> None:
    one = board()
    one.place(GROUP, LIFETIME, 0, (2, 1), labelled(7))
    one.place(GROUP, LIFETIME, 0, (1, 99), labelled(5))
    one.place(GROUP, LIFETIME, 1, (1, 1), labelled(1))
    assert one.sums(GROUP, LIFETIME) == labelled(8)
    one.place(GROUP, LIFETIME, 0, (2, 2), labelled(6))
    assert one.sums(GROUP, LIFETIME) == labelled(7)


def test_the_rolling_window_is_as_few_of_the_newest_windows_as_hold_enough() -> None:
    one = board()
    for window, count in ((1, 500), (5, 60), (6, 60), (7, 60)):
        one.place(GROUP, window, 0, (1, window), labelled(count))
    assert one.rolling(GROUP) == labelled(120)


def test_the_rolling_window_is_bounded_by_age() -> None:
    one = board()
    one.place(GROUP, 1, 0, (1, 1), labelled(10))
    one.place(GROUP, 9, 0, (1, 2), labelled(20))
    assert one.rolling(GROUP) == labelled(20)


def test_windows_without_labels_are_in_the_latest_and_not_in_the_rolling_one() -> None:
    one = board()
    one.place(GROUP, 1, 0, (1, 1), labelled(10))
    one.place(GROUP, 2, 0, (1, 1), Sums(pairs=200))
    assert one.rolling(GROUP) == labelled(10)
    assert one.latest(GROUP) == Sums(pairs=200)


def test_a_window_that_has_left_the_state_of_a_partition_is_reported_while_it_is_whole() -> None:
    one = board()
    one.place(GROUP, 1, 0, (1, 1), labelled(10))
    one.place(GROUP, 1, 1, (1, 1), labelled(5))
    assert one.take_changed() == {(GROUP, 1)}
    one.forget(GROUP, 1, 0)
    one.place(GROUP, 1, 1, (1, 2), labelled(6))
    assert one.take_changed() == {(GROUP, 1)}
    assert one.sums(GROUP, 1) == labelled(16)


def test_a_window_of_which_a_part_is_unknown_is_not_reported() -> None:
    one = board()
    one.forget(GROUP, 1, 0)
    one.place(GROUP, 1, 1, (1, 2), labelled(6))
    assert one.take_changed() == set()


def test_only_the_newest_windows_are_kept() -> None:
    one = board()
    for window in range(20):
        one.place(GROUP, window, 0, (1, window), labelled(1))
    one.take_changed()
    assert one.sums(GROUP, 19) == labelled(1)
    assert one.sums(GROUP, 9) == Sums()
