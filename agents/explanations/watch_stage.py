"""Pairs, outlier verdicts and feedback in: keeps the latest pairs, and asks questions by policy."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agents.confusion.truth import Told, read_feedback, resolve
from agents.explanations.lookup import PairLookup, StoreAway
from agents.explanations.policies import OUTLIERS, WRONG_ANSWERS, Policies, Wanted
from agents.explanations.recent_pairs import KeptPair, RecentPairs
from agents.rate_limit import RateLimit
from runtime.batches import Batch, BatchStage
from runtime.logging import get_logger
from runtime.metrics import ExplanationsMetrics
from runtime.results import Outgoing, Results
from schemas import topics
from schemas.base import utc_now
from schemas.headers import MODEL, event_headers, rfc3339
from schemas.messages import ExplanationRequest, OutlierVerdict
from schemas.model_spec import ModelSpec
from schemas.pairs import read_pair
from schemas.refusal import Refusal

log = get_logger(__name__)

SOURCE = "/modelwatch/explanations"
REQUEST_TYPE = "modelwatch.explanation.request.v1"
PAIR_SECONDS = 2.0
"""Longest wait for the pairs of a batch's feedback that are not known yet."""
COMPARED_PER_SECOND = 200
"""Truths compared with their answers, at most; each answer has to be decoded."""
LOOKED_UP_PER_SECOND, LOOKED_UP_AT_ONCE = 0.5, 16
"""Of them, those whose answers are not among the latest: waiting for one holds its batch up."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch, read.

    Attributes:
        pairs: id and value of each pair.
        wanted: what policies want explained.
        told: truths, yet to be compared with their answers.
        unknown: the model of each pair whose model is not known here.
    """

    pairs: list[tuple[str, KeptPair]]
    wanted: list[Wanted]
    told: list[Told]
    unknown: list[str]


class WatchStage(BatchStage):
    """Watches what may be asked about. What it cannot read is left to the agents whose business it is."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], policies: Policies, recent: RecentPairs, metrics: ExplanationsMetrics
    ) -> None:
        self._specs = specs
        self._policies = policies
        self._recent = recent
        self._metrics = metrics
        self._comparisons = RateLimit(COMPARED_PER_SECOND, COMPARED_PER_SECOND, time.monotonic)
        self._lookups = RateLimit(LOOKED_UP_PER_SECOND, LOOKED_UP_AT_ONCE, time.monotonic)
        self._results: Results
        self._lookup: PairLookup

    def connect(self, results: Results, lookup: PairLookup) -> None:
        """Where questions go, and where the pairs of truths come from."""
        self._results, self._lookup = results, lookup

    def compute(self, batch: Batch) -> Seen:
        """Read as much as the policies need: without any, a pair's key is enough."""
        seen = Seen([], [], [], [])
        for message in batch.messages:
            if message.topic == topics.PAIRS.name:
                self._see_pair(message, seen)
            elif message.topic == topics.OUTLIERS.name:
                self._see_verdict(message, seen)
            else:
                self._see_feedback(message, seen)
        return seen

    async def deliver(self, seen: Seen) -> None:
        """Keep the pairs, and ask."""
        for request_id, pair in seen.pairs:
            self._recent.put(request_id, pair)
        self._metrics.recent_pairs.set(len(self._recent))
        self._metrics.count_unwatched({"unknown_model": len(seen.unknown)})
        wrong = await asyncio.gather(*(self._wrong(told) for told in self._affordable(seen.told)))
        await self.ask([*seen.wanted, *(one for several in wrong for one in several)])

    async def ask(self, wanted: list[Wanted]) -> None:
        """Publish questions, as far as each model's rate allows."""
        asked = [one for one in wanted if self._policies.within_rate(one)]
        await self._results.publish([self._question(one) for one in asked])
        every, passed = (
            Counter((one.model, one.policy) for one in wanted),
            Counter((one.model, one.policy) for one in asked),
        )
        for (model, policy), count in every.items():
            self._metrics.asked.labels(model, policy, "asked").inc(passed[model, policy])
            self._metrics.asked.labels(model, policy, "dropped").inc(count - passed[model, policy])

    def _see_pair(self, message: Any, seen: Seen) -> None:
        if not message.key or not message.value:
            return
        request_id = message.key.decode(errors="replace")
        seen.pairs.append((request_id, KeptPair(message.value, message.timestamp)))
        model = next((value for name, value in message.headers or () if name == MODEL), None)
        if model is not None and (named := model.decode(errors="replace")) not in self._specs:
            seen.unknown.append(named)
        if not self._policies.look_at_pairs:
            return
        try:
            response = read_pair(message.value).response
        except Refusal:
            return
        if (wanted := self._policies.of_pair(request_id, response)) is not None:
            seen.wanted.append(wanted)

    def _see_verdict(self, message: Any, seen: Seen) -> None:
        try:
            verdict = OutlierVerdict.model_validate_json(message.value or b"")
        except ValidationError:
            return
        policies = self._policies.of_model(verdict.model)
        if policies is not None and policies.outliers and verdict.is_outlier:
            seen.wanted.append(Wanted(verdict.request_id, verdict.model, verdict.model_version, OUTLIERS))

    def _see_feedback(self, message: Any, seen: Seen) -> None:
        if not any(spec.explanations.policies.wrong_answers for spec in self._specs.values()):
            return
        try:
            told, _ = read_feedback(message.value, message.offset)
        except Refusal:
            return
        seen.told.extend(told)

    def _affordable(self, told: Iterable[Told]) -> list[Told]:
        """The truths that are compared with their answers: none of a model that may not ask now, and few at once."""
        interesting = [one for one in told if one.model is None or self._wants_wrong(one.model)]
        allowed = [one for one in interesting if self._policies.may_ask_about_wrong(one.model)]
        compared = allowed[: self._comparisons.take(len(allowed))]
        recent = [one for one in compared if self._recent.get(one.request_id)]
        others = [one for one in compared if not self._recent.get(one.request_id)]
        chosen = recent + others[: self._lookups.take(len(others))]
        self._metrics.not_compared.inc(len(interesting) - len(chosen))
        return chosen

    async def _wrong(self, told: Told) -> list[Wanted]:
        """The answers that the truth calls wrong, of models that want such answers explained."""
        try:
            pairs = await self._lookup.answers(told.request_id, PAIR_SECONDS)
        except StoreAway as error:
            log.warning("feedback_not_compared", request_id=told.request_id, reason=str(error))
            return []
        wanted = []
        for pair in pairs:
            model, version = pair.response.model, pair.response.model_version
            if told.model not in (None, model) or not self._wants_wrong(model):
                continue
            try:
                truth = resolve(told.truth.form, self._specs[model])
            except Refusal:
                continue
            if pair.response.predicted not in (None, truth):
                wanted.append(Wanted(told.request_id, model, version, WRONG_ANSWERS))
        return wanted

    def _wants_wrong(self, model: str) -> bool:
        policies = self._policies.of_model(model)
        return policies is not None and policies.wrong_answers

    def _question(self, wanted: Wanted) -> Outgoing:
        question = ExplanationRequest(
            request_id=wanted.request_id,
            model=wanted.model,
            model_version=wanted.version,
            method=self._specs[wanted.model].explanations.method,
            asked_by=f"{wanted.policy} policy",
            asked_at=utc_now(),
        )
        moment = rfc3339(question.asked_at.timestamp())
        headers = event_headers(wanted.request_id, REQUEST_TYPE, SOURCE, moment, wanted.model, None)
        value = question.model_dump_json().encode()
        return Outgoing(topics.EXPLANATION_REQUESTS.name, wanted.request_id, value, list(headers))
