"""Training the classifier: crops, mirror images and learning rate are what they are said to be."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from training.resnet32 import PADDING, augment, learning_rate


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_each_image_is_a_crop_of_its_padded_self_mirrored_half_of_the_time() -> None:
    shown = images(200)
    padded = np.pad(shown, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    mirrored, places = 0, set()
    for original, changed in zip(padded, augment(shown, np.random.default_rng(1)), strict=True):
        found = {
            (row, column, flip)
            for row in range(2 * PADDING + 1)
            for column in range(2 * PADDING + 1)
            for flip in (1, -1)
            if np.array_equal(original[row : row + 32, column : column + 32][:, ::flip], changed)
        }
        assert len(found) == 1
        row, column, flip = found.pop()
        mirrored += flip == -1
        places.add((row, column))
    assert 70 < mirrored < 130
    assert len(places) > 60


def test_augmentation_comes_from_its_seed_and_leaves_the_originals_alone() -> None:
    shown = images(5)
    kept = shown.copy()
    first = augment(shown, np.random.default_rng(7))
    assert np.array_equal(first, augment(shown, np.random.default_rng(7)))
    assert not np.array_equal(first, augment(shown, np.random.default_rng(8)))
    assert np.array_equal(shown, kept)


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    rates = [learning_rate(step, 1000, 0.2) for step in range(1000)]
    assert max(rates) == pytest.approx(0.2, rel=0.01)
    assert np.argmax(rates) == pytest.approx(150, abs=2)
    assert all(later > earlier for earlier, later in pairwise(rates[:149]))
    assert all(later < earlier for earlier, later in pairwise(rates[151:]))
    assert 0 < rates[0] < 0.002
    assert 0 < rates[-1] < 0.001
