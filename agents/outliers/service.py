"""The outliers agent's wiring: pairs in, a record a pair out, flagged ones to their topic, some to be explained."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from agents.outliers.detector import OutlierDetector
from agents.outliers.policy import ExplanationPolicy
from agents.outliers.records import document_of, index_of, traceparent_of
from agents.outliers.settings import OutliersSettings
from agents.outliers.verdicts import judge
from agents.pairs import ReadPair, read_pairs, record_id_of, unwatched
from runtime.agent import AgentProcess, Context
from runtime.batches import Batch, BatchStage
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.metrics import OutliersMetrics, observe_many
from runtime.model_folder import ModelFolder, load_model_folders
from runtime.record_indices import INFERENCES
from runtime.results import DeadLetters, Outgoing, Results
from schemas.base import utc_now
from schemas.headers import event_headers, rfc3339
from schemas.messages import ExplanationRequest, Outcome, OutlierVerdict
from schemas.refusal import Refusal
from schemas.topics import DEAD_LETTERS, EXPLANATION_REQUESTS, OUTLIERS, PAIRS

NAME = "outliers"
SOURCE = "/modelwatch/outliers"
VERDICT_TYPE = "modelwatch.monitoring.outlier.v1"
REQUEST_TYPE = "modelwatch.explanation.request.v1"


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch, computed."""

    pairs: list[ReadPair]
    verdicts: list[OutlierVerdict | None]
    records: list[Record]
    refused: list[tuple[Any, Refusal]]


class OutliersStage(BatchStage):
    """Scores batches of pairs, and makes the verdicts safe."""

    def __init__(
        self,
        folders: Mapping[str, ModelFolder],
        detectors: Mapping[str, OutlierDetector],
        metrics: OutliersMetrics,
        policy: ExplanationPolicy,
        max_ahead: float,
    ) -> None:
        self._specs = {name: folder.spec for name, folder in folders.items()}
        self._detectors = detectors
        self._metrics = metrics
        self._policy = policy
        self._max_ahead = max_ahead
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink

    def connect(self, results: Results, letters: DeadLetters, sink: RecordSink) -> None:
        """Where results go."""
        self._results, self._letters, self._sink = results, letters, sink

    def compute(self, batch: Batch) -> Judged:
        """Decode, score, and lay the records out."""
        with self._metrics.score_seconds.time():
            pairs, refused = read_pairs(batch.messages, self._specs, time.time(), self._max_ahead)
            verdicts = judge(pairs, self._detectors)
        records = [_record(read, verdict) for read, verdict in zip(pairs, verdicts, strict=True)]
        return Judged(pairs, verdicts, records, refused)

    async def deliver(self, judged: Judged) -> None:
        """Records first: who reads of an outlier finds its record."""
        await self._letters.send(judged.refused)
        await self._sink.write(judged.records)
        flagged = [
            (read, verdict)
            for read, verdict in zip(judged.pairs, judged.verdicts, strict=True)
            if verdict is not None and verdict.is_outlier
        ]
        questions = self._questions(flagged)
        await self._results.publish([*(_flag(read, verdict) for read, verdict in flagged), *questions])
        self._count(judged, flagged)

    def _questions(self, flagged: Sequence[tuple[ReadPair, OutlierVerdict]]) -> list[Outgoing]:
        """Requests for explanations, as far as the policy allows."""
        if not self._policy.on:
            return []
        asked: list[Outgoing] = []
        for model, count in Counter(verdict.model for _, verdict in flagged).items():
            if not self._specs[model].is_explainable:
                continue
            passed = self._policy.take(model, count)
            own = [read for read, verdict in flagged if verdict.model == model][:passed]
            asked.extend(_question(read) for read in own)
            self._metrics.explanations_asked.labels(model, "asked").inc(passed)
            self._metrics.explanations_asked.labels(model, "dropped").inc(count - passed)
        return asked

    def _count(self, judged: Judged, flagged: Sequence[tuple[ReadPair, OutlierVerdict]]) -> None:
        self._metrics.count_unwatched(unwatched(judged.pairs))
        scores: dict[str, list[float]] = {}
        for read, verdict in zip(judged.pairs, judged.verdicts, strict=True):
            if verdict is not None:
                scores.setdefault(verdict.model, []).append(verdict.score)
            else:
                expired = read.pair.response.outcome is Outcome.EXPIRED
                self._metrics.unscored.labels("expired" if expired else "no_detector").inc()
        for model, own in scores.items():
            observe_many(self._metrics.scores.labels(model), own)
            self._metrics.scored.labels(model).inc(len(own))
        for read, verdict in flagged:
            self._metrics.outliers.labels(verdict.model, read.pair.response.label or "").inc()


class OutliersAgent:
    """The agent as its process knows it."""

    topics = (PAIRS, OUTLIERS, EXPLANATION_REQUESTS, DEAD_LETTERS)

    def __init__(self, stage: OutliersStage) -> None:
        self._stage = stage

    def wire(self, context: Context) -> None:
        """Subscribe to pairs."""
        self._stage.connect(context.results, context.letters, context.sink())
        context.subscribe(PAIRS, self._stage)


def run(settings: OutliersSettings) -> None:
    """Run the agent until SIGTERM."""
    folders = load_model_folders(settings.models)
    watched = {name: folder for name, folder in folders.items() if folder.spec.outliers is not None}
    thresholds = [folder.spec.outliers.threshold for folder in watched.values() if folder.spec.outliers]
    metrics = OutliersMetrics(CollectorRegistry(), thresholds)
    policy = ExplanationPolicy(settings.explain_outliers_per_minute, settings.explain_outliers_burst, time.monotonic)

    def build() -> OutliersAgent:
        detectors = {name: OutlierDetector(folder) for name, folder in watched.items()}
        for name, detector in detectors.items():
            detector.warm_up()
            metrics.threshold.labels(name).set(detector.threshold)
            metrics.begin_at_zero(name, folders[name].spec.labels)
        return OutliersAgent(OutliersStage(folders, detectors, metrics, policy, settings.max_ahead_seconds))

    AgentProcess(NAME, settings, settings.outliers_group, metrics, build).run()


def _record(read: ReadPair, verdict: OutlierVerdict | None) -> Record:
    document = document_of(read, verdict)
    return Record(index_of(read), record_id_of(read.pair), document, INFERENCES, source=read.message)


def _flag(read: ReadPair, verdict: OutlierVerdict) -> Outgoing:
    moment = rfc3339(verdict.scored_at.timestamp())
    headers = event_headers(verdict.request_id, VERDICT_TYPE, SOURCE, moment, verdict.model, traceparent_of(read))
    return Outgoing(OUTLIERS.name, verdict.request_id, verdict.model_dump_json().encode(), list(headers))


def _question(read: ReadPair) -> Outgoing:
    request = read.pair.request
    question = ExplanationRequest(
        request_id=request.request_id,
        model=request.model,
        model_version=read.pair.response.model_version,
        asked_by=f"{NAME} policy",
        asked_at=utc_now(),
    )
    moment = rfc3339(question.asked_at.timestamp())
    headers = event_headers(request.request_id, REQUEST_TYPE, SOURCE, moment, request.model, traceparent_of(read))
    return Outgoing(EXPLANATION_REQUESTS.name, request.request_id, question.model_dump_json().encode(), list(headers))
