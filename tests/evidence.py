"""Evidence of a run that never was, with everything in it, for tests of the page."""

from datetime import datetime, timezone
from typing import Any

import numpy as np

from cli.report.evidence import (
    CLEAN,
    Delivery,
    DriftWindow,
    Evidence,
    FeedbackPhase,
    JudgedPicture,
    Latencies,
)
from schemas.messages import Detector, DriftReport, DriftTest, Explanation, LogPosition

MOMENT = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
DETECTOR = Detector(name="untrained_encoder", version="1", sha256="0" * 64)
THRESHOLD = 0.005


def picture(caption: str, score: float, label: str = "truck") -> JudgedPicture:
    rng = np.random.default_rng(int(score * 1e6))
    flagged = score > THRESHOLD
    score_map = rng.integers(0, 256, (32, 32), np.uint8) if flagged else None
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    return JudgedPicture(f"id-{caption}", caption, image, score, THRESHOLD, flagged, score_map, label, 0.987)


def window(phase: str, p_values: tuple[float, ...]) -> DriftWindow:
    position = LogPosition(partition=0, offset=1, time=MOMENT)
    test = DriftTest(
        is_drift=min(p_values) < 0.0125,
        p_values=p_values,
        distances=tuple(1 - value for value in p_values),
        threshold=0.0125,
        correction="bonferroni",
        detector=DETECTOR,
    )
    report = DriftReport(
        window_id=phase,
        model="m",
        first=position,
        last=position,
        size=1000,
        closed_by="full",
        detectors={"untrained_encoder": test},
        reported_at=MOMENT,
    )
    return DriftWindow(phase, report)


def explanation(**fields: Any) -> Explanation:
    given = {"request_id": "t", "model": "m", "method": "anchors", "outcome": "ok", "label": "truck"}
    figures = {
        "precision": 0.987,
        "coverage": 0.321,
        "anchor": (1, 2),
        "predictor_calls": 7,
        "distinct_evaluations": 77,
    }
    overlay = {"overlay_png": b"\x89PNG overlay", "seconds": 0.25, "explained_at": MOMENT}
    return Explanation.model_validate({**given, **figures, **overlay, **fields})


def feedback(accuracy: float, classes: int = 4, count: int = 200) -> FeedbackPhase:
    rng = np.random.default_rng(1)
    truths = rng.integers(0, classes, count)
    predicted = np.where(np.arange(count) < round(accuracy * count), truths, (truths + 1) % classes)
    order = rng.permutation(count)
    return FeedbackPhase(accuracy, accuracy, truths[order].tolist(), predicted[order].tolist())


def evidence(**fields: Any) -> Evidence:
    """A whole run; `fields` replace what it has."""
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "began": MOMENT,
        "model": "m",
        "model_version": "7",
        "labels": ("cat", "dog", "ship", "truck"),
        "device": "CPU",
        "threshold": THRESHOLD,
        "false_positive_rate": 0.01,
        "masked": [picture("2×2", 0.0034), picture("20×20", 0.0513)],
        "gallery": [picture("pixelate", 0.0912, "ship")],
        "scores": {CLEAN: [0.001, 0.002, 0.003, 0.009], "pixelate": [0.004, 0.0912]},
        "windows": [window(CLEAN, (0.4, 0.9)), window("pixelate", (1e-40, 0.2))],
        "feedback": [feedback(0.9), feedback(0.4)],
        "latencies": Latencies(*(rng.gamma(2, scale, 300) for scale in (0.1, 0.05, 0.01, 0.005))),
        "explanation": explanation(),
        "deliveries": [Delivery(CLEAN, 1234, 1234, 1234, 21, 21), Delivery("truck", 1, 1, 1)],
        "letters": {"unreadable_image": 12, "missing_field": 9},
        "checks": [{"name": "the truck is a truck", "expected": "truck", "observed": "truck (0.9999)", "ok": True}],
        "counts": {"pairs": 1235, "dead_letters": 21, "streamed": 1000},
        "seconds": {"total": 99.4, "stream": 4.0, "http_request_median": 0.0052},
    }
    return Evidence(**(given | fields))
