"""What a run of the demo has shown, as plain data: all that the page about it is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.messages import DriftReport, Explanation

CLEAN = "clean"
"""Name of the batch of images that nothing was done to."""


@dataclass(frozen=True, eq=False)
class JudgedPicture:
    """One image, what the model answered, and how strange it is to the outlier detector.

    Attributes:
        caption: what was done to it.
        image: (height, width, channels) uint8 in 0..255.
        score_map: (height, width) uint8, 255 at the highest; None unless it was flagged.
        label, confidence: of the model's answer.
    """

    request_id: str
    caption: str
    image: NDArray[np.uint8]
    score: float
    threshold: float
    flagged: bool
    score_map: NDArray[np.uint8] | None = None
    label: str | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Delivery:
    """What became of one batch of messages.

    Attributes:
        name: what was sent.
        sent: messages, the bad ones of `bad` excluded.
        pairs: pairs of these requests, on the topic.
        records: records of these requests, in the store.
        bad: unreadable messages sent on purpose.
        dead_letters: of the latter, on the topic.
    """

    name: str
    sent: int
    pairs: int
    records: int
    bad: int = 0
    dead_letters: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is missing and nothing is there twice."""
        return self.sent == self.pairs == self.records and self.bad == self.dead_letters


@dataclass(frozen=True)
class DriftWindow:
    """A window, and what the images in it were: `CLEAN`, or the name of a corruption."""

    phase: str
    report: DriftReport


@dataclass(frozen=True)
class FeedbackPhase:
    """Feedback at one accuracy, as it is in the records.

    Attributes:
        accuracy: that was asked for, in 0..1.
        rolling: accuracy that the agent's metric showed when all of it had arrived.
        truths, predicted: class indices, in the order of answering.
    """

    accuracy: float
    rolling: float | None
    truths: Sequence[int]
    predicted: Sequence[int]

    @property
    def share_right(self) -> float:
        """Accuracy counted from the records."""
        right = sum(truth == answer for truth, answer in zip(self.truths, self.predicted, strict=True))
        return right / max(1, len(self.truths))


@dataclass(frozen=True)
class Latencies:
    """Seconds of each answer: in all, and where they went. Arrays of one length."""

    total: NDArray[np.float64]
    queue: NDArray[np.float64]
    batch: NDArray[np.float64]
    compute: NDArray[np.float64]


@dataclass
class Evidence:
    """All of it; what a run did not come to is empty.

    Attributes:
        false_positive_rate: share of clean images that the outlier threshold was set to flag.
        scores: outlier scores by what was done to the images, in the order of sending.
        letters: dead letters by reason.
        checks, counts, seconds: of the verdict, as in `report.json`.
    """

    began: datetime
    model: str
    model_version: str
    labels: Sequence[str]
    device: str | None = None
    threshold: float | None = None
    false_positive_rate: float | None = None
    masked: list[JudgedPicture] = field(default_factory=list)
    gallery: list[JudgedPicture] = field(default_factory=list)
    scores: dict[str, Sequence[float]] = field(default_factory=dict)
    windows: list[DriftWindow] = field(default_factory=list)
    feedback: list[FeedbackPhase] = field(default_factory=list)
    latencies: Latencies | None = None
    explanation: Explanation | None = None
    deliveries: list[Delivery] = field(default_factory=list)
    letters: dict[str, int] = field(default_factory=dict)
    checks: Sequence[dict[str, Any]] = ()
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every check holds; without checks, nothing does."""
        return bool(self.checks) and all(check["ok"] for check in self.checks)
