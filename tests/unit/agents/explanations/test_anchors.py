"""Anchors: those of alibi, for a fraction of its evaluations, whoever else searches at the same time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.explanations.anchors import AnchorExplainer
from agents.explanations.explainer import Answer, AskedModel
from schemas.explanation_options import AnchorOptions, read_options
from schemas.refusal import Refusal
from tests.unit.agents.explanations.models import constant, jealous, picture, quadrants

FOREVER = float("inf")
ARTICLE = read_options("anchors", {"preset": "article"})


def explain(image: Any, options: Any, predict: Any = quadrants, others: Any = None) -> tuple[Answer, AskedModel]:
    model = AskedModel(predict, FOREVER)
    return AnchorExplainer(others).explain(image, options, model), model


class Counted:
    """A model that counts the images it is asked about."""

    def __init__(self, predict: Callable[..., Any]) -> None:
        self.predict = predict
        self.evaluations = 0

    def __call__(self, images: NDArray[np.float32]) -> Any:
        self.evaluations += len(images)
        return self.predict(images)


def alibis(image: Any, options: AnchorOptions, others: Any = None) -> tuple[list[int], float, float, int]:
    """The anchor's segments, precision, coverage and evaluations of alibi itself."""
    from alibi.explainers import AnchorImage

    predict = Counted(quadrants)
    segmentation = {
        "n_segments": options.n_segments,
        "compactness": options.compactness,
        "sigma": options.sigma,
        "start_label": 0,
    }
    explainer = AnchorImage(
        predict, image.shape, segmentation_kwargs=segmentation, images_background=others, seed=options.seed
    )
    predict.evaluations = 0
    found = explainer.explain(
        image,
        threshold=options.threshold,
        p_sample=options.p_sample,
        tau=options.tau,
        delta=options.delta,
        beam_size=options.beam_size,
    )
    precision, coverage = float(np.ravel(found.precision)[0]), float(found.coverage)
    return sorted(found.raw["feature"]), precision, coverage, predict.evaluations


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("segments", [5, 12])
def test_the_anchor_is_that_of_alibi_and_no_mask_is_evaluated_twice(seed: int, segments: int) -> None:
    options = read_options("anchors", {"preset": "article", "n_segments": segments, "seed": seed})
    assert isinstance(options, AnchorOptions)
    image = picture(seed)
    anchor, precision, coverage, evaluations = alibis(image, options)
    answer, model = explain(image, options)
    assert sorted(answer.anchor or ()) == anchor
    assert (answer.precision, answer.coverage) == (precision, coverage)
    assert model.evaluations <= evaluations
    if segments == 5:
        assert answer.segments is not None
        assert model.evaluations <= 2 ** (int(answer.segments.max()) + 1)


def test_it_is_that_of_alibi_with_other_images_as_backgrounds() -> None:
    others = np.stack([picture(100 + index) for index in range(3)])
    options = read_options("anchors", {"perturbation": "backgrounds", "backgrounds": 3, "beam_size": 2, "tau": 0.25})
    assert isinstance(options, AnchorOptions)
    anchor, precision, coverage, evaluations = alibis(picture(3), options, others)
    answer, model = explain(picture(3), options, others=others)
    assert (sorted(answer.anchor or ()), answer.precision, answer.coverage) == (anchor, precision, coverage)
    assert model.evaluations < evaluations


def test_explanations_in_other_threads_change_nothing() -> None:
    images = [picture(seed) for seed in range(8)]
    alone = [explain(image, ARTICLE)[0] for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: explain(image, ARTICLE)[0], images))
    for one, other in zip(alone, together, strict=True):
        assert (one.anchor, one.precision, one.coverage) == (other.anchor, other.precision, other.coverage)


def test_the_process_wide_random_stream_is_left_alone() -> None:
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    explain(picture(0), ARTICLE)
    assert np.random.random() == expected


def test_another_seed_may_find_another_anchor_but_the_same_finds_the_same() -> None:
    options = read_options("anchors", {"n_segments": 12, "perturbation": "noise"})
    first, again = explain(picture(1), options)[0], explain(picture(1), options)[0]
    assert (first.anchor, first.precision, first.coverage) == (again.anchor, again.precision, again.coverage)


def test_an_answer_that_nothing_changes_needs_no_part_of_the_image() -> None:
    answer, _ = explain(picture(0), ARTICLE, constant)
    assert answer.outcome == "ok" and answer.anchor == () and answer.coverage == 1.0
    assert answer.reason is not None and "no part of the image is needed" in answer.reason


def test_an_answer_about_this_very_image_needs_the_whole_of_it() -> None:
    image = picture(0)
    answer, _ = explain(image, ARTICLE, jealous(image))
    assert answer.outcome == "no_anchor"
    assert answer.reason is not None and "whole image" in answer.reason


def test_an_anchor_of_few_segments_only_may_not_be_found_and_says_so() -> None:
    image = picture(0)
    options = read_options("anchors", {"preset": "article", "max_anchor_size": 1})
    answer, _ = explain(image, options, jealous(image))
    assert answer.outcome == "no_anchor"
    assert answer.reason is not None and "no anchor reaches precision 0.95" in answer.reason


def test_a_deadline_during_the_search_leaves_the_best_so_far() -> None:
    image, options = picture(0), read_options("anchors", {"n_segments": 12, "perturbation": "noise", "threshold": 0.98})
    calls = iter(range(1000))
    model = AskedModel(jealous(image), 5, clock=lambda: next(calls))
    answer = AnchorExplainer(None).explain(image, options, model)
    assert answer.outcome == "timeout" and model.calls == 5
    assert answer.segments is not None and answer.anchor and answer.precision is not None
    assert answer.reason is not None and "best so far" in answer.reason


def test_a_deadline_that_has_passed_asks_nothing() -> None:
    model = AskedModel(quadrants, 0, clock=lambda: 0)
    answer = AnchorExplainer(None).explain(picture(0), ARTICLE, model)
    assert answer.outcome == "timeout" and model.calls == 0 and answer.anchor is None


def test_backgrounds_are_refused_for_a_model_that_has_none() -> None:
    with pytest.raises(Refusal, match=r"explanations\.backgrounds"):
        explain(picture(0), read_options("anchors", {"perturbation": "backgrounds"}))


@pytest.mark.parametrize("perturbation", ["mean", "blur", "noise"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_perturbation_works_in_grey_and_in_colour(perturbation: str, channels: int) -> None:
    image = picture(2)[:, :, :channels]
    answer, _ = explain(image, read_options("anchors", {"perturbation": perturbation, "n_segments": 5}))
    assert answer.segments is not None and answer.segments.min() == 0
    assert set(answer.anchor or ()) <= set(range(int(answer.segments.max()) + 1))
