"""Explanations asked by policy: never more than the rate allows, and every one that is dropped is known."""

from hypothesis import given
from hypothesis import strategies as st

from agents.outliers.policy import ExplanationPolicy, RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_what_is_over_it_does_not() -> None:
    limit = RateLimit(1.0, 5, Clock())
    assert limit.take(8) == 5
    assert limit.take(1) == 0


def test_tokens_come_back_with_time_up_to_the_burst() -> None:
    clock = Clock()
    limit = RateLimit(0.5, 5, clock)
    limit.take(5)
    clock.now = 4.0
    assert limit.take(5) == 2
    clock.now = 1000.0
    assert limit.take(100) == 5


def test_a_rate_of_nothing_lets_nothing_pass() -> None:
    assert RateLimit(0.0, 5, Clock()).take(3) == 0


def test_one_model_does_not_use_up_what_another_may_ask() -> None:
    policy = ExplanationPolicy(60, 2, Clock())
    assert policy.take("a", 9) == 2
    assert policy.take("b", 1) == 1


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), max_size=50))
def test_over_any_time_no_more_pass_than_burst_and_rate(calls: list[tuple[float, int]]) -> None:
    clock, passed = Clock(), 0
    limit = RateLimit(2.0, 3, clock)
    for pause, wanted in calls:
        clock.now += pause
        passed += limit.take(wanted)
        assert passed <= 3 + 2.0 * clock.now + 1e-6
