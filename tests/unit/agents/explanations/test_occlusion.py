"""Occlusion: important is what takes the answer away when it is covered."""

import numpy as np
import pytest

from agents.explanations.explainer import AskedModel
from agents.explanations.occlusion import OcclusionExplainer
from schemas.explanation_options import read_options
from schemas.refusal import Refusal
from tests.unit.agents.explanations.models import constant, quadrants

FOREVER = float("inf")


def test_the_brightest_quarter_is_the_important_one_in_one_batch() -> None:
    image = np.full((32, 32, 3), 0.4, np.float32)
    image[16:, :16] = 0.5
    model = AskedModel(quadrants, FOREVER)
    answer = OcclusionExplainer().explain(image, read_options("occlusion", {}), model)
    assert (answer.outcome, answer.predicted, model.calls) == ("ok", 2, 1)
    assert answer.importance is not None and answer.importance.shape == (32, 32)
    inside, outside = answer.importance[18:30, 2:14], answer.importance[2:14, 18:30]
    assert inside.mean() > 0.02 and abs(outside).mean() < inside.mean() / 3


def test_nothing_is_important_to_a_constant_model() -> None:
    answer = OcclusionExplainer().explain(
        np.zeros((30, 31, 1), np.float32), read_options("occlusion", {}), AskedModel(constant, FOREVER)
    )
    assert answer.importance is not None and not answer.importance.any()


@pytest.mark.parametrize("options", [{"patch": 64}, {"patch": 4, "stride": 5}])
def test_patches_that_do_not_fit_or_leave_pixels_out_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(Refusal, match=r"patch|stride"):
        OcclusionExplainer().explain(
            np.zeros((32, 32, 3), np.float32), read_options("occlusion", options), AskedModel(constant, FOREVER)
        )


def test_a_passed_deadline_is_an_answer() -> None:
    model = AskedModel(constant, 0, clock=lambda: 1)
    answer = OcclusionExplainer().explain(np.zeros((32, 32, 3), np.float32), read_options("occlusion", {}), model)
    assert answer.outcome == "timeout"
