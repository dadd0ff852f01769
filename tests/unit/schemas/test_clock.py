"""What clocks may say."""

import pytest

from schemas.clock import check_not_ahead
from schemas.refusal import Reason, Refusal


def test_a_moment_within_the_bound_is_taken() -> None:
    check_not_ahead("given_at", 1300.0, 1000.0, 300.0)


def test_a_moment_beyond_it_is_refused_with_field_and_distance() -> None:
    with pytest.raises(Refusal, match="given_at lies 301 s ahead") as caught:
        check_not_ahead("given_at", 1301.0, 1000.0, 300.0)
    assert caught.value.reason is Reason.IN_FUTURE
