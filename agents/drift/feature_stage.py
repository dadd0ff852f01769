"""The first stage's wiring: pairs in, a message of features out for each, in the order of the pairs."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.drift.features import Detectors, EncodedFeatures, extract
from agents.pairs import read_pairs, unwatched
from runtime.batches import Batch, BatchStage
from runtime.errors import FatalError
from runtime.metrics import DriftMetrics
from runtime.results import DeadLetters, Outgoing, Results
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import FEATURES, PAIRS


@dataclass(frozen=True, slots=True)
class Extracted:
    """A batch, computed."""

    features: list[EncodedFeatures]
    refused: list[tuple[Any, Refusal]]
    unwatched: Counter[str]


class FeatureStage(BatchStage):
    """Extracts features; what it publishes is in the log in the order of the pairs, without a gap.

    The second stage tells duplicates by that order, see docs/architecture.md.

    Args:
        max_ahead: see `schemas.clock`.
        pairs_id: asks for the id of the topic `inference.pairs`; None where it has none.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        detectors: Detectors,
        metrics: DriftMetrics,
        max_ahead: float,
        pairs_id: Callable[[], str | None],
    ) -> None:
        self._specs = specs
        self._max_ahead = max_ahead
        self._ask_pairs_id = pairs_id
        self._pairs_id: str | None = None
        self._generation = -1
        self._positions: dict[int, int] = {}
        self._detectors = detectors
        self._metrics = metrics
        self._results: Results
        self._letters: DeadLetters

    def connect(self, results: Results, letters: DeadLetters) -> None:
        """Where results go."""
        self._results, self._letters = results, letters

    def compute(self, batch: Batch) -> Extracted:
        """Decode, and compute every detector's features.

        Raises:
            FatalError: the topic was made anew; the next process asks for its id.
        """
        if batch.generation != self._generation:
            self._generation, self._positions, self._pairs_id = batch.generation, {}, self._ask_pairs_id()
        self._check_order(batch)
        pairs, refused = read_pairs(batch.messages, self._specs, time.time(), self._max_ahead)
        return Extracted(extract(pairs, self._detectors, self._pairs_id), refused, unwatched(pairs))

    def _check_order(self, batch: Batch) -> None:
        for message in batch.messages:
            if message.offset < (position := self._positions.get(message.partition, 0)):
                raise FatalError(
                    f"{PAIRS.name} [{message.partition}]: offset {message.offset} came after {position - 1}; the "
                    "topic was made anew, and counting begins anew with it"
                )
            self._positions[message.partition] = message.offset + 1

    async def deliver(self, extracted: Extracted) -> None:
        """Publish first: batches are begun in order, and `publish` queues before it waits."""
        await self._results.publish([Outgoing(FEATURES.name, one.model, one.value) for one in extracted.features])
        await self._letters.send(extracted.refused)
        self._metrics.count_unwatched(extracted.unwatched)
        for model, count in Counter(one.model for one in extracted.features).items():
            self._metrics.featured.labels(model).inc(count)
