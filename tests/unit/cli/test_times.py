"""Spans and moments on the command line."""

import time

import pytest

from cli.times import moment
from runtime.errors import ConfigurationError


def test_a_moment_is_a_time_or_an_age() -> None:
    assert moment("--since", "1970-01-01T00:01:00Z") == 60
    assert abs(moment("--since", "2h") - (time.time() - 7200)) < 60
    assert moment("--since", "999999999d") == 0


@pytest.mark.parametrize("text", ["yesterday", "", "5", "5w", "2026-13-01T00:00:00Z"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--since"):
        moment("--since", text)
