"""Laws of the pairs that a part becomes: one a request, in order, whatever expired."""

from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.batcher import Answer, Job
from inference.chunks import Part
from inference.outgoing import encode_part
from schemas.messages import InferencePair, Outcome
from schemas.pairs import PairWriter

LABELS = ("cat", "dog", "ship")
WRITER = PairWriter("pets", "2", "ab" * 32, LABELS, "cpu")
RECEIVED, STARTED, ANSWERED = 1_700_000_010.0, 1_700_000_010.25, 1_700_000_011.0


def part_of(count: int) -> Part:
    """`count` requests that differ in everything."""
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    numbers = range(count)
    return Part(
        Job("pets", images),
        [f"id-{number}" for number in numbers],
        [{"site": f"s{number}"} for number in numbers],
        [RECEIVED - 1 - number for number in numbers],
        [None if number % 2 else RECEIVED + number for number in numbers],
        [None] * count,
    )


def answer_of(expired: list[bool]) -> Answer:
    """Row n is sure of class n modulo 3."""
    rows = np.eye(3, dtype=np.float32)[np.arange(len(expired)) % 3]
    mask = np.array(expired)
    rows[mask] = 0
    return Answer(rows, mask if mask.any() else None, int((~mask).sum()), STARTED, 0.125)


def pairs_of(part: Part, answer: Answer) -> list[InferencePair]:
    return [InferencePair.model_validate_json(value) for value in encode_part(WRITER, part, answer, RECEIVED, ANSWERED)]


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_live_and_expired_requests_become_pairs_in_the_order_of_the_requests(expired: list[bool]) -> None:
    part = part_of(len(expired))
    pairs = pairs_of(part, answer_of(expired))
    assert [pair.request.request_id for pair in pairs] == part.request_ids
    for number, pair in enumerate(pairs):
        request, response = pair.request, pair.response
        assert request.image.data == part.job.images[number].tobytes()
        assert request.attributes == {"site": f"s{number}"}
        assert request.sent_at == datetime.fromtimestamp(RECEIVED - 1 - number, timezone.utc)
        assert (request.deadline is None) == bool(number % 2)
        assert response.timings.queue == pytest.approx(1 + number)
        assert response.timings.batch == pytest.approx(0.25)
        if expired[number]:
            assert (response.outcome, response.predicted, response.probabilities) == (Outcome.EXPIRED, None, None)
            assert (response.batch_size, response.timings.compute) == (0, 0)
        else:
            assert (response.outcome, response.label) == (Outcome.OK, LABELS[number % 3])
            assert (response.predicted, response.confidence) == (number % 3, 1.0)
            assert (response.batch_size, response.timings.compute) == (expired.count(False), 0.125)


def test_a_part_that_expired_whole_needs_no_probabilities() -> None:
    nothing = Answer(np.zeros((2, 0), np.float32), np.array([True, True]), 0, STARTED, 0.0)
    assert [pair.response.outcome for pair in pairs_of(part_of(2), nothing)] == [Outcome.EXPIRED] * 2


def test_a_clock_that_is_behind_the_senders_gives_no_negative_times() -> None:
    part = part_of(1)
    part.sent_at = [RECEIVED + 100]
    early = Answer(np.eye(3, dtype=np.float32)[:1], None, 1, RECEIVED - 5, 0.1)
    (pair,) = pairs_of(part, early)
    assert (pair.response.timings.queue, pair.response.timings.batch) == (0, 0)


@given(st.lists(st.sampled_from(["live", "expired", "broken"]), min_size=1, max_size=20))
def test_a_request_without_a_usable_answer_has_no_pair_and_its_neighbours_have_theirs(fates: list[str]) -> None:
    part, answer = part_of(len(fates)), answer_of([fate == "expired" for fate in fates])
    for number, fate in enumerate(fates):
        if fate == "broken":
            answer.outputs[number, 0] = (np.nan, np.inf, 1.5, -0.5)[number % 4]
    values = encode_part(WRITER, part, answer, RECEIVED, ANSWERED)
    assert [value is None for value in values] == [fate == "broken" for fate in fates]
    for request_id, value in zip(part.request_ids, values, strict=True):
        assert value is None or InferencePair.model_validate_json(value).request.request_id == request_id


def test_rounding_beyond_one_is_cut_off() -> None:
    answer = Answer(np.array([[1 + 5e-7, 0, 0]], np.float32), None, 1, STARTED, 0.1)
    (pair,) = pairs_of(part_of(1), answer)
    assert pair.response.confidence == 1
