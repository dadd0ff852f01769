"""The demo's third act: feedback at the article's 90 % and then 40 %, and whether the figures follow."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from cli.demo.records import Records, wait_until
from cli.demo.verdict import Verdict
from cli.feedback import FeedbackOptions, send_feedback
from cli.report.evidence import FeedbackPhase
from cli.stack import Stack
from cli.supervisor import fetch
from runtime.errors import TransientError

ACCURACIES = (0.9, 0.4)
MARGIN = 0.03
SETTLE_SECONDS = 120.0
FIELDS = ("response.predicted", "response.answered_at", "feedback.truth", "feedback.correct")


def environment(labels: int) -> dict[str, str]:
    """Settings of the confusion agent for this act.

    Args:
        labels: of each accuracy; the rolling figures are of as many, so that they are those of one accuracy.
    """
    return {
        "MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "1",
        "MODELWATCH_PERFORMANCE_ROLLING_PAIRS": str(labels),
    }


@dataclass
class FeedbackAct:
    """Sends feedback about one batch of images after the other; the second must show in the rolling accuracy."""

    stack: Stack
    verdict: Verdict
    console: Console
    records: Records

    def __post_init__(self) -> None:
        self.phases: list[FeedbackPhase] = []
        self._labelled = 0

    def run(self, prefix: str, count: int, accuracy: float) -> None:
        """Send feedback such that the share `accuracy` of answers is right, wait until all of it counts, and check.

        Args:
            prefix: of the images' request ids. Their pairs are all there, and are a second apart from those of other
                batches: no window of performance holds pairs of two.
            count: of images.
        """
        self.console.print(f"Sending feedback at {accuracy:.0%} about {count} images …", highlight=False)
        options = FeedbackOptions(prefix, accuracy=accuracy, count=count, shuffle=True, duplicates=0.1, corrections=0.1)
        request_ids = sorted(send_feedback(options, self.stack.settings, self.console))
        self._labelled += len(request_ids)
        with contextlib.suppress(TransientError):  # the checks say what was seen last
            wait_until(lambda: self._settled(request_ids, accuracy), "the figures of all feedback", SETTLE_SECONDS)
        rolling = self._figure("accuracy", "rolling")
        phase = self._phase(request_ids, accuracy, rolling)
        self.phases.append(phase)
        self._check(phase, len(request_ids))

    def check_lifetime(self) -> None:
        """The figure over all is that of the records: counted again, from what is stored."""
        counted = [self.records.count({"term": {"feedback.correct": flag}}) for flag in (True, False)]
        recomputed, shown = counted[0] / max(1, sum(counted)), self._figure("accuracy", "lifetime") or 0.0
        self.verdict.check(
            "lifetime accuracy is that of the stored records",
            f"{recomputed:.6f}, of {sum(counted)} records",
            f"{shown:.6f}",
            abs(shown - recomputed) <= 1e-12 and sum(counted) == self._labelled > 0,
        )

    def _check(self, phase: FeedbackPhase, labels: int) -> None:
        rolling = phase.rolling if phase.rolling is not None else -1.0
        self.verdict.check(
            f"rolling accuracy follows feedback at {phase.accuracy:.0%}",
            f"{phase.accuracy:.3f} ± {MARGIN}",
            f"{rolling:.3f}, {len(phase.truths)} labelled",
            abs(rolling - phase.accuracy) <= MARGIN,
        )
        recomputed = phase.share_right
        self.verdict.check(
            f"rolling accuracy at {phase.accuracy:.0%} is that of the stored records",
            f"{recomputed:.6f}, of {labels} records",
            f"{rolling:.6f}, of {len(phase.truths)} records",
            abs(rolling - recomputed) <= 1e-12 and len(phase.truths) == labels,
        )

    def _settled(self, request_ids: Sequence[str], accuracy: float) -> bool:
        """Every label is in its record and in the metrics, corrections included."""
        if (self._figure("labelled", "lifetime") or 0.0) < self._labelled:
            return False
        if self._sample("modelwatch_consumer_lag", topic="inference.feedback") != 0:
            return False
        phase = self._phase(request_ids, accuracy, self._figure("accuracy", "rolling"))
        return len(phase.truths) == len(request_ids) and phase.rolling == phase.share_right

    def _phase(self, request_ids: Sequence[str], accuracy: float, rolling: float | None) -> FeedbackPhase:
        found = [one for one in self.records.find(request_ids, FIELDS).values() if "feedback" in one]
        found.sort(key=lambda one: str(one["response"]["answered_at"]))
        return FeedbackPhase(
            accuracy,
            rolling,
            [one["feedback"]["truth"] for one in found],
            [one["response"]["predicted"] for one in found],
        )

    def _figure(self, name: str, window: str) -> float | None:
        return self._sample(f"modelwatch_{name}", window=window)

    def _sample(self, name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(fetch(f"{self.stack.urls['confusion']}/metrics").decode())
        found = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None
