"""Three times as many requests as the worker can compute: see `overload.py`, which measures it for two minutes."""

from pathlib import Path

import pytest

from tests.faults.overload import measure

pytestmark = pytest.mark.slow
SECONDS = 15.0


def test_overload_makes_lag_that_drains_and_nothing_else(apache_libraries: Path, tmp_path: Path) -> None:
    assert apache_libraries
    figures = measure(tmp_path, SECONDS)
    assert figures["balanced"], figures
    assert figures["lag_highest"] > figures["capacity_per_s"] * SECONDS / 2  # it was an overload
    assert figures["lag_last"] == 0
    assert figures["expired"] > 0.2 * figures["sent"]
    assert figures["answered"] >= figures["sent"] / 2
    first, highest, _ = figures["resident_mb"]
    assert highest < first + 200
    assert set(figures["health"]) == {"live 200", "ready 200"}  # it works, though late: its lag says that
    assert set(figures["http_statuses"]) == {200}
    assert figures["http_seconds_max"] < 2
