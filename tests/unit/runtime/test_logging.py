"""A library that writes the same line again and again does not fill the logs."""

import logging
from collections.abc import Iterator

import pytest

from runtime import logging as ours
from runtime.logging import BURST, MAX_KINDS, PERIOD_SECONDS, RepeatFilter


class Clock:
    """The time, as the test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(ours.time, "monotonic", lambda: self.now)


class Lines(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(RepeatFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def handler() -> Iterator[Lines]:
    made = Lines()
    for name in ("library", "other"):
        logging.getLogger(name).addHandler(made)
    yield made
    for name in ("library", "other"):
        logging.getLogger(name).removeHandler(made)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_first_lines_of_a_kind_pass_and_the_next_period_tells_how_many_did_not(
    handler: Lines, clock: Clock
) -> None:
    for number in range(100):
        logging.getLogger("library").error("connection %d refused, 100%%", number)
    assert handler.lines == [f"connection {number} refused, 100%" for number in range(BURST)]
    clock.now = PERIOD_SECONDS
    logging.getLogger("library").error("connection %d refused, 100%%", 100)
    assert handler.lines[BURST:] == [f"connection 100 refused, 100% ({100 - BURST} lines like it were left out)"]
    clock.now = 2 * PERIOD_SECONDS
    logging.getLogger("library").error("connection %d refused, 100%%", 101)
    assert handler.lines[-1] == "connection 101 refused, 100%"


def test_lines_of_another_kind_pass_meanwhile(handler: Lines, clock: Clock) -> None:
    for _ in range(2 * BURST):
        logging.getLogger("library").error("refused")
    logging.getLogger("library").error("something else")
    logging.getLogger("other").error("refused")
    assert handler.lines == ["refused"] * BURST + ["something else", "refused"]


def test_lines_that_are_all_different_take_no_more_and_more_memory(clock: Clock) -> None:
    one = RepeatFilter()
    for number in range(3 * MAX_KINDS):
        assert one.filter(logging.LogRecord("library", logging.ERROR, "", 0, f"number {number}", None, None))
    assert len(one._kinds) <= MAX_KINDS
