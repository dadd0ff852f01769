"""What every explanation method is: a function of an image and a model that it may ask, until a deadline."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.explanation_options import Options
from schemas.refusal import Reason, Refusal

Pixels = NDArray[np.float32]
Probabilities = NDArray[np.float32]
Predict = Callable[[Pixels], Probabilities]
"""From images (n, h, w, c) float32 in 0..1 to probabilities (n, classes)."""


class DeadlinePassed(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The time for this explanation is over; the text says in what."""


class ModelUnavailable(Exception):  # noqa: N818 - as above
    """The model does not answer, or refuses what it is asked; the text says why."""


class AskedVersion:
    """Which version of the model answers one explanation: the same from its first call to its last.

    Args:
        wanted: no other may answer; None: any.
        answered: version that answered the pair; None: there is none.

    Attributes:
        found: the version that was asked; None before it has answered, or if it does not say.
    """

    def __init__(self, wanted: str | None, answered: str | None) -> None:
        self._wanted = wanted
        self._answered = answered
        self.found: str | None = None

    def check(self, version: str | None) -> None:
        """Take note of the version that gave an answer.

        Raises:
            Refusal: UNKNOWN_MODEL, it is not the one wanted.
            ModelUnavailable: another one answered before.
        """
        if version is None:
            return
        if self._wanted not in (None, version):
            raise Refusal(
                Reason.UNKNOWN_MODEL,
                f"version {self._wanted} is no longer asked, {version} is in its place; ask without model_version to "
                "learn what that says",
            )
        if self.found not in (None, version):
            raise ModelUnavailable(f"versions {self.found} and {version} answered within one explanation; ask again")
        self.found = version

    @property
    def note(self) -> str | None:
        """What to say where the version asked is not the pair's."""
        if self._answered is None or self.found in (None, self._answered):
            return None
        return f"the pair was answered by version {self._answered}; this is what version {self.found} says"


class AskedModel:
    """The model, as one explanation asks it: every call counted, none begun after the deadline.

    Args:
        deadline: on `clock`.

    Attributes:
        calls: batches sent.
        evaluations: images sent.
    """

    def __init__(self, predict: Predict, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._predict = predict
        self._deadline = deadline
        self._clock = clock
        self.calls = 0
        self.evaluations = 0

    def __call__(self, images: Pixels) -> Probabilities:
        """Probabilities of images (n, h, w, c).

        Raises:
            DeadlinePassed: before or while asking.
            ModelUnavailable: the model does not answer.
        """
        if self._clock() >= self._deadline:
            raise DeadlinePassed("the deadline passed during the search")
        self.calls += 1
        self.evaluations += len(images)
        return self._predict(images)


@dataclass(frozen=True)
class Answer:
    """What came of an explanation.

    Attributes:
        outcome: `no_anchor`: nothing smaller than the whole image holds the answer; `timeout`: the best so far.
        reason: where the outcome needs one.
        predicted: class index of the answer that is explained; None if the model did not even say that in time.
        segments: (h, w) uint8, number of each pixel's segment from 0.
        anchor: numbers of the segments that hold the answer.
        precision: share of perturbed images with the anchor that keep the answer.
        coverage: share of perturbed images that hold the anchor.
        importance: (h, w) float32, by how much the answer's probability falls when the pixel is covered.
        samples: perturbed images that the method looked at; those that were evaluated before cost nothing.
    """

    outcome: Literal["ok", "no_anchor", "timeout"]
    reason: str | None = None
    predicted: int | None = None
    segments: NDArray[np.uint8] | None = None
    anchor: tuple[int, ...] | None = None
    precision: float | None = None
    coverage: float | None = None
    importance: NDArray[np.float32] | None = None
    samples: int = 0


class Explainer(Protocol):
    """A method. It keeps nothing between calls and may be called by several threads at once."""

    def explain(self, image: Pixels, options: Options, model: AskedModel) -> Answer:
        """Explain the model's answer about an image (h, w, c) float32 in 0..1; a passed deadline is an answer, too.

        Raises:
            ModelUnavailable: the model does not answer.
        """
