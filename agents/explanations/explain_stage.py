"""Questions in, explanations out: each is acknowledged when its answer is recorded and published."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from agents.explanations.admission import Admission
from agents.explanations.answers import FOUND, document_of, explained, recorded, unexplained
from agents.explanations.explainer import AskedModel, AskedVersion, Explainer, ModelUnavailable, Pixels, Predict
from agents.explanations.lookup import FoundPair, NotAnswered, PairLookup, SeveralAnswers, Sought, StoreAway
from agents.explanations.model_client import OnVersion
from agents.explanations.questions import options_of, pixels_of, read_question, seconds_left, spec_of, takes_unit_range
from agents.explanations.settings import ExplanationsSettings
from runtime.batches import Batch, BatchStage
from runtime.elasticsearch_sink import Record, RecordSink
from runtime.metrics import ExplanationsMetrics
from runtime.model_folder import default_model
from runtime.record_indices import INFERENCES
from runtime.results import DeadLetters, Outgoing, Results
from schemas.clock import arrival
from schemas.explanation_options import METHODS, Options
from schemas.headers import event_headers, rfc3339, traceparent_in
from schemas.identity import MAX_ID_BYTES
from schemas.messages import Explanation, ExplanationRequest, LogPosition, Outcome
from schemas.model_spec import ModelSpec
from schemas.refusal import Refusal
from schemas.topics import EXPLANATION_REQUESTS, EXPLANATIONS

SOURCE = "/modelwatch/explanations"
EXPLANATION_TYPE = "modelwatch.monitoring.explanation.v1"
UNKNOWN = "unknown"
LONGEST_SECONDS = EXPLANATION_REQUESTS.retention_ms / 1000
"""A question waits no longer for its turn, whatever its deadline: so long it is kept."""
Predictor = Callable[[str, float, OnVersion], Predict]
"""From a model's name, a deadline, and who is told the version, to the function that asks it, for a thread that is not
the event loop's."""


class Stopping(Exception):  # noqa: N818 - not an error: the question is left for whoever comes next
    """The process is told to stop."""


