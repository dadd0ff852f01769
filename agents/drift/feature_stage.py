"""The first stage's wiring: pairs in, a message of features out for each, in the order of the pairs."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.drift.features import Detectors, EncodedFeatures, extract
from agents.pairs import read_pairs, unwatched
from runtime.batches import Batch, BatchStage
from runtime.metrics import DriftMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import FEATURES


@dataclass(frozen=True, slots=True)
class Extracted:
    """A batch, computed."""

    features: list[EncodedFeatures]
    refused: list[tuple[Any, Refusal]]
    unwatched: Counter[str]


class FeatureStage(BatchStage):
    """Extracts features; what it publishes is in the log in the order of the pairs, without a gap.

    The second stage tells duplicates by that order, see docs/architecture.md.
    """

    def __init__(
        self, specs: Mapping[str, ModelSpec], detectors: Detectors, metrics: DriftMetrics, max_ahead: float
    ) -> None:
        self._specs = specs
        self._max_ahead = max_ahead
        self._detectors = detectors
        self._metrics = metrics
        self._results: Results
        self._letters: DeadLetters

    def connect(self, results: Results, letters: DeadLetters) -> None:
        """Where results go."""
        self._results, self._letters = results, letters

    def compute(self, batch: Batch) -> Extracted:
        """Decode, and compute every detector's features."""
        pairs, refused = read_pairs(batch.messages, self._specs, time.time(), self._max_ahead)
        return Extracted(extract(pairs, self._detectors), refused, unwatched(pairs))

    async def deliver(self, extracted: Extracted) -> None:
        """Publish first: batches are begun in order, and `publish` queues before it waits."""
        await self._results.publish([Outgoing(FEATURES.name, one.model, one.value) for one in extracted.features])
        await self._letters.send(extracted.refused)
        self._metrics.count_unwatched(extracted.unwatched)
        for model, count in Counter(one.model for one in extracted.features).items():
            self._metrics.featured.labels(model).inc(count)
