"""A threshold lets through the share of new clean images that it was set for, and no more on average."""

import numpy as np
import pytest

from runtime.errors import ConfigurationError
from training.outliers import threshold_of


def test_new_scores_of_the_same_kind_exceed_it_at_the_rate_set() -> None:
    rng = np.random.default_rng(0)
    shares = [(rng.gamma(4, size=2000) > threshold_of(rng.gamma(4, size=500), 0.05)).mean() for _ in range(300)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.002)


def test_it_is_one_of_the_scores_rounded_up() -> None:
    scores = np.linspace(0.001, 0.1, 99)
    assert threshold_of(scores, 0.01) == pytest.approx(0.1)
    assert threshold_of(scores, 0.5) == pytest.approx(scores[49], abs=1e-6)
    assert threshold_of(scores[::-1], 0.5) >= scores[49]


def test_a_rate_that_so_few_images_cannot_show_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs at least 99 clean images; there are 98"):
        threshold_of(np.ones(98), 0.01)
    assert threshold_of(np.ones(99), 0.01) == 1.0
