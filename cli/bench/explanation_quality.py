"""How informative anchors are: each setting tried on the same test images, precision estimated anew on fresh draws."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agents.explanations.anchors import AnchorExplainer
from agents.explanations.explainer import Answer, AskedModel, Predict
from agents.explanations.mask_sampler import MaskSampler
from agents.explanations.perturbation import backgrounds
from agents.explanations.private_model import load_private_model
from cli.explain import read_pairs
from runtime.errors import ConfigurationError
from runtime.model_folder import model_named
from runtime.settings import Settings, read_settings
from schemas.explanation_options import AnchorOptions, Scalar, read_options
from schemas.refusal import Refusal
from training.datasets import TRUCK_INDEX, load_cifar10

TRIED: Sequence[Mapping[str, Scalar]] = (
    {"preset": "article"},
    {"perturbation": "mean", "n_segments": 8, "threshold": 0.95},
    {"perturbation": "mean", "n_segments": 8, "threshold": 0.98},
    {"perturbation": "mean", "n_segments": 12, "threshold": 0.98},
    {"perturbation": "blur", "n_segments": 8, "threshold": 0.98},
    {"perturbation": "noise", "n_segments": 5, "backgrounds": 4, "threshold": 0.98},
    {"perturbation": "noise", "n_segments": 8, "backgrounds": 1, "threshold": 0.98},
    {"perturbation": "noise", "n_segments": 8, "backgrounds": 4, "threshold": 0.95},
    {"perturbation": "noise", "n_segments": 8, "backgrounds": 4, "threshold": 0.98},
    {"perturbation": "noise", "n_segments": 8, "backgrounds": 16, "threshold": 0.98},
    {"perturbation": "backgrounds", "n_segments": 8, "backgrounds": 8, "threshold": 0.98},
)
PRECISION = 0.95
FRESH = 200
FRESH_BACKGROUNDS = 100
FRESH_SEED = 1_000_000
FOREVER = float("inf")
UNSHIFTED = "article, segments numbered from 1"


@dataclass(frozen=True)
class Tried:
    """One image under one setting.

    Attributes:
        fresh: share of `FRESH` new perturbations with the anchor, of new noise or other backgrounds, that keep the
            answer.
        fresh_empty: the same with no segment held.
    """

    answer: Answer
    fresh: float
    fresh_empty: float
    evaluations: int
    seconds: float

    @property
    def informative(self) -> bool:
        """An anchor that is not the whole image, holds what it says, and without which the answer would not hold."""
        return bool(self.answer.anchor) and self.answer.outcome == "ok" and self.holds and self.fresh_empty < PRECISION

    @property
    def holds(self) -> bool:
        """Whether the precision found again is what was asked."""
        return self.fresh >= PRECISION


def run_quality(images: int, chosen_settings: Sequence[str], console: Console) -> dict[str, Any]:
    """Try settings on `images` test images and on the truck, with the model in this process; print a table.

    Args:
        chosen_settings: each `NAME=VALUE,NAME=VALUE`; empty: `TRIED`, and alibi itself.

    Raises:
        ConfigurationError: no image, or a setting that the method does not have.
    """
    tried_settings = [read_setting(text) for text in chosen_settings] or TRIED
    if images < 1:
        raise ConfigurationError(f"--images is {images}; at least one is needed")
    settings = read_settings(Settings)
    predict = load_private_model(model_named(None, settings))
    data, chance = load_cifar10(), np.random.default_rng(0)
    chosen = data.test_images[np.sort(chance.permutation(len(data.test_images))[:images])]
    others = np.array(data.train_images[np.sort(chance.permutation(45_000)[: 2 * FRESH_BACKGROUNDS])])
    pictures = [one.astype(np.float32) / np.float32(255) for one in (data.train_images[TRUCK_INDEX], *chosen)]
    rows = [] if chosen_settings else [_unshifted_row(pictures, predict, console)]
    for options in tried_settings:
        tried = [
            _try(image, options, predict, others)
            for image in track(pictures, _name(options), console=console, transient=True)
        ]
        rows.append(_row(options, tried[0], tried[1:]))
        console.print(f"{rows[-1]['setting']}: {rows[-1]['not_empty_and_precise']:.1%} not empty and precise")
    console.print(_table(rows))
    return {"images": images, "fresh_perturbations": FRESH, "settings": rows}


def read_setting(text: str) -> Mapping[str, Scalar]:
    """Options of the anchors from `NAME=VALUE,NAME=VALUE`.

    Raises:
        ConfigurationError: they are none.
    """
    options = read_pairs(text.split(","))
    try:
        read_options("anchors", options)
    except Refusal as refusal:
        raise ConfigurationError(f"--setting {text!r}: {refusal.detail}") from refusal
    return options


def _name(options: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{value}" if name == "preset" else f"{name} {value}" for name, value in options.items())


def _try(image: Any, options: Mapping[str, Scalar], predict: Predict, others: NDArray[np.uint8]) -> Tried:
    read = read_options("anchors", options)
    if not isinstance(read, AnchorOptions):
        raise TypeError(read)
    model, began = AskedModel(predict, FOREVER), time.perf_counter()
    answer = AnchorExplainer(others[:FRESH_BACKGROUNDS]).explain(image, read, model)
    seconds = time.perf_counter() - began
    fresh, fresh_empty = _fresh_precisions(image, answer, read, predict, others)
    return Tried(answer, fresh, fresh_empty, model.evaluations, seconds)


def _fresh_precisions(
    image: Any, answer: Answer, options: AnchorOptions, predict: Predict, others: NDArray[np.uint8]
) -> tuple[float, float]:
    """The precision of the anchor, and of holding nothing, from draws that the search has not seen."""
    if answer.segments is None or answer.anchor is None:
        raise TypeError("a search without a deadline has segments and an anchor")
    changed = {"seed": FRESH_SEED, "backgrounds": FRESH_BACKGROUNDS}
    fresh = options.model_copy(update=changed)
    shown = backgrounds(image, answer.segments, fresh, others[FRESH_BACKGROUNDS:])
    sampler = MaskSampler(image, answer.segments, shown, fresh, AskedModel(predict, FOREVER))
    found = [np.asarray(sampler((0, anchor), FRESH)[2]).mean() for anchor in (answer.anchor, ())]
    return float(found[0]), float(found[1])


def _row(options: Mapping[str, Scalar], truck: Tried, tried: Sequence[Tried]) -> dict[str, Any]:
    seconds = [one.seconds for one in tried]
    return {
        "setting": _name(options),
        "options": dict(options),
        "segments": _mean([int(one.answer.segments.max()) + 1 for one in tried if one.answer.segments is not None]),
        "empty": _mean([not one.answer.anchor for one in tried]),
        "whole_or_none": _mean([one.answer.outcome == "no_anchor" for one in tried]),
        "not_empty_and_precise": _mean([bool(one.answer.anchor) and one.holds for one in tried]),
        "informative": _mean([one.informative for one in tried]),
        "not_needed": _mean([one.fresh_empty >= PRECISION for one in tried]),
        "anchor_size": _mean([len(one.answer.anchor or ()) for one in tried]),
        "coverage_median": round(float(np.median([one.answer.coverage or 0 for one in tried])), 3),
        "evaluations": _mean([one.evaluations for one in tried]),
        "samples": _mean([one.answer.samples for one in tried]),
        "seconds_median": round(float(np.median(seconds)), 3),
        "seconds_p95": round(float(np.percentile(seconds, 95)), 3),
        "truck": {
            "outcome": truck.answer.outcome,
            "anchor": truck.answer.anchor,
            "precision": truck.answer.precision,
            "precision_fresh": truck.fresh,
            "precision_of_nothing": truck.fresh_empty,
            "coverage": truck.answer.coverage,
            "evaluations": truck.evaluations,
        },
    }


def _unshifted_row(pictures: Sequence[Any], predict: Predict, console: Console) -> dict[str, Any]:
    """alibi itself, called as the article does: scikit-image numbers segments from 1 today, which it misreads."""
    from alibi.explainers import AnchorImage

    explainer = AnchorImage(
        predict,
        pictures[0].shape,
        segmentation_kwargs={"n_segments": 5, "compactness": 20, "sigma": 0.5},
        seed=0,
    )
    empty, seconds = [], []
    for image in track(pictures, UNSHIFTED, console=console, transient=True):
        began = time.perf_counter()
        found = explainer.explain(image, threshold=0.95, p_sample=0.5, tau=0.25)
        seconds.append(time.perf_counter() - began)
        empty.append(not found.raw["feature"])
    row = {
        "setting": UNSHIFTED,
        "empty": _mean(empty[1:]),
        "seconds_median": round(float(np.median(seconds[1:])), 3),
        "seconds_p95": round(float(np.percentile(seconds[1:], 95)), 3),
        "truck": {"outcome": "empty" if empty[0] else "ok"},
    }
    return row


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = (
        "empty",
        "not_empty_and_precise",
        "not_needed",
        "informative",
        "coverage_median",
        "evaluations",
        "seconds_median",
    )
    table = Table("setting", *columns, "truck", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["setting"], *(str(row.get(name, "")) for name in columns), str(row["truck"]["outcome"]))
    return table
