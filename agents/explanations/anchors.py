"""Method `anchors`: the segments of an image that hold the model's answer, whatever the others show."""

import importlib
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.explanations.beam_search import beam_search_class
from agents.explanations.explainer import Answer, AskedModel, DeadlinePassed, Pixels
from agents.explanations.mask_sampler import MaskSampler
from agents.explanations.perturbation import backgrounds, segment
from schemas.explanation_options import AnchorOptions, Options

CACHED_BATCHES = 100
"""Room that alibi's search begins with, grown as needed; its own default is a hundred times that."""
logging.getLogger("alibi").setLevel(logging.ERROR)  # that no anchor was found is in the answer


class AnchorExplainer:
    """alibi's beam search (Ribeiro et al. 2018) over `MaskSampler`: the same anchor for a fraction of the evaluations.

    Args:
        others: (k, h, w, c), images for perturbation `backgrounds`.
    """

    def __init__(self, others: NDArray[np.generic] | None) -> None:
        self._others = others

    def explain(self, image: Pixels, options: Options, model: AskedModel) -> Answer:
        """See `Explainer`.

        Raises:
            Refusal: an option that this model cannot serve.
            ModelUnavailable: the model does not answer.
        """
        if not isinstance(options, AnchorOptions):
            raise TypeError(f"options of another method: {type(options).__name__}")
        segments = segment(image, options)
        shown = backgrounds(image, segments, options, self._others)
        try:
            sampler = MaskSampler(image, segments, shown, options, model)
        except DeadlinePassed as passed:
            reason = f"the model did not answer about the image itself in time; {passed}"
            return Answer("timeout", reason, segments=segments)
        search = Search(sampler, options)
        try:
            found = search.run()
        except DeadlinePassed as passed:
            return _unfinished(search, sampler, segments, str(passed))
        return _answer(found, sampler, segments, options)


class Search:
    """One beam search of alibi's; its state can be looked at when it was cut short."""

    def __init__(self, sampler: MaskSampler, options: AnchorOptions) -> None:
        self._options = options
        self._beam = beam_search_class()([sampler], sample_cache_size=CACHED_BATCHES)

    @staticmethod
    def warm_up() -> None:
        """Import what takes a second, before anybody waits for it."""
        importlib.import_module("skimage.segmentation")
        beam_search_class()

    def run(self) -> dict[str, Any]:
        """alibi's result: `feature`, `precision`, `coverage`, `all_precision`, `success`."""
        options = self._options
        found: dict[str, Any] = self._beam.anchor_beam(
            desired_confidence=options.threshold,
            delta=options.delta,
            epsilon=options.tau,
            batch_size=options.batch_size,
            coverage_samples=options.coverage_samples,
            beam_size=options.beam_size,
            max_anchor_size=options.max_anchor_size,
        )
        return found

    def best(self) -> tuple[tuple[int, ...], float, float] | None:
        """The most precise candidate so far (the largest coverage among equals): segments, precision, coverage."""
        state = getattr(self._beam, "state", None)
        if state is None:
            return None
        drawn, positives, coverage = state["t_nsamples"], state["t_positives"], state["t_coverage"]
        candidates = [name for name in drawn if name and drawn[name] > 0]
        if not candidates:
            return None
        best = max(candidates, key=lambda name: (positives[name] / drawn[name], coverage[name]))
        return tuple(map(int, best)), float(positives[best] / drawn[best]), float(coverage[best])


def _answer(found: dict[str, Any], sampler: MaskSampler, segments: NDArray[np.uint8], options: AnchorOptions) -> Answer:
    anchor = tuple(sorted(map(int, found["feature"])))
    precision = float(found["precision"][-1] if anchor else np.ravel(found["all_precision"])[0])
    coverage = float(found["coverage"][-1]) if anchor else 1.0
    outcome, reason = "ok", None
    if not found["success"]:
        outcome = "no_anchor"
        reason = f"no anchor reaches precision {options.threshold:g}; this one comes nearest"
    elif not anchor:
        reason = "no part of the image is needed: the answer stays whatever is replaced in this way"
    elif len(anchor) == int(segments.max()) + 1:
        outcome, reason = "no_anchor", "the whole image is needed: no part of it holds the answer by itself"
    return Answer(
        outcome,  # type: ignore[arg-type]
        reason,
        predicted=sampler.label,
        segments=segments,
        anchor=anchor,
        precision=precision,
        coverage=coverage,
        samples=sampler.samples,
    )


def _unfinished(search: Search, sampler: MaskSampler, segments: NDArray[np.uint8], passed: str) -> Answer:
    best = search.best()
    anchor, precision, coverage = best or (None, None, None)
    reason = f"{'this is the best so far' if best else 'nothing is found yet'}; {passed}"
    return Answer("timeout", reason, sampler.label, segments, anchor, precision, coverage, samples=sampler.samples)
