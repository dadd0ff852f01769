"""`modelwatch pairs`: a line a pair says what was answered, whatever kind of answer it is."""

from datetime import timedelta
from io import StringIO

import pytest
from rich.console import Console

from cli.pairs import print_pair
from schemas.pairs import read_pair
from tests.unit.agents.test_pairs import pair, value


@pytest.mark.parametrize(
    ("written", "answer"),
    [(pair("m"), "m:1  a              33.33%"), (value("n", -3.5), "n:1  -3.5 "), (value("n", 0.0), "n:1  0 ")],
)
def test_a_line_has_the_answer(written: bytes, answer: str) -> None:
    text = StringIO()
    print_pair(Console(file=text), read_pair(written), as_json=False)
    assert answer in text.getvalue()


def test_an_expired_pair_says_so() -> None:
    text = StringIO()
    print_pair(Console(file=text), read_pair(pair("m", answered=False)), as_json=False)
    assert "expired" in text.getvalue()


@pytest.mark.parametrize(("days", "shown"), [(1, "     0.0 ms"), (-1, "86400000.0 ms"), (-20_000, "2592000000.0 ms")])
def test_a_latency_between_two_clocks_is_never_below_zero_and_bounded(days: int, shown: str) -> None:
    found, text = read_pair(pair("m")), StringIO()
    sent_at = found.response.answered_at + timedelta(days=days)
    moved = found.model_copy(update={"request": found.request.model_copy(update={"sent_at": sent_at})})
    print_pair(Console(file=text), moved, as_json=False)
    assert f" {shown}" in text.getvalue()
