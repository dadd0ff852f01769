"""The demo's second act: what the agents say of clean images, of corrupted ones, and of the truck behind masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from cli.demo.records import Document, Records, wait_until
from cli.demo.verdict import Verdict
from cli.produce import ProduceOptions, Sent, send
from cli.replay.log_reader import read_from, whole
from cli.report.evidence import CLEAN, DriftWindow
from cli.stack import Stack
from runtime.model_folder import model_named
from schemas.messages import DriftReport
from schemas.model_spec import ModelSpec
from schemas.topics import DRIFT

CORRUPTIONS = ("gaussian_noise", "motion_blur", "brightness", "pixelate")
MASKS = tuple(range(2, 21, 2))
SMALL, LARGE = 4, 16
"""Masks up to the first must pass, from the second on be flagged."""
FIELDS = ("outlier.score", "outlier.is_outlier", "outlier.threshold")
RATE_MARGIN = 0.03
"""Other images than it was calibrated on; chance, of so many images, comes on top."""
DETECTOR = "untrained_encoder"
"""The article's detector; others of the model are second opinions."""


@dataclass
class Monitoring:
    """What the agents said, and the checks of it.

    Attributes:
        sent: everything that this act sent, by what it was: clean images first.
        masked: the masked trucks, in the order of `MASKS`.
        windows: of drift.
    """

    stack: Stack
    verdict: Verdict
    console: Console
    records: Records

    def __post_init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.masked: list[Sent] = []
        self.windows: list[DriftWindow] = []
        self.spec: ModelSpec = model_named(None, self.stack.settings).spec

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
            self._send("more clean images", ProduceOptions("cifar10", missing, start=count, prefix="demo-more"))
        phases = [CLEAN] * ((count + missing) // size)
        self._wait_for_windows(phases)
        for corruption in CORRUPTIONS:
            self._send(corruption, ProduceOptions("cifar10", size, corruption=corruption, prefix=f"demo-{corruption}"))
            phases.append(corruption)
            self._wait_for_windows(phases)
        for window in self.windows:
            self._check_window(window)

    def masks(self) -> None:
        """Send the truck behind ten masks."""
        self.console.print(f"Sending the truck behind {len(MASKS)} masks …", highlight=False)
        for size in MASKS:
            options = ProduceOptions("truck", 1, mask=size, prefix=f"demo-mask-{size:02d}")
            self.masked.append(send(options, self.stack.settings, Console(quiet=True)))

    def check_masks(self, records: Sequence[Document]) -> None:
        """Scores rise with the mask; small masks pass, large ones are flagged.

        Args:
            records: of the masked trucks, in the order of `MASKS`, each with its verdict.
        """
        scores = [record["outlier"]["score"] for record in records]
        flags = [record["outlier"]["is_outlier"] for record in records]
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
            not any(flag for size, flag in zip(MASKS, flags, strict=True) if size <= SMALL)
            and all(flag for size, flag in zip(MASKS, flags, strict=True) if size >= LARGE),
        )

    def check_rate(self, flags: Sequence[bool]) -> None:
        """Clean images are flagged about as often as was set."""
        calibration = self.spec.outliers and self.spec.outliers.calibration
        if not calibration:
            return
        nominal, rate = calibration.false_positive_rate, sum(flags) / max(1, len(flags))
        margin = RATE_MARGIN + 3 * math.sqrt(nominal * (1 - nominal) / max(1, len(flags)))
        self.verdict.check(
            "clean images are flagged about as often as was set",
            f"{nominal:.3f} ± {margin:.3f}",
            f"{rate:.3f}",
            abs(rate - nominal) <= margin,
        )

    def _send(self, what: str, options: ProduceOptions) -> None:
        self.console.print(f"Sending {options.count} × {what} …", highlight=False)
        self.sent[what] = send(options, self.stack.settings, self.console)

    def _check_window(self, window: DriftWindow) -> None:
        report = window.report
        drifted = {name: test.is_drift for name, test in report.detectors.items()}
        observed = ", ".join(f"{name} {'drift' if flag else 'no drift'}" for name, flag in drifted.items())
        wanted = window.phase != CLEAN
        judged = drifted.get(DETECTOR, any(drifted.values()))
        name = f"{report.size} × {window.phase}"
        self.verdict.check(name, "drift" if wanted else "no drift", observed, judged == wanted)

    def _wait_for_windows(self, phases: Sequence[str]) -> None:
        """Wait until there is a window of each phase."""

        def complete() -> bool:
            self.windows = [DriftWindow(*one) for one in zip(phases, self._reports(), strict=False)]
            return len(self.windows) == len(phases)

        wait_until(complete, f"{len(phases)} drift windows")

    def _reports(self) -> list[DriftReport]:
        """The default model's windows in order."""
        settings = self.stack.settings
        messages = read_from(settings, DRIFT.name, whole(settings, DRIFT.name))
        reports = [DriftReport.model_validate_json(message.value()) for message in messages]
        own = {one.window_id: one for one in reports if one.model == self.spec.name}
        return sorted(own.values(), key=lambda one: one.start.sequence if one.start else 0)
