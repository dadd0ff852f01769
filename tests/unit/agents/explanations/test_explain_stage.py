"""Questions as they come: hostile ones, late ones, and those about pairs whose model has changed since."""

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from agents.explanations.explain_stage import ExplainStage
from agents.explanations.explainer import Predict, Probabilities
from agents.explanations.lookup import FoundPair, NotAnswered, Sought
from agents.explanations.model_client import OnVersion
from agents.explanations.occlusion import OcclusionExplainer
from agents.explanations.settings import ExplanationsSettings
from runtime.batches import Batch
from runtime.elasticsearch_sink import Record
from runtime.metrics import ExplanationsMetrics
from runtime.results import Outgoing
from schemas.base import utc_now
from schemas.messages import Explanation, ExplanationRequest, ImageDtype, InferencePair, Tensor
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.refusal import Refusal

LABELS = ("cat", "dog")
SHAPE = (16, 16, 3)
IMAGE = Tensor(dtype=ImageDtype.UINT8, shape=SHAPE, data=bytes(16 * 16 * 3)).model_dump(mode="json")


def spec(name: str, labels: tuple[str, ...] = LABELS) -> ModelSpec:
    weights = {"framework": "null"}
    document = {"name": name, "version": "1", "input": {"shape": SHAPE}, "labels": labels, "weights": weights}
    return ModelSpec.model_validate(document)


def pair(model: str, version: str) -> InferencePair:
    now = time.time()
    arguments = ([{}], [now], [None], np.array([[0.25, 0.75]], np.float32), [0.0], [0.0], 0.0, 1, now)
    [value] = PairWriter(model, version, "ab" * 32, LABELS, "cpu").encode(
        ["a"], np.zeros((1, *SHAPE), np.uint8), *arguments
    )
    return InferencePair.model_validate_json(value)


class Served:
    """A stage whose model answers from here, and what came of its questions.

    Attributes:
        version: that the model says it has.
        classes: of its answers.
    """

    def __init__(self, *specs: ModelSpec, found: InferencePair | None = None) -> None:
        settings = ExplanationsSettings(explanations_at_once=2, explanation_pair_wait_seconds=0)
        own = {one.name: one for one in specs}
        self.explanations: list[Explanation] = []
        self.letters: list[Refusal] = []
        self.records: list[Record] = []
        self.version, self.classes, self._found = "1", 2, found
        self.stage = ExplainStage(
            own,
            {name: {"occlusion": OcclusionExplainer()} for name in own},
            settings,
            ExplanationsMetrics(CollectorRegistry()),
        )

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self.explanations += [Explanation.model_validate_json(one.value or b"") for one in messages]

    async def send(self, refused: Sequence[tuple[Any, Refusal]]) -> None:
        self.letters += [refusal for _, refusal in refused]

    async def write(self, records: Sequence[Record]) -> None:
        self.records += records

    async def find(self, sought: Sought, _method: str, _seconds: float) -> FoundPair:
        if self._found is None:
            raise NotAnswered(f"no pair of id {sought.request_id}")
        return FoundPair(self._found, "index", "record", {})

    def predictor(self, _model: str, _deadline: float, on_version: OnVersion) -> Predict:
        def predict(images: Any) -> Probabilities:
            on_version(self.version)
            return np.full((len(images), self.classes), 1 / self.classes, np.float32)

        return predict

    def ask(self, *messages: Any) -> list[Explanation]:
        async def whole() -> None:
            self.stage.connect(self, self, self, self, self.predictor)  # type: ignore[arg-type]
            self.stage.stop_when(lambda: False)
            await self.stage.deliver(self.stage.compute(Batch(list(messages), 1)))

        self.explanations.clear()
        asyncio.run(whole())
        return self.explanations


def message(value: bytes | None, key: bytes | None = b"a", timestamp: float | None = None) -> Any:
    moment = time.time() if timestamp is None else timestamp
    return SimpleNamespace(topic="t", partition=0, offset=3, key=key, value=value, headers=None, timestamp=moment)


def question(timestamp: float | None = None, **fields: Any) -> Any:
    asked = {"request_id": "a", "method": "occlusion", "asked_at": utc_now(), **fields}
    return message(ExplanationRequest.model_validate(asked).model_dump_json().encode(), timestamp=timestamp)


def test_poison_is_in_the_dead_letters_and_ends_nothing() -> None:
    served = Served(spec("m"))
    values = [None, b"", b"garbage", b"[]", b"null", b'{"request_id": 5}', b"\xff"]
    keys = [None, b"", b"a", b"\xff" * 600, "画".encode() * 400]
    answers = served.ask(*(message(value, key) for value in values for key in keys))
    assert len(served.letters) == len(values) * len(keys)
    assert {one.outcome for one in answers} == {"invalid"}
    assert {len(one.request_id.encode()) <= 512 for one in answers} == {True}


@pytest.mark.parametrize("timestamp", [-0.001, 0.0, 9e15, 1e300])
def test_a_question_is_answered_whatever_kafkas_timestamp_says(timestamp: float) -> None:
    [answer] = Served(spec("m")).ask(question(timestamp, image=IMAGE, model="m"))
    assert answer.outcome == "ok"
    assert answer.question is not None and answer.question.time <= utc_now()


def test_a_question_that_names_a_model_of_any_length_gets_an_answer_that_fits_its_topic() -> None:
    served = Served(spec("m"))
    hostile = message(question(image=IMAGE).value.replace(b'"model":null', b'"model":"' + b"x" * (3 << 20) + b'"'))
    served.ask(hostile, question(image=IMAGE, options={"x" * 100_000: 1}), question(method="y" * 100_000))
    assert len(served.letters) == 1
    assert [len(one.model_dump_json()) < 10_000 for one in served.explanations] == [True] * 3


def test_hundreds_with_an_hour_of_time_are_all_explained() -> None:
    served, hour = Served(spec("m")), utc_now() + timedelta(hours=1)
    answers = served.ask(*(question(image=IMAGE, model="m", deadline=hour) for _ in range(256)))
    assert [one.outcome for one in answers] == ["ok"] * 256


def test_an_explanation_names_the_version_asked_and_says_where_the_pairs_was_another() -> None:
    served = Served(spec("m"), found=pair("m", "1"))
    [same] = served.ask(question())
    assert (same.outcome, same.model_version, same.reason) == ("ok", "1", None)
    served.version = "2"
    [other] = served.ask(question())
    assert (other.outcome, other.model_version) == ("ok", "2")
    assert other.reason == "the pair was answered by version 1; this is what version 2 says"
    [named] = served.ask(question(model="m", model_version="1"))
    assert (named.outcome, named.model_version) == ("invalid", "1")
    assert "version 1 is no longer asked, 2 is in its place" in (named.reason or "")
    assert {record.id for record in served.records} == {"record"}


def test_a_pair_of_a_model_that_was_removed_or_has_other_classes_now_gets_its_reason() -> None:
    [removed] = Served(spec("n"), found=pair("m", "1")).ask(question())
    assert (removed.outcome, removed.model) == ("invalid", "m") and "no model 'm'" in (removed.reason or "")
    fewer = Served(spec("m", ("cat",)), found=pair("m", "1"))
    [answer] = fewer.ask(question())
    assert answer.outcome == "failed" and "has 2 classes" in (answer.reason or "")
    smaller = spec("m").model_copy(update={"input": spec("m").input.model_copy(update={"shape": (8, 8, 3)})})
    [answer] = Served(smaller, found=pair("m", "1")).ask(question())
    assert answer.outcome == "invalid" and "image.shape" in (answer.reason or "")
