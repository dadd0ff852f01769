"""The report's statistics agree with the libraries that are known for them."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from training.report.statistics import auroc, interval_95


@pytest.mark.parametrize(("successes", "trials"), [(0, 200), (7, 200), (100, 10_000), (50, 50)])
def test_the_interval_is_wilsons(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert interval_95(successes, trials) == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_auroc_is_scikit_learns_ties_included() -> None:
    rng = np.random.default_rng(0)
    normal, strange = rng.normal(0, 1, 500).round(1), rng.normal(1, 1, 300).round(1)
    truth = np.r_[np.zeros(500), np.ones(300)]
    assert auroc(normal, strange) == pytest.approx(roc_auc_score(truth, np.r_[normal, strange]), abs=1e-4)
    assert auroc(normal, normal) == pytest.approx(0.5)
    assert auroc(np.zeros(3), np.ones(3)) == 1.0
