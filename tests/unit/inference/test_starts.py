"""Where a partition is begun: no request is left out, and none is answered twice if that can be known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.starts import Recorded, Start, start_of

SAME, OTHER = Recorded(70, same_topic=True), Recorded(70, same_topic=False)


@pytest.mark.parametrize(
    ("committed", "low", "high", "recorded", "start"),
    [
        (50, 0, 100, None, Start(50)),
        (50, 0, 100, Recorded(40, same_topic=True), Start(50)),
        (100, 100, 100, SAME, Start(100)),
        (None, 0, 100, None, Start(0, "begins_at_the_first_request")),
        (None, 20, 100, OTHER, Start(20, "begins_at_the_first_request")),
        (None, 0, 100, SAME, Start(70, "committed_offset_forgotten")),
        (None, 80, 100, SAME, Start(80, "committed_offset_forgotten")),
        (None, 0, 60, SAME, Start(60, "committed_offset_forgotten")),
        (50, 0, 100, OTHER, Start(0, "topic_was_made_anew")),
        (500, 3, 100, OTHER, Start(3, "topic_was_made_anew")),
        (500, 3, 100, None, Start(3, "topic_was_made_anew")),
        (500, 3, 100, SAME, Start(100, "topic_was_cut_short")),
        (50, 60, 100, SAME, Start(60, "requests_were_deleted_unanswered")),
    ],
)
def test_where_a_partition_is_begun(
    committed: int | None, low: int, high: int, recorded: Recorded | None, start: Start
) -> None:
    assert start_of(committed, low, high, recorded) == start


@given(
    st.none() | st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.none() | st.builds(Recorded, st.integers(0, 99), st.booleans()),
)
def test_it_is_always_begun_where_there_is_something_to_read_or_will_be(
    committed: int | None, one: int, other: int, recorded: Recorded | None
) -> None:
    low, high = sorted((one, other))
    start = start_of(committed, low, high, recorded)
    assert low <= start.offset <= high
    assert start.why or start.offset == committed
