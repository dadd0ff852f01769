"""Laws of what needs no TensorFlow: how parts are joined and padded, and the null model."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.predictor import NullPredictor, join_parts, load_predictor
from inference.settings import WorkerSettings
from runtime.model_folder import ModelFolder
from schemas.model_spec import InputSpec, ModelSpec, WeightsSpec

SIZES = (1, 2, 4, 8)
SPEC = ModelSpec(
    name="null",
    version="1",
    input=InputSpec(shape=(2, 3)),
    labels=("a", "b", "c", "d"),
    weights=WeightsSpec(framework="null"),
    batch_sizes=SIZES,
)


def images(count: int, dtype: str = "uint8", start: int = 1) -> np.ndarray:
    return np.arange(start, start + count * 6).reshape(count, 2, 3).astype(dtype)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8).filter(lambda counts: sum(counts) <= 8))
def test_a_batch_is_the_parts_in_order_padded_to_the_next_size(counts: list[int]) -> None:
    for dtype in ("uint8", "float32"):
        parts = [images(count, dtype, start=10 * number) for number, count in enumerate(counts)]
        batch, count = join_parts(parts, SIZES)
        assert count == sum(counts)
        assert len(batch) == min(size for size in SIZES if size >= count)
        assert batch.dtype == dtype
        assert np.array_equal(batch[:count], np.concatenate(parts))


def test_the_padding_is_zero() -> None:
    batch, count = join_parts([images(4), images(1)], SIZES)
    assert (len(batch), count) == (8, 5)
    assert not batch[5:].any()


@pytest.mark.parametrize("count", SIZES)
def test_a_single_part_of_exact_size_is_not_copied(count: int) -> None:
    part = images(count)
    assert join_parts([part], SIZES)[0] is part


def test_two_parts_or_a_size_between_are_copied_and_the_callers_array_stays_as_it_was() -> None:
    for parts in ([images(1), images(1)], [images(3)]):
        before = [part.copy() for part in parts]
        batch, _ = join_parts(parts, SIZES)
        batch[:] = 0
        assert all(np.array_equal(part, copy) for part, copy in zip(parts, before, strict=True))


def test_read_only_parts_are_joined() -> None:
    part = images(3)
    part.flags.writeable = False
    assert np.array_equal(join_parts([part], SIZES)[0][:3], part)


def test_more_than_the_largest_batch_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="9 images do not fit the largest batch of 8"):
        join_parts([images(5), images(4)], SIZES)


def test_the_null_model_answers_every_size_with_equal_probabilities() -> None:
    null = load_predictor(ModelFolder(Path("nowhere"), SPEC, "0" * 64), WorkerSettings())
    assert isinstance(null, NullPredictor)
    null.warm_up()
    for count in range(1, 9):
        answer = null.predict([images(count)])
        assert (answer.shape, answer.dtype) == ((count, 4), np.float32)
        assert (answer == 0.25).all()
