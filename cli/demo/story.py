"""The demo's acts in order: what is sent, what is waited for, what is checked, and what is kept for the page."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console

from cli.demo.answers import check_accuracy, check_explanation, check_truck, http_median
from cli.demo.collect import latencies, pictures, strangest
from cli.demo.delivery import Ledger
from cli.demo.feedback import ACCURACIES, FeedbackAct
from cli.demo.monitoring import CORRUPTIONS, FIELDS, MASKS, Monitoring
from cli.demo.records import Records, wait_until
from cli.demo.verdict import Verdict
from cli.produce import ProduceOptions, Sent, send
from cli.report.evidence import CLEAN, Evidence
from cli.stack import Stack
from schemas.messages import InferencePair

BAD_MESSAGES = 21
MOST_LABELS = 1000
"""Images of each batch that feedback is about."""


def labels_of(images: int) -> int:
    """How many images feedback of each accuracy is about, when `images` are streamed."""
    return min(images, MOST_LABELS)


@dataclass
class Story:
    """One run; `verdict` and `evidence` fill up as it goes, so that they tell of a run that is cut short, too."""

    stack: Stack
    images: int
    verdict: Verdict
    evidence: Evidence
    console: Console

    def __post_init__(self) -> None:
        self._records = Records(self.stack.settings)
        self._monitoring = Monitoring(self.stack, self.verdict, self.console, self._records)
        self._feedback = FeedbackAct(self.stack, self.verdict, self.console, self._records)

    def tell(self) -> None:
        """All of it.

        Raises:
            TransientError: something awaited did not come.
        """
        self.console.print(f"Streaming {self.images} test images and {BAD_MESSAGES} bad messages …", highlight=False)
        clean = self._send(ProduceOptions("cifar10", self.images, bad=BAD_MESSAGES, prefix="demo-clean"))
        with self._timed("drift"):
            self._monitoring.drift(clean)
        self.evidence.windows = self._monitoring.windows
        truck = self._send(ProduceOptions("truck", 1, prefix="demo-truck"))
        self._monitoring.masks()
        with self._timed("feedback"):
            late = self._give_feedback(clean)
        clean_again, masked = [late], self._monitoring.masked
        sent = {CLEAN: [clean], **{name: [one] for name, one in self._monitoring.sent.items()}}
        ledger = Ledger({**sent, "truck": [truck], "masked truck": masked, "clean, once more": clean_again})
        self._close(ledger, clean, truck)

    def _give_feedback(self, clean: Sent) -> Sent:
        """About the clean images, then about others that are sent for it; returns the latter."""
        labels = labels_of(self.images)
        self._wait_for_records(clean)
        self._feedback.run(clean.prefix, labels, ACCURACIES[0])
        self.console.print(f"Sending {labels} more images …", highlight=False)
        late = self._send(ProduceOptions("cifar10", labels, prefix="demo-late"))
        self._wait_for_records(late)
        self._feedback.run(late.prefix, labels, ACCURACIES[1])
        self._feedback.check_lifetime()
        self.evidence.feedback = self._feedback.phases
        return late

    def _close(self, ledger: Ledger, clean: Sent, truck: Sent) -> None:
        """Count what was delivered; and only if it is all there, look at single answers."""
        ledger.read_topics(self.stack.settings)
        records = self._records.wait_for(ledger.request_ids, "outlier", FIELDS)
        ledger.records = dict(zip(ledger.request_ids, records, strict=True))
        ledger.stored = self._records.count()
        ledger.check(self.verdict)
        self._keep_ledger(ledger)
        if not ledger.complete:
            return
        pairs = {pair.request.request_id: pair for pair in ledger.pairs}
        masked_ids = [sent.request_ids[0] for sent in self._monitoring.masked]
        self._monitoring.check_rate([ledger.records[name]["outlier"]["is_outlier"] for name in clean.request_ids])
        self._monitoring.check_masks([ledger.records[name] for name in masked_ids])
        check_accuracy(self.verdict, self.stack, clean, pairs)
        check_truck(self.verdict, self.stack, pairs[truck.request_ids[0]])
        self.evidence.explanation = check_explanation(self.verdict, self.stack, truck.request_ids[0], self.console)
        self._keep_pictures(ledger, masked_ids)
        self._keep_speed([pairs[name] for name in clean.request_ids], ledger.pairs)

    def _keep_ledger(self, ledger: Ledger) -> None:
        self.verdict.counts |= {
            "sent": len(ledger.request_ids),
            "bad_sent": ledger.bad_messages.total(),
            "pairs": len(ledger.pairs),
            "records": ledger.stored,
            "dead_letters": len(ledger.letters),
        }
        self.evidence.deliveries = ledger.deliveries()
        for _, _, reason in ledger.letters:
            self.evidence.letters[reason] = self.evidence.letters.get(reason, 0) + 1

    def _keep_pictures(self, ledger: Ledger, masked_ids: Sequence[str]) -> None:
        batches = {name: ledger.request_ids_of(name) for name in (CLEAN, *CORRUPTIONS) if name in ledger.batches}
        self.evidence.scores = {
            name: [ledger.records[one]["outlier"]["score"] for one in request_ids]
            for name, request_ids in batches.items()
        }
        captions = {name: f"{size}×{size}" for name, size in zip(masked_ids, MASKS, strict=True)}
        self.evidence.masked = pictures(self._records, captions)
        self.evidence.gallery = pictures(self._records, strangest(batches, ledger.records))
        self.evidence.threshold = self.evidence.masked[0].threshold

    def _keep_speed(self, stream: Sequence[InferencePair], pairs: Sequence[InferencePair]) -> None:
        began = min(pair.request.sent_at.timestamp() for pair in stream)
        took = max(pair.response.answered_at.timestamp() for pair in stream) - began
        self.verdict.counts["streamed"] = len(stream)
        self.verdict.seconds |= {"stream": took, "http_request_median": http_median(self.stack)}
        self.evidence.device = stream[0].response.device
        self.evidence.latencies = latencies(pairs)
        self.console.print(
            f"{len(stream)} images answered in {took:.2f} s: {len(stream) / took:,.0f} images/s; a single HTTP request "
            f"takes {self.verdict.seconds['http_request_median'] * 1000:.0f} ms (median).",
            highlight=False,
        )

    def _send(self, options: ProduceOptions) -> Sent:
        return send(options, self.stack.settings, self.console)

    def _wait_for_records(self, sent: Sent) -> None:
        query = {"prefix": {"request_id": f"{sent.prefix}-"}}
        wait_until(lambda: self._records.count(query) >= len(sent.request_ids), f"{len(sent.request_ids)} records")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.verdict.seconds[name] = time.monotonic() - began
