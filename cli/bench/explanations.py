"""Anchors beside alibi's own, of the same images, model and seed, both asking the worker; and the whole agent."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from agents.explanations.anchors import AnchorExplainer, Search
from agents.explanations.explain_stage import Predictor
from agents.explanations.explainer import AskedModel, Pixels, Predict, Probabilities
from agents.explanations.model_client import ModelClient
from agents.explanations.service import through
from cli.ask import ask
from cli.bench.agents import LOGS, machine
from cli.log_output import LogFiles
from cli.stack import Ports, Stack, running_stack
from runtime.errors import ConfigurationError, FatalError
from runtime.model_folder import model_named
from schemas.base import utc_now
from schemas.explanation_options import AnchorOptions, read_options
from schemas.messages import ExplanationRequest, ImageDtype, Tensor
from training.datasets import TRUCK_INDEX, load_cifar10

AT_ONCE = 8
ROUNDS = 5
"""Times that the images are asked about at once, each time with another seed."""
REQUEST_SECONDS = 10.0
EXPLANATION_SECONDS = 120.0
PRESET = "article"


@dataclass
class Compared:
    """One preset: what both did, image by image.

    Attributes:
        theirs: seconds of alibi.
        ours: seconds of `AnchorExplainer`.
        same: whether segments, precision and coverage of both anchors are equal.
    """

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    their_evaluations: list[int] = field(default_factory=list)
    our_evaluations: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)


class _Counted:
    """A model that counts the images that it is asked about."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.evaluations = 0

    def __call__(self, images: Pixels) -> Probabilities:
        self.evaluations += len(images)
        return self._predict(images.astype(np.float32, copy=False))


def run_bench_explanations(images: int, console: Console) -> dict[str, Any]:
    """alibi and ours in turn on `images` images, the truck first, then the agent with eight questions at once."""
    if images < 2:
        raise ConfigurationError(f"--images is {images}; at least two are needed")
    chosen = _images(images)
    shutil.rmtree(LOGS, ignore_errors=True)
    with (
        TemporaryDirectory() as scratch,
        running_stack(Ports(0, 0, 0, 0), Path(scratch), 1, LogFiles(LOGS), agents=("explanations",)) as stack,
    ):
        with _asking(stack) as predictor:
            compared = _compare(chosen, predictor, model_named(None, stack.settings).spec.name, console)
        rate = _agent_rate(stack, chosen, console)
    return machine() | _report(compared, rate, console)


def _images(count: int) -> list[Any]:
    """Test images (32, 32, 3) uint8, and the truck."""
    data = load_cifar10()
    places = np.sort(np.random.default_rng(0).permutation(len(data.test_images))[: count - 1])
    return [np.array(data.train_images[TRUCK_INDEX]), *data.test_images[places]]


@contextmanager
def _asking(stack: Stack) -> Iterator[Predictor]:
    """The agent's own client of the worker, in an event loop beside this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    client = ModelClient([stack.urls["worker-0"]], REQUEST_SECONDS)
    try:
        yield through(client, loop)
    finally:
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _compare(images: Sequence[Any], predictor: Predictor, model: str, console: Console) -> Compared:
    """Image by image alibi, then ours; the first image also once before, uncounted."""
    from alibi.explainers import AnchorImage

    options = read_options("anchors", {"preset": PRESET})
    if not isinstance(options, AnchorOptions):
        raise TypeError(options)
    Search.warm_up()
    explainer, compared = AnchorExplainer(None), Compared()
    predict = _Counted(predictor(model, time.monotonic() + 3600, lambda _: None))
    names = ("n_segments", "compactness", "sigma")
    # alibi takes a segment's number for its place, and scikit-image numbers from 1 unless told otherwise.
    segmentation = {name: getattr(options, name) for name in names} | {"start_label": 0}
    for number, image in enumerate(track([images[0], *images], f"alibi, {PRESET}", console=console, transient=True)):
        pixels = image.astype(np.float32) / np.float32(255)
        alibi = AnchorImage(predict, pixels.shape, segmentation_kwargs=segmentation, seed=options.seed)
        predict.evaluations, began = 0, time.perf_counter()
        found = alibi.explain(pixels, threshold=options.threshold, p_sample=options.p_sample, tau=options.tau)
        between = time.perf_counter()
        asked = AskedModel(predictor(model, time.monotonic() + 3600, lambda _: None), float("inf"))
        answer = explainer.explain(pixels, options, asked)
        ended = time.perf_counter()
        if not number:
            continue
        compared.theirs.append(between - began)
        compared.ours.append(ended - between)
        compared.their_evaluations.append(predict.evaluations)
        compared.our_evaluations.append(asked.evaluations)
        theirs = sorted(found.raw["feature"]), float(np.ravel(found.precision)[0]), float(found.coverage)
        compared.same.append(theirs == (sorted(answer.anchor or ()), answer.precision, answer.coverage))
    return compared


def _agent_rate(stack: Stack, images: Sequence[Any], console: Console) -> float:
    """Explanations a second over Kafka with `AT_ONCE` questions under way, from question to published answer."""
    _ask_all(stack, images[:AT_ONCE], 1, console)
    began = time.perf_counter()
    count = _ask_all(stack, images, ROUNDS, console)
    return count / (time.perf_counter() - began)


def _ask_all(stack: Stack, images: Sequence[Any], rounds: int, console: Console) -> int:
    questions = [
        ExplanationRequest(
            request_id=f"bench-{seed}-{number}",
            image=Tensor(dtype=ImageDtype.UINT8, shape=image.shape, data=image.tobytes()),
            options={"preset": PRESET, "seed": seed},
            asked_at=utc_now(),
        )
        for seed in range(rounds)
        for number, image in enumerate(images)
    ]
    answers = ask(stack.settings, questions, EXPLANATION_SECONDS, console, AT_ONCE)
    failed = [one for one in answers if one.outcome not in ("ok", "no_anchor")]
    if failed:
        raise FatalError(f"{len(failed)} of {len(answers)} not explained, the first: {failed[0].reason}; see {LOGS}")
    return len(answers)


def _report(compared: Compared, rate: float, console: Console) -> dict[str, Any]:
    theirs, ours = float(np.mean(compared.theirs)), float(np.mean(compared.ours))
    evaluations = float(np.mean(compared.their_evaluations)), float(np.mean(compared.our_evaluations))
    report = {
        "preset": PRESET,
        "images": len(compared.ours),
        "alibi_seconds": round(theirs, 4),
        "our_seconds": round(ours, 4),
        "ratio": round(theirs / ours, 3),
        "alibi_seconds_p95": round(float(np.percentile(compared.theirs, 95)), 4),
        "our_seconds_p95": round(float(np.percentile(compared.ours, 95)), 4),
        "alibi_evaluations": round(evaluations[0], 1),
        "our_evaluations": round(evaluations[1], 1),
        "same_anchor": round(float(np.mean(compared.same)), 4),
        "at_once": AT_ONCE,
        "explanations_per_s": round(rate, 2),
        "throughput_ratio": round(rate * theirs, 3),
    }
    console.print(
        f"alibi {theirs:.3f} s and {evaluations[0]:.0f} evaluations, here {ours:.3f} s and {evaluations[1]:.0f}: "
        f"ratio {theirs / ours:.2f}; the agent {rate:.1f}/s with {AT_ONCE} at once: ratio {rate * theirs:.2f}",
        highlight=False,
    )
    return report
