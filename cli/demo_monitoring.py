"""The demo's second act: what the agents say of clean images, of corrupted ones, and of the truck behind masks."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from cli.demo_verdict import Verdict
from cli.produce import ProduceOptions, Sent, send
from cli.replay.log_reader import read_from, whole
from cli.stack import Stack
from elasticsearch import Elasticsearch
from runtime.errors import TransientError
from runtime.model_folder import load_model_folders
from runtime.record_indices import INFERENCES, all_of
from schemas.messages import DriftReport
from schemas.model_spec import ModelSpec
from schemas.topics import DRIFT

CORRUPTIONS = ("gaussian_noise", "motion_blur", "brightness", "pixelate")
MASKS = tuple(range(2, 21, 2))
SMALL, LARGE = 4, 16
"""Masks up to the first must pass, from the second on be flagged."""
FIELDS = ["outlier.score", "outlier.is_outlier"]
RATE_MARGIN = 0.03
"""Other images than it was calibrated on; chance, of so many images, comes on top."""
SETTLE_SECONDS = 240.0
POLL_SECONDS = 0.5
PAGE = 500


@dataclass
class Monitoring:
    """What the agents said, and the checks of it.

    Attributes:
        sent: everything that this act sent.
    """

    stack: Stack
    verdict: Verdict
    console: Console

    def __post_init__(self) -> None:
        self.sent: list[Sent] = []
        folders = load_model_folders(self.stack.settings.models)
        self.spec: ModelSpec = folders[self.stack.settings.default_model].spec
        self._store = Elasticsearch(self.stack.settings.elasticsearch_url, request_timeout=30)

    def drift(self, clean: Sent) -> None:
        """Fill the window that the clean images began, then a window of each corruption.

        Args:
            clean: what was sent before: test images from the first on, and nothing else.
        """
        if not self.spec.drift:
            return
        size, count = self.spec.window.window_size, len(clean.request_ids)
        missing = -count % size
        if missing:
            self._send("clean", ProduceOptions("cifar10", missing, start=count, prefix="demo"))
        phases = ["clean"] * ((count + missing) // size)
        self._wait_for_windows(len(phases))
        for corruption in CORRUPTIONS:
            self._send(corruption, ProduceOptions("cifar10", size, corruption=corruption, prefix=f"demo-{corruption}"))
            phases.append(corruption)
            self._wait_for_windows(len(phases))
        for phase, report in zip(phases, self._windows(), strict=False):
            self._check_window(phase, report)

    def masks(self) -> None:
        """Send the truck behind ten masks."""
        self.console.print(f"Sending the truck behind {len(MASKS)} masks …", highlight=False)
        for size in MASKS:
            options = ProduceOptions("truck", 1, mask=size, prefix=f"demo-mask-{size:02d}")
            self.sent.append(send(options, self.stack.settings, Console(quiet=True)))

    def check_masks(self) -> None:
        """Scores rise with the mask; small masks pass, large ones are flagged."""
        ids = [sent.request_ids[0] for sent in self.sent if sent.prefix.startswith("demo-mask-")]
        found = [record["outlier"] for record in self._records(ids)]
        scores, flags = [one["score"] for one in found], [one["is_outlier"] for one in found]
        small = [flag for size, flag in zip(MASKS, flags, strict=True) if size <= SMALL]
        large = [flag for size, flag in zip(MASKS, flags, strict=True) if size >= LARGE]
        self.verdict.check(
            "the masked truck's scores rise",
            "from 2×2 to 20×20",
            " ".join(f"{score:.4f}" for score in scores),
            scores[0] < scores[len(scores) // 2] < scores[-1],
        )
        self.verdict.check(
            "small masks pass, large ones are flagged",
            f"up to {SMALL}×{SMALL} pass, from {LARGE}×{LARGE} flagged",
            " ".join(str(int(flag)) for flag in flags),
            not any(small) and all(large),
        )

    def check_records(self, request_ids: Sequence[str], clean: Sent) -> None:
        """Each request has one record with its verdict; clean images are flagged about as often as was set."""
        records = self._records(request_ids)
        total = int(self._store.count(index=all_of(INFERENCES))["count"])
        scored = sum("outlier" in record for record in records)
        self.verdict.check(
            "every request has exactly one record with its verdict",
            f"{len(request_ids)} records",
            f"{total} records, {scored} with a verdict",
            total == scored == len(request_ids),
        )
        flagged = [record["outlier"]["is_outlier"] for record in self._records(clean.request_ids)]
        rate, calibration = sum(flagged) / max(1, len(flagged)), self.spec.outliers and self.spec.outliers.calibration
        if calibration:
            nominal = calibration.false_positive_rate
            margin = RATE_MARGIN + 3 * math.sqrt(nominal * (1 - nominal) / max(1, len(flagged)))
            self.verdict.check(
                "clean images are flagged about as often as was set",
                f"{nominal:.3f} ± {margin:.3f}",
                f"{rate:.3f}",
                abs(rate - nominal) <= margin,
            )

    def _send(self, what: str, options: ProduceOptions) -> None:
        self.console.print(f"Sending {options.count} × {what} …", highlight=False)
        self.sent.append(send(options, self.stack.settings, self.console))

    def _check_window(self, phase: str, report: DriftReport) -> None:
        drifted = {name: test.is_drift for name, test in report.detectors.items()}
        observed = ", ".join(f"{name} {'drift' if flag else 'no drift'}" for name, flag in drifted.items())
        wanted = phase != "clean"
        # The article's detector is the untrained encoder; the classifier's probabilities are a second opinion.
        judged = drifted.get("untrained_encoder", any(drifted.values()))
        self.verdict.check(f"{report.size} × {phase}", "drift" if wanted else "no drift", observed, judged == wanted)

    def _wait_for_windows(self, count: int) -> None:
        _wait(lambda: len(self._windows()) >= count, f"{count} drift windows")

    def _windows(self) -> list[DriftReport]:
        """The default model's windows in order."""
        settings = self.stack.settings
        messages = read_from(settings, DRIFT.name, whole(settings, DRIFT.name))
        reports = [DriftReport.model_validate_json(message.value()) for message in messages]
        own = {one.window_id: one for one in reports if one.model == self.spec.name}
        return sorted(own.values(), key=lambda one: one.start.sequence if one.start else 0)

    def _records(self, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The records of these requests, in order, once each has its verdict; empty for one that never comes."""
        found: dict[str, dict[str, Any]] = {}

        def complete() -> bool:
            wanted = [name for name in request_ids if "outlier" not in found.get(name, {})]
            found.update(self._fetch(wanted))
            return all("outlier" in found.get(name, {}) for name in request_ids)

        with contextlib.suppress(TransientError):  # the check says how many are missing
            _wait(complete, f"{len(request_ids)} records")
        return [found.get(name, {}) for name in request_ids]

    def _fetch(self, request_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        self._store.indices.refresh(index=all_of(INFERENCES))
        for start in range(0, len(request_ids), PAGE):
            page = list(request_ids[start : start + PAGE])
            query = {"ids": {"values": page}}
            hits = self._store.search(index=all_of(INFERENCES), query=query, size=PAGE, source_includes=FIELDS)
            for hit in hits["hits"]["hits"]:
                yield hit["_id"], hit["_source"]


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TransientError(f"{what} were not there within {SETTLE_SECONDS:g} s; see build/demo/logs")
        time.sleep(POLL_SECONDS)
