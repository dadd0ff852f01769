"""No claim without a test: every test that `docs/reliability.md` names for the second month is there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "reliability.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## The second month") : PAGE.index("## What is not covered")]
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| found ")]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", SECTION)))


def test_every_row_names_a_test() -> None:
    assert len(ROWS) > 70
    assert [row for row in ROWS if not re.search(r"`[\w/]+\.py(::\w+)?`", row.rsplit(" | ", 1)[-1])] == []


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_the_page_names_is_there(file: str, test: str) -> None:
    assert f"def {test}(" in (PROJECT / "tests" / file).read_text(encoding="utf-8")
