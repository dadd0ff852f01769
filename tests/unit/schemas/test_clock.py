"""What clocks may say, and what is measured between two of them."""

import math

import pytest

from schemas.clock import MAX_ELAPSED, arrival, check_not_ahead, elapsed
from schemas.refusal import Reason, Refusal

NOW = 1_767_225_600.0


def test_a_moment_within_the_bound_is_taken() -> None:
    check_not_ahead("given_at", 1300.0, 1000.0, 300.0)


def test_a_moment_beyond_it_is_refused_with_field_and_distance() -> None:
    with pytest.raises(Refusal, match="given_at lies 301 s ahead") as caught:
        check_not_ahead("given_at", 1301.0, 1000.0, 300.0)
    assert caught.value.reason is Reason.IN_FUTURE


@pytest.mark.parametrize("timestamp", [-0.001, -5.0, NOW + 1, 253_370_764_800.0, 9.2e15, math.nan, math.inf])
def test_a_timestamp_that_cannot_be_is_the_time_of_reading(timestamp: float) -> None:
    assert arrival(timestamp, NOW) == NOW


@pytest.mark.parametrize("timestamp", [0.0, NOW - 86_400, NOW])
def test_any_other_timestamp_is_when_the_message_came(timestamp: float) -> None:
    assert arrival(timestamp, NOW) == timestamp


@pytest.mark.parametrize(
    ("begin", "end", "seconds"),
    [
        (NOW, NOW + 1.5, 1.5),
        (NOW, NOW - 3600, 0.0),
        (253_370_764_800.0, NOW, 0.0),
        (0.0, NOW, MAX_ELAPSED),
        (-math.inf, NOW, 0.0),
        (math.nan, NOW, 0.0),
    ],
)
def test_a_duration_is_never_negative_nor_years(begin: float, end: float, seconds: float) -> None:
    assert elapsed(begin, end) == seconds
