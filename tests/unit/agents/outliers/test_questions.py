"""Which flagged pairs ask to be explained: those whose model's answers can be."""

import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from agents.outliers.policy import ExplanationPolicy
from agents.outliers.service import OutliersStage
from agents.pairs import ReadPair, read_pairs
from runtime.metrics import OutliersMetrics
from runtime.model_folder import ModelFolder
from schemas.base import utc_now
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.messages import Detector, OutlierVerdict
from tests.unit.agents.test_pairs import Message, pair, spec, value


def flagged(read: ReadPair) -> tuple[ReadPair, OutlierVerdict]:
    verdict = OutlierVerdict(
        request_id="id",
        model=read.pair.request.model,
        score=2.0,
        threshold=1.0,
        is_outlier=True,
        detector=Detector(name="vae", version="1", sha256="ab" * 32),
        scored_at=utc_now(),
    )
    return read, verdict


def test_flagged_answers_of_a_regression_model_ask_nothing() -> None:
    numbers = spec("n").model_copy(update={"task": "regression", "labels": ("people",)})
    specs = {"m": spec("m"), "n": numbers}
    folders = {name: ModelFolder(Path(name), own, "ab" * 32) for name, own in specs.items()}
    metrics = OutliersMetrics(CollectorRegistry(), [1.0])
    stage = OutliersStage(folders, {}, metrics, ExplanationPolicy(60, 5, lambda: 0.0), MAX_AHEAD_SECONDS)
    pairs, refused = read_pairs([Message(pair("m")), Message(value("n", 3.5))], specs, time.time(), MAX_AHEAD_SECONDS)
    asked = stage._questions([flagged(read) for read in pairs])
    assert refused == []
    assert [dict(one.headers)["model"] for one in asked] == [b"m"]
