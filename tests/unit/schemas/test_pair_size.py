"""A pair that its topic does not take is refused before it is made: when its model is loaded."""

import pytest
from pydantic import ValidationError

from schemas.model_spec import ModelSpec
from schemas.topics import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES


def spec_of(side: int) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "large",
            "version": "1",
            "input": {"shape": [side, side, 3]},
            "labels": ["a"],
            "weights": {"framework": "null"},
        }
    )


def test_a_model_whose_pair_cannot_fit_its_topic_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"input.shape \(3000, 3000, 3\) is too large"):
        spec_of(3000)


def test_the_largest_model_that_is_taken_has_pairs_that_fit_whatever_is_sent() -> None:
    """Bytes may come compressed and are bounded by the model's shape; floats do not, and are bounded by the request."""
    assert spec_of(2890).input.pair_bytes(1) <= MAX_MESSAGE_BYTES
    widened = 2 * MAX_REQUEST_BYTES  # float16 that becomes float32
    assert 4 * widened // 3 + (1 << 20) < MAX_MESSAGE_BYTES