@dataclass(frozen=True, slots=True)
class Question:
    """A message of the topic, read.

    Attributes:
        message: topic, partition, offset, timestamp (seconds), headers, key, value.
        asked: None if the message holds no question.
        refusal: why not.
    """

    message: Any
    asked: ExplanationRequest | None
    refusal: Refusal | None

    @property
    def position(self) -> LogPosition:
        """Where it lies."""
        moment = datetime.fromtimestamp(arrival(self.message.timestamp, time.time()), timezone.utc)
        return LogPosition(partition=self.message.partition, offset=self.message.offset, time=moment)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be explained, and where the answer is recorded: nowhere for an image that came with its question."""

    spec: ModelSpec
    image: Pixels
    found: FoundPair | None


class Unexplained(Exception):  # noqa: N818 - an answer to the caller
    """There will be no explanation; why is in the answer."""

    def __init__(self, outcome: str, reason: str, model: str = UNKNOWN, found: FoundPair | None = None) -> None:
        super().__init__(reason)
        self.outcome, self.reason, self.model, self.found = outcome, reason, model, found


class ExplainStage(BatchStage):
    """Answers questions, several at once.

    Args:
        explainers: by model, then by method.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        explainers: Mapping[str, Mapping[str, Explainer]],
        settings: ExplanationsSettings,
        metrics: ExplanationsMetrics,
    ) -> None:
        self._specs = specs
        self._default_model = default_model(settings.default_model, specs)
        self._explainers = explainers
        self._settings = settings
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(settings.explanations_at_once, thread_name_prefix="explain")
        self._admission: Admission
        self._results: Results
        self._letters: DeadLetters
        self._sink: RecordSink
        self._lookup: PairLookup
        self._predictor: Predictor
        self._stopping: Callable[[], bool]

    def connect(
        self, results: Results, letters: DeadLetters, sink: RecordSink, lookup: PairLookup, predictor: Predictor
    ) -> None:
        """Where answers go, and where images and predictions come from."""
        self._results, self._letters, self._sink = results, letters, sink
        self._lookup, self._predictor = lookup, predictor
        settings = self._settings
        self._admission = Admission(settings.explanations_at_once, self._metrics.in_hand.set)

    def stop_when(self, stopping: Callable[[], bool]) -> None:
        """How to know that the process is told to stop."""
        self._stopping = stopping

    def compute(self, batch: Batch) -> list[Question]:
        """Read the questions."""
        questions = []
        for message in batch.messages:
            try:
                questions.append(Question(message, read_question(message.value), None))
            except Refusal as refusal:
                questions.append(Question(message, None, refusal))
        return questions

    async def deliver(self, questions: list[Question]) -> None:
        """Answer all of them; left unacknowledged, by a cancellation, where the process stops before."""
        ended = await asyncio.gather(*(self._serve(question) for question in questions), return_exceptions=True)
        failures = [one for one in ended if isinstance(one, BaseException)]
        for failure in failures:
            if not isinstance(failure, (Stopping, asyncio.CancelledError)):
                raise failure
        if failures:
            raise asyncio.CancelledError

    async def _serve(self, question: Question) -> None:
        if self._stopping():
            raise Stopping
        if question.asked is None:
            await self._refuse(question)
            return
        began = time.monotonic()
        try:
            explanation, found = await self._answer(question, question.asked, began)
        except Unexplained as failure:
            asked, found = question.asked, failure.found
            version = asked.model_version if found is None else found.pair.response.model_version
            told = (asked.method[:64], failure.outcome, failure.reason, question.position)
            explanation = unexplained(asked.request_id, failure.model, version, *told)
        await self._finish(question, explanation, found)

    async def _answer(
        self, question: Question, asked: ExplanationRequest, now: float
    ) -> tuple[Explanation, FoundPair | None]:
        left = self._time(asked)
        if left <= 0:
            return await self._too_late(question, asked, -left), None
        if (refusal := self._admission.refusal(left)) is not None:
            raise Unexplained("overloaded", refusal, asked.model or UNKNOWN)
        self._admission.enter()
        try:
            target = await self._target(asked, min(left, self._settings.explanation_pair_wait_seconds))
            if (earlier := _earlier(target.found, question, asked)) is not None:
                return earlier, None  # recorded, and perhaps not published, before this process or the last one ended
            options = _checked(lambda: options_of(asked, target.spec), target.spec.name, target.found)
            async with self._admission.turn(now + left - time.monotonic()) as has_come:
                if not has_come:
                    reason = "its turn did not come before its deadline"
                    raise Unexplained("timeout", reason, target.spec.name, target.found)
                # A question without a deadline has its time from here on, however long it waited.
                deadline = now + left if asked.deadline else time.monotonic() + self._settings.explanation_seconds
                return await self._explain(question, asked, target, options, deadline), target.found
        finally:
            self._admission.leave()

    async def _too_late(self, question: Question, asked: ExplanationRequest, seconds: float) -> Explanation:
        """No time is left; but the question may have been answered, by a process that was killed then."""
        reason = f"the deadline passed {seconds:.1f} s before the question was read"
        if asked.image is None:
            target = await self._target(asked, 0.0)
            if (earlier := _earlier(target.found, question, asked)) is not None:
                return earlier
            raise Unexplained("timeout", reason, target.spec.name, target.found)
        raise Unexplained("timeout", reason, asked.model or UNKNOWN)

    def _time(self, asked: ExplanationRequest) -> float:
        """Seconds to the deadline."""
        model = asked.model or UNKNOWN
        if asked.method not in METHODS:
            raise Unexplained("invalid", f"no method {asked.method[:64]!r}; there are {', '.join(METHODS)}", model)
        left: float = _checked(lambda: seconds_left(asked, time.time(), LONGEST_SECONDS), asked.model or UNKNOWN, None)
        return min(left, LONGEST_SECONDS)

    async def _target(self, asked: ExplanationRequest, seconds: float) -> Target:
        """The image, from the question or from its pair."""
        if asked.image is not None:
            model, image = asked.model or self._default_model, asked.image
            if model is None:
                known = ", ".join(sorted(self._specs))
                raise Unexplained("invalid", f"it names no model, and none is the default; name one of {known}")
            spec = _checked(lambda: spec_of(model, self._specs), model, None)
            return Target(spec, _checked(lambda: pixels_of(image, spec), model, None), None)
        try:
            sought = Sought(asked.request_id, asked.model, asked.model_version)
            return self._target_of(await self._lookup.find(sought, asked.method, seconds))
        except StoreAway as error:
            raise Unexplained("failed", f"it is not known whether there is such a pair: {error}") from error
        except NotAnswered as error:
            raise Unexplained("not_found", str(error), asked.model or UNKNOWN) from error
        except SeveralAnswers as error:
            raise Unexplained("invalid", str(error), asked.model or UNKNOWN) from error

    def _target_of(self, found: FoundPair) -> Target:
        pair = found.pair
        model = pair.request.model
        spec = _checked(lambda: spec_of(model, self._specs), model, None)
        if pair.response.outcome is Outcome.EXPIRED:
            reason = "the request expired before the model was asked: there is no answer to explain"
            raise Unexplained("expired", reason, model, found)
        return Target(spec, _checked(lambda: pixels_of(pair.request.image, spec), model, found), found)

    async def _explain(
        self, question: Question, asked: ExplanationRequest, target: Target, options: Options, deadline: float
    ) -> Explanation:
        name, began = target.spec.name, time.monotonic()
        answered = None if target.found is None else target.found.pair.response.model_version
        version = AskedVersion(asked.model_version, answered)
        explainer = self._explainers[name][asked.method]
        loop = asyncio.get_running_loop()
        try:
            predict = takes_unit_range(self._predictor(name, deadline, version.check), target.spec)
            model = AskedModel(self._guarded(predict, target.spec), deadline)
            answer = await loop.run_in_executor(self._pool, explainer.explain, target.image, options, model)
        except ModelUnavailable as error:
            raise Unexplained("failed", str(error), name, target.found) from error
        except Refusal as refusal:
            raise Unexplained("invalid", refusal.detail, name, target.found) from refusal
        seconds = time.monotonic() - began
        self._admission.took(seconds)
        self._metrics.seconds.labels(name, asked.method).observe(seconds)
        self._metrics.predictor_calls.labels(name, asked.method).inc(model.calls)
        self._metrics.evaluations.labels(name, asked.method).inc(model.evaluations)
        drawing = (asked, target.spec, target.image, answer, model, version, seconds, question.position)
        return await loop.run_in_executor(self._pool, explained, *drawing)

    def _guarded(self, predict: Predict, spec: ModelSpec) -> Predict:
        """The model, unless the process stops, and as long as its classes are those that this agent knows."""

        def ask(images: Pixels) -> Any:
            if self._stopping():
                raise Stopping
            answers = predict(images)
            if answers.shape[1] != len(spec.labels):
                raise ModelUnavailable(
                    f"the model asked has {answers.shape[1]} classes, model.yaml of {spec.name} here {len(spec.labels)}"
                    "; start worker and agent with the same model folders"
                )
            return answers

        return ask

    async def _finish(self, question: Question, explanation: Explanation, found: FoundPair | None) -> None:
        """Record first: who reads of an explanation finds it in its pair's record."""
        asked = question.asked
        if asked is not None and found is not None and _may_replace(found, explanation):
            document = document_of(explanation, asked.asked_by)
            record = Record(found.index, found.record_id, document, INFERENCES, source=question.message)
            await self._sink.write([record])
        await self._results.publish([_outgoing(question, explanation)])
        self._count(explanation)

    async def _refuse(self, question: Question) -> None:
        """No question: the message goes to the dead letters, and whoever waits for its key is told."""
        message, refusal = question.message, question.refusal
        if refusal is None:
            raise TypeError("a message is a question or refused")
        await self._letters.send([(message, refusal)])
        key = (message.key or b"")[:MAX_ID_BYTES].decode(errors="ignore")
        if key:
            explanation = unexplained(key, UNKNOWN, None, UNKNOWN, "invalid", refusal.detail, question.position)
            await self._results.publish([_outgoing(question, explanation)])
            self._count(explanation)

    def _count(self, explanation: Explanation) -> None:
        model = explanation.model if explanation.model in self._specs else UNKNOWN
        method = explanation.method if explanation.method in METHODS else UNKNOWN
        self._metrics.explanations.labels(model, method, explanation.outcome).inc()
        if explanation.outcome in FOUND and explanation.precision is not None and explanation.coverage is not None:
            self._metrics.precision.labels(model).observe(explanation.precision)
            self._metrics.coverage.labels(model).observe(explanation.coverage)


