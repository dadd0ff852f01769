"""The demo's third act: feedback at the article's 90 % and then 40 %, and whether the figures follow."""

import time
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from cli.demo_verdict import Verdict
from cli.feedback import FeedbackOptions, send_feedback
from cli.produce import ProduceOptions, send
from cli.stack import Stack
from cli.supervisor import fetch
from elasticsearch import Elasticsearch
from runtime.errors import TransientError
from runtime.record_indices import INFERENCES, all_of

PHASES = (("demo-right", 0.9), ("demo-wrong", 0.4))
IMAGES = 1000
MARGIN = 0.03
SETTLE_SECONDS = 120.0
POLL_SECONDS = 0.5
PAUSE_SECONDS = 2.5
"""Longer than a window of performance in the demo, so that no window holds pairs of two phases."""
ENVIRONMENT = {"MODELWATCH_PERFORMANCE_WINDOW_SECONDS": "1"}


@dataclass
class FeedbackAct:
    """Sends images and feedback about them in two phases; the second one must show in the rolling accuracy.

    Attributes:
        request_ids: of all images that this act sent.
    """

    stack: Stack
    verdict: Verdict
    console: Console

    def __post_init__(self) -> None:
        self.request_ids: list[str] = []
        self._store = Elasticsearch(self.stack.settings.elasticsearch_url, request_timeout=30)

    def run(self) -> None:
        """Send, wait, check."""
        for number, (prefix, accuracy) in enumerate(PHASES):
            time.sleep(PAUSE_SECONDS)
            self.console.print(f"Sending {IMAGES} images, and feedback at {accuracy:.0%} …", highlight=False)
            sent = send(ProduceOptions("cifar10", IMAGES, prefix=prefix), self.stack.settings, self.console)
            self.request_ids.extend(sent.request_ids)
            self._wait_for_pairs((number + 1) * IMAGES)
            options = FeedbackOptions(prefix, accuracy=accuracy, shuffle=True, duplicates=0.1, corrections=0.1)
            send_feedback(options, self.stack.settings, self.console)
            labelled = self._wait_for("labelled", "lifetime", (number + 1) * IMAGES)
            rolling = self._figure("accuracy", "rolling") or 0.0
            self.verdict.check(
                f"rolling accuracy follows feedback at {accuracy:.0%}",
                f"{accuracy:.3f} ± {MARGIN}",
                f"{rolling:.3f}, {labelled:.0f} labelled in all",
                abs(rolling - accuracy) <= MARGIN,
            )
        self._check_lifetime()

    def _check_lifetime(self) -> None:
        """The figure is that of the records: counted again, from what is stored."""
        correct = [self._count({"feedback.correct": flag}) for flag in (True, False)]
        recomputed = correct[0] / max(1, sum(correct))
        shown = self._figure("accuracy", "lifetime") or 0.0
        self.verdict.check(
            "lifetime accuracy is that of the stored records",
            f"{recomputed:.6f}, of {sum(correct)} records",
            f"{shown:.6f}",
            abs(shown - recomputed) <= 1e-12 and sum(correct) == len(PHASES) * IMAGES,
        )

    def _count(self, term: dict[str, Any]) -> int:
        self._store.indices.refresh(index=all_of(INFERENCES))
        return int(self._store.count(index=all_of(INFERENCES), query={"term": term})["count"])

    def _wait_for_pairs(self, count: int) -> None:
        """The images' pairs are on their topic; feedback may well come before the agent has read them."""
        prefixes = [prefix for prefix, _ in PHASES]
        query = {"bool": {"should": [{"prefix": {"request_id": f"{prefix}-"}} for prefix in prefixes]}}

        def recorded() -> bool:
            self._store.indices.refresh(index=all_of(INFERENCES))
            return int(self._store.count(index=all_of(INFERENCES), query=query)["count"]) >= count

        self._wait(recorded, f"{count} records")

    def _wait_for(self, name: str, window: str, value: float) -> float:
        self._wait(lambda: (self._figure(name, window) or 0.0) >= value, f"{name} {window} {value:g}")
        # Corrections may still be on their way behind the last first label: wait until the lag is gone.
        self._wait(lambda: self._sample("modelwatch_consumer_lag", topic="inference.feedback") == 0, "no lag")
        time.sleep(PAUSE_SECONDS)
        return self._figure(name, window) or 0.0

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

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TransientError(f"{what} was not there within {SETTLE_SECONDS:g} s; see build/demo/logs")
            time.sleep(POLL_SECONDS)
