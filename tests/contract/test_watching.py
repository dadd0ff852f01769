"""What the explanations agent watches: policies ask within their rate, and nothing that comes ends or holds it up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents.explanations.lookup import PairLookup
from agents.explanations.policies import Policies
from agents.explanations.recent_pairs import RecentPairs
from agents.explanations.watch_stage import WatchStage
from runtime.batches import Batch
from runtime.metrics import ExplanationsMetrics
from runtime.record_indices import apply_templates
from runtime.results import Outgoing
from schemas.base import utc_now
from schemas.messages import ExplanationRequest
from schemas.model_spec import ModelSpec
from schemas.topics import FEEDBACK, OUTLIERS, PAIRS
from tests.contract.test_predictions import LABELS, pair
from tests.servers.record_bench import Store, client_of, run, until


def spec(name: str, **policies: Any) -> ModelSpec:
    document = {
        "name": name,
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": LABELS,
        "weights": {"framework": "null"},
        "explanations": {"policies": {"per_minute": 600, "burst": 100} | policies},
    }
    return ModelSpec.model_validate(document)


class Published:
    """In the producer's place: what was asked."""

    def __init__(self) -> None:
        self.questions: list[ExplanationRequest] = []

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self.questions += [ExplanationRequest.model_validate_json(one.value or b"") for one in messages]


class Watched:
    """A stage before a real store."""

    def __init__(self, client: Any, *specs: ModelSpec) -> None:
        own = {one.name: one for one in specs}
        self.registry, self.published = CollectorRegistry(), Published()
        self.recent = RecentPairs(1000, 1 << 20)
        self.stage = WatchStage(own, Policies(own, time.monotonic), self.recent, ExplanationsMetrics(self.registry))
        self.stage.connect(self.published, PairLookup(self.recent, client, 300.0))  # type: ignore[arg-type]

    async def see(self, *messages: Any) -> None:
        await self.stage.deliver(self.stage.compute(Batch(list(messages), 1)))

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"modelwatch_{name}_total", labels) or 0.0

    def asked(self) -> list[tuple[str, str | None, str | None]]:
        return [(one.request_id, one.model, one.model_version) for one in self.published.questions]


def message(topic: str, value: bytes | None, key: bytes | None = b"id", model: bytes | None = None) -> Any:
    headers = [] if model is None else [("model", model)]
    return SimpleNamespace(
        topic=topic, partition=0, offset=0, key=key, value=value, headers=headers, timestamp=time.time()
    )


def answered(name: str, model: str, version: str = "1", primary: bool = True, predicted: int = 0) -> Any:
    read = pair(name, model, version, primary, predicted)
    return message(PAIRS.name, read.message.value, name.encode(), model.encode())


def told(name: str, label: str, model: str | None = None) -> Any:
    item = {"request_id": name, "truth_label": label, "given_at": utc_now().isoformat(), "model": model}
    return message(FEEDBACK.name, orjson.dumps(item), name.encode())


def watching(store: Store, test: Callable[[Watched], Awaitable[None]], *specs: ModelSpec) -> None:
    async def whole() -> None:
        async with client_of(store.url) as client:
            await apply_templates(client)
            await test(Watched(client, *specs))

    run(whole())


def test_feedback_about_ids_that_are_not_known_is_looked_up_together(store: Store, unique: str) -> None:
    async def test(watched: Watched) -> None:
        names = [f"{unique}-{number}" for number in range(8)]
        seeing = asyncio.ensure_future(watched.see(*(told(name, "dog") for name in names)))
        await until(lambda: len(watched.recent._waiting) == 8)
        for name in names:
            watched.recent.put(name, watched.stage.compute(Batch([answered(name, "m")], 1)).pairs[0][1])
        await seeing
        assert watched.asked() == [(name, "m", "1") for name in names]

    watching(store, test, spec("m", wrong_answers=True))


def test_feedback_is_not_looked_up_while_no_question_may_be_asked(store: Store, unique: str) -> None:
    async def test(watched: Watched) -> None:
        await watched.see(answered("a", "m"), told("a", "dog"))
        assert watched.asked() == [("a", "m", "1")]
        await watched.see(*(told(f"{unique}-{number}", "dog") for number in range(100)))  # none is waited for
        assert watched.metric("feedback_not_compared") == 100
        await watched.see(told(unique, "dog", "n"))  # of a model that does not want it
        assert watched.metric("feedback_not_compared") == 100

    watching(store, test, spec("m", wrong_answers=True, per_minute=0.001, burst=1), spec("n"))


def test_few_unknown_ids_of_many_hold_the_watch_up(store: Store, unique: str) -> None:
    async def test(watched: Watched) -> None:
        seeing = asyncio.ensure_future(watched.see(*(told(f"{unique}-{number}", "dog") for number in range(500))))
        await until(lambda: len(watched.recent._waiting) == 16)
        assert watched.metric("feedback_not_compared") == 500 - 16
        await seeing

    watching(store, test, spec("m", wrong_answers=True))


def test_a_truth_without_a_model_is_about_every_answer_and_asks_about_each_wrong_one(store: Store) -> None:
    async def test(watched: Watched) -> None:
        await watched.see(
            answered("a", "m", predicted=1),
            answered("a", "n", "1", primary=False),
            answered("a", "n", "2", primary=False),
            told("a", "dog"),
        )
        assert watched.asked() == [("a", "n", "1"), ("a", "n", "2")]
        await watched.see(told("a", "cat", "m"))
        assert watched.asked()[2:] == [("a", "m", "1")]

    watching(store, test, spec("m", wrong_answers=True), spec("n", wrong_answers=True))


def test_pairs_of_models_that_are_not_known_are_kept_and_counted(store: Store) -> None:
    async def test(watched: Watched) -> None:
        await watched.see(answered("a", "m"), answered("b", "gone"), answered("b", "gone"))
        assert watched.metric("unwatched_pairs", reason="unknown_model") == 2
        assert len(watched.recent) == 3

    watching(store, test, spec("m"))


def test_verdicts_of_versions_ask_about_these_and_those_of_models_that_are_gone_ask_nothing(store: Store) -> None:
    async def test(watched: Watched) -> None:
        fields = {"score": 2, "threshold": 1, "is_outlier": True, "scored_at": utc_now().isoformat()}
        detector = {"detector": {"name": "vae", "version": "1", "sha256": "ab"}}
        for model, version in (("m", "3"), ("m", None), ("gone", "1")):
            verdict = {"request_id": "a", "model": model, "model_version": version, **fields, **detector}
            await watched.see(message(OUTLIERS.name, orjson.dumps(verdict)))
        assert watched.asked() == [("a", "m", "3"), ("a", "m", None)]

    watching(store, test, spec("m", outliers=True))


@pytest.mark.parametrize("topic", [PAIRS.name, OUTLIERS.name, FEEDBACK.name])
def test_poison_on_a_topic_that_is_watched_ends_nothing(store: Store, topic: str) -> None:
    async def test(watched: Watched) -> None:
        values = [None, b"", b"garbage", b"\xff\x00", b"[]", b"{}", b"null", b"1e999", b'{"request_id": "\\ud800"}']
        await watched.see(*(message(topic, value, key) for value in values for key in (None, b"", b"\xff", b"id")))
        assert watched.asked() == []
        await watched.see(answered("a", "m"), told("a", "dog"))
        assert watched.asked() == [("a", "m", "1")]

    watching(store, test, spec("m", wrong_answers=True, low_confidence=0.01, outliers=True))
