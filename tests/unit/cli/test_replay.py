"""What an audit calls a difference: not what another processor's rounding does, nor what is gone."""

from typing import Any

import pytest

from cli.replay.differences import Audit
from cli.replay.verdicts import TOLERANCE, _compare
from schemas.base import utc_now
from schemas.messages import Detector, OutlierVerdict

DETECTOR = Detector(name="vae", version="1", sha256="a" * 64)
THRESHOLD = 0.005


def verdict(score: float) -> OutlierVerdict:
    return OutlierVerdict(
        request_id="one",
        model="m",
        score=score,
        threshold=THRESHOLD,
        is_outlier=score > THRESHOLD,
        detector=DETECTOR,
        scored_at=utc_now(),
    )


def audit(recorded: float, computed: float, **update: Any) -> Audit:
    """That of a recorded score, and of the score computed again."""
    found, one = Audit(), verdict(recorded)
    kept = one.model_dump(include={"score", "threshold", "is_outlier", "detector"}) | update
    _compare(found, verdict(computed), {"outlier": kept})
    return found


def test_another_processors_rounding_is_no_difference_and_more_than_that_is() -> None:
    assert audit(0.004, 0.004 + 0.9 * TOLERANCE * THRESHOLD).differences == []
    assert [one.field for one in audit(0.004, 0.004 + 1.1 * TOLERANCE * THRESHOLD).differences] == ["score"]


def test_a_verdict_that_turns_on_rounding_is_named_as_that() -> None:
    found = audit(THRESHOLD, THRESHOLD * (1 + TOLERANCE / 2))
    assert found.differences == []
    assert found.notes == ["one: verdict was False and is True: within the tolerance of its threshold"]


def test_a_verdict_that_turns_on_more_is_a_difference() -> None:
    assert [one.field for one in audit(0.004, 0.006).differences] == ["verdict", "score"]


@pytest.mark.parametrize("score", [0.004, 0.9])
def test_a_verdict_of_a_detector_that_is_gone_is_not_compared_and_said_to_be(score: float) -> None:
    found = audit(score, 0.004, detector=DETECTOR.model_copy(update={"sha256": "b" * 64}).model_dump())
    assert (found.compared, found.gone, found.differences) == (0, 1, [])
    assert "b" * 12 in found.notes[0] and "not here any more" in found.notes[0]


def test_what_no_record_says_is_a_difference() -> None:
    found = Audit()
    _compare(found, verdict(0.004), None)
    assert [one.field for one in found.differences] == ["record"]