def _earlier(found: FoundPair | None, question: Question, asked: ExplanationRequest) -> Explanation | None:
    """The recorded answer to this very message."""
    if found is None or not found.record:
        return None
    known = recorded(found.record, asked.method)
    if known is None or known.question is None:
        return None
    here = question.position
    same = (known.question.partition, known.question.offset) == (here.partition, here.offset)
    return known if same else None


def _may_replace(found: FoundPair, explanation: Explanation) -> bool:
    """An answer that explains nothing, or explains another version's, leaves one that does explain the pair's."""
    known = recorded(found.record, explanation.method) if found.record else None
    if known is None or known.outcome not in FOUND:
        return True
    own = found.pair.response.model_version
    return explanation.outcome in FOUND and (explanation.model_version == own or known.model_version != own)


def _checked(check: Callable[[], Any], model: str, found: FoundPair | None) -> Any:
    try:
        return check()
    except Refusal as refusal:
        raise Unexplained("invalid", refusal.detail, model, found) from refusal


def _outgoing(question: Question, explanation: Explanation) -> Outgoing:
    traceparent = traceparent_in(question.message.headers)
    moment = rfc3339(explanation.explained_at.timestamp())
    headers = event_headers(explanation.request_id, EXPLANATION_TYPE, SOURCE, moment, explanation.model, traceparent)
    return Outgoing(EXPLANATIONS.name, explanation.request_id, explanation.model_dump_json().encode(), list(headers))
