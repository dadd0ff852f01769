"""The explanations agent with a real worker and model: every way to ask, every way not to get an explanation."""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pytest
import yaml
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from numpy.typing import NDArray
from rich.console import Console

from cli.ask import ask
from cli.explain import ExplainOptions, _questions
from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import load_model_folders, write_checksums
from runtime.record_indices import INFERENCES, index_of_day, setup_record_store
from runtime.settings import PROJECT_MODELS, Settings
from schemas.base import utc_now
from schemas.messages import Explanation, ExplanationRequest, ImageDtype, Tensor
from schemas.pairs import PairWriter, read_pair
from schemas.topics import DEAD_LETTERS, EXPLANATION_REQUESTS, EXPLANATIONS, FEEDBACK, PAIRS
from tests.faults.agents import Store
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read
from training.datasets import TRUCK_INDEX, load_split

MODEL = "cifar10-resnet32"
SECONDS = 180.0
IN_HAND = 24
COUNT = 3 * IN_HAND
POLICIES = {"wrong_answers": True, "low_confidence": 0.3, "per_minute": 1000, "burst": 100}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as own:
        settings = Settings(kafka_bootstrap_servers=own.kafka, elasticsearch_url=own.elasticsearch)
        kafka.create_topics(settings)
        asyncio.run(setup_record_store(settings))
        yield own
        own.kill()


@pytest.fixture(scope="module")
def settings(servers: EmbeddedServers) -> Settings:
    return Settings(
        kafka_bootstrap_servers=servers.kafka, elasticsearch_url=servers.elasticsearch, instance="explanation-tests"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model with policies, and without detectors."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(PROJECT_MODELS / MODEL, root / MODEL)
    spec = yaml.safe_load((PROJECT_MODELS / MODEL / "model.yaml").read_text())
    spec = {key: spec[key] for key in spec if key not in ("outliers", "drift")}
    (root / MODEL / "model.yaml").write_text(yaml.safe_dump(spec | {"explanations": {"policies": POLICIES}}))
    write_checksums(root / MODEL)
    return root


@pytest.fixture(scope="module")
def worker(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(servers.kafka, tmp_path_factory.mktemp("worker"))
    yield process.start()
    process.kill()


@pytest.fixture(scope="module")
def agent(
    servers: EmbeddedServers, worker: WorkerProcess, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    environment = {
        "ELASTICSEARCH_URL": servers.elasticsearch,
        "MODELWATCH_WORKER_URL": worker.url,
        "MODELWATCH_EXPLANATION_PAIR_WAIT_SECONDS": "3",
        "MODELWATCH_EXPLANATIONS_IN_HAND": str(IN_HAND),
        "MODELWATCH_EXPLANATION_SECONDS": "120",
    }
    process = WorkerProcess(
        servers.kafka,
        tmp_path_factory.mktemp("agent"),
        "explanations-0",
        models=models,
        environment=environment,
        module="agents.explanations",
    )
    process.start()
    worker.wait_ready()
    yield process.wait_ready()
    process.kill()


@pytest.fixture(scope="module")
def truck() -> NDArray[np.uint8]:
    return np.array(load_split("train", progress=False)[0][TRUCK_INDEX])


class Talk:
    """Asks, and reads what was answered."""

    def __init__(self, settings: Settings, agent: WorkerProcess) -> None:
        self.settings, self.agent = settings, agent
        self.producer = kafka.producer(settings)
        self.consumer = kafka.assigned_consumer(settings)
        partitions = range(settings.kafka_partitions)
        self.consumer.assign([TopicPartition(EXPLANATIONS.name, number, OFFSET_BEGINNING) for number in partitions])
        self.seen: list[Explanation] = []
        folder = load_model_folders(PROJECT_MODELS)[MODEL]
        self.writer = PairWriter(MODEL, "1", folder.weights_sha256, folder.spec.labels, "cpu")

    def pair(self, request_id: str, image: NDArray[Any], predicted: int = 9, confidence: float = 0.9) -> bytes:
        probabilities = np.full((1, 10), (1 - confidence) / 9, np.float32)
        probabilities[0, predicted] = confidence
        now = time.time()
        [value] = self.writer.encode(
            [request_id], image[None], [{}], [now], [None], probabilities, [0.0], [0.0], 0.01, 1, now
        )
        self.send(PAIRS.name, value, request_id)
        return value

    def send(self, topic: str, value: bytes, key: str) -> None:
        kafka.produce(self.producer, topic, value=value, key=key)
        self.producer.flush(10)

    def ask(self, request_id: str, **fields: Any) -> None:
        question = ExplanationRequest.model_validate({"request_id": request_id, "asked_at": utc_now(), **fields})
        self.send(EXPLANATION_REQUESTS.name, question.model_dump_json().encode(), request_id)

    def answers(self, *prefixes: str, count: int) -> list[Explanation]:
        """All answers to ids that begin so, once `count` ids have one."""
        deadline = time.monotonic() + SECONDS
        while True:
            read_now = self.read()
            own = [one for one in self.seen if one.request_id.startswith(prefixes)]
            ids = {one.request_id for one in own}
            if len(ids) >= count and not read_now:
                return own  # those that came twice are in it twice
            assert time.monotonic() < deadline, f"{len(ids)} of {count}; {self.agent.last_words()}"

    def read(self) -> int:
        """Take what came, and say how much."""
        messages = [one for one in self.consumer.consume(500, 0.2) if one.error() is None]
        self.seen.extend(Explanation.model_validate_json(one.value()) for one in messages)
        return len(messages)

    def record(self, servers: EmbeddedServers, request_id: str, image: NDArray[np.uint8]) -> None:
        """A pair that is in the record store only."""
        now = time.time()
        [value] = self.writer.encode(
            [request_id], image[None], [{}], [now], [None], np.eye(10, dtype=np.float32)[9:], [0.0], [0.0], 0.01, 1, now
        )
        pair = orjson.loads(value)
        document = {"request_id": request_id, "model": MODEL, "request": pair["request"], "response": pair["response"]}
        index = index_of_day(INFERENCES, utc_now())
        Store(servers.elasticsearch).call("PUT", f"{index}/_doc/{request_id}?refresh=true", document)

    def answer(self, request_id: str) -> Explanation:
        return self.answers(request_id, count=1)[0]


@pytest.fixture(scope="module")
def talk(settings: Settings, agent: WorkerProcess) -> Iterator[Talk]:
    talk = Talk(settings, agent)
    yield talk
    talk.consumer.close()


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def tensor(image: NDArray[np.uint8]) -> dict[str, Any]:
    return Tensor(dtype=ImageDtype.UINT8, shape=image.shape, data=image.tobytes()).model_dump(mode="json")


@pytest.mark.parametrize("preset", ["informative", "article"])
def test_the_truck_is_explained_by_its_id_and_in_its_record(
    talk: Talk, servers: EmbeddedServers, truck: NDArray[np.uint8], name: str, preset: str
) -> None:
    talk.pair(name, truck)
    talk.ask(name, options={"preset": preset})
    answer = talk.answer(name)
    assert (answer.outcome, answer.label) == ("ok", "truck") and answer.anchor
    assert answer.precision is not None and answer.precision >= 0.95
    assert answer.segments is not None and answer.anchor_mask is not None and answer.distinct_evaluations > 0
    segments = np.frombuffer(answer.segments.data, np.uint8)
    assert np.array_equal(np.frombuffer(answer.anchor_mask.data, np.uint8), np.isin(segments, answer.anchor))
    picture = cv2.imdecode(np.frombuffer(answer.overlay_png or b"", np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 500
    record = Store(servers.elasticsearch).all("inferences", ["explanation"])[name]["explanation"]["anchors"]
    assert (record["outcome"], record["precision"], record["asked_by"]) == ("ok", answer.precision, "caller")


def test_explanations_make_no_pairs(talk: Talk, truck: NDArray[np.uint8], name: str) -> None:
    talk.ask(name, image=tensor(truck), method="occlusion")
    answer = talk.answer(name)
    assert answer.outcome == "ok" and answer.predictor_calls == 1 and answer.importance is not None
    written = [read_pair(one.value()).response.device for one in read(talk.settings, PAIRS.name)]
    assert set(written) <= {"cpu"} and all(one.key() != name.encode() for one in read(talk.settings, PAIRS.name))


def test_a_question_may_overtake_its_pair(talk: Talk, truck: NDArray[np.uint8], name: str) -> None:
    talk.ask(name, method="occlusion")
    time.sleep(1)
    talk.pair(name, truck)
    assert talk.answer(name).outcome == "ok"


def test_an_old_pair_is_found_in_the_record_store(
    talk: Talk, servers: EmbeddedServers, truck: NDArray[np.uint8], name: str
) -> None:
    talk.record(servers, name, truck)
    talk.ask(name, method="occlusion")
    assert talk.answer(name).outcome == "ok"
    record = Store(servers.elasticsearch).all("inferences", ["explanation", "model"])[name]
    assert record["model"] == MODEL and record["explanation"]["occlusion"]["outcome"] == "ok"


def test_each_thing_that_cannot_be_explained_has_its_outcome_and_reason(
    talk: Talk, truck: NDArray[np.uint8], name: str
) -> None:
    image, small = tensor(truck), tensor(truck[:2, :2])
    now = utc_now()
    [expired] = talk.writer.encode(
        [f"{name}-expired"], truck[None], [{}], [time.time()], [time.time()], None, [0.0], [0.0], 0.0, 0, time.time()
    )
    talk.send(PAIRS.name, expired, f"{name}-expired")
    cases: dict[str, tuple[dict[str, Any], str, str]] = {
        "unknown": ({}, "not_found", "no pair of id"),
        "expired": ({}, "expired", "expired before the model was asked"),
        "shape": ({"image": small}, "invalid", "image.shape is (2, 2, 3)"),
        "method": ({"image": image, "method": "shap"}, "invalid", "no method 'shap'"),
        "option": ({"image": image, "options": {"n_segments": 0}}, "invalid", "option n_segments"),
        "model": ({"image": image, "model": "other"}, "invalid", "no model 'other'"),
        "negative": ({"image": image, "deadline": now - timedelta(days=1)}, "invalid", "is not after the question"),
        "late": (
            {"image": image, "asked_at": now - timedelta(days=2), "deadline": now - timedelta(days=1)},
            "timeout",
            "before the question was read",
        ),
        "short": (
            {"image": image, "deadline": now + timedelta(seconds=600), "options": {"patch": 33}, "method": "occlusion"},
            "invalid",
            "patch",
        ),
    }
    for case, (fields, _, _) in cases.items():
        talk.ask(f"{name}-{case}", **fields)
    found = {one.request_id: one for one in talk.answers(f"{name}-", count=len(cases))}
    for case, (_, outcome, said) in cases.items():
        answer = found[f"{name}-{case}"]
        assert (answer.outcome, said in (answer.reason or "")) == (outcome, True), answer
    assert not [one for one in read(talk.settings, DEAD_LETTERS.name) if (one.key() or b"").startswith(name.encode())]


def test_the_command_asks_about_every_pair_that_was_flagged_lately(
    talk: Talk, servers: EmbeddedServers, truck: NDArray[np.uint8], name: str
) -> None:
    now, store, index = utc_now(), Store(servers.elasticsearch), index_of_day(INFERENCES, utc_now())
    for case, flagged, hours in (("flagged", True, 0), ("passed", False, 0), ("old", True, 2), ("other", True, 0)):
        talk.record(servers, f"{name}-{case}", truck)
        fields = {
            "@timestamp": (now - timedelta(hours=hours)).isoformat(),
            "model": "another" if case == "other" else MODEL,
            "outlier": {"is_outlier": flagged},
        }
        store.call("POST", f"{index}/_update/{name}-{case}?refresh=true", {"doc": fields})
    questions = list(_questions(ExplainOptions(all_outliers=True, model=MODEL, method="occlusion"), talk.settings))
    assert [one.request_id for one in questions] == [f"{name}-flagged"]
    [answer] = ask(talk.settings, questions, SECONDS, Console(quiet=True))
    assert (answer.request_id, answer.outcome, answer.label) == (f"{name}-flagged", "ok", "truck")


def test_what_is_no_question_is_whole_in_the_dead_letters_and_its_key_is_told(talk: Talk, name: str) -> None:
    talk.send(EXPLANATION_REQUESTS.name, b'{"request_id": 5', name)
    assert talk.answer(name).outcome == "invalid"
    [letter] = [one for one in read(talk.settings, DEAD_LETTERS.name) if one.key() == name.encode()]
    assert letter.value() == b'{"request_id": 5'


def test_policies_ask_by_themselves(talk: Talk, truck: NDArray[np.uint8], name: str) -> None:
    talk.pair(f"{name}-unsure", truck, confidence=0.25)
    talk.pair(f"{name}-sure", truck)
    talk.pair(f"{name}-wrong", truck)
    talk.pair(f"{name}-right", truck)
    for case, truth in (("wrong", "cat"), ("right", "truck")):
        given = f'{{"request_id": "{name}-{case}", "truth_label": "{truth}", "given_at": "{utc_now().isoformat()}"}}'
        talk.send(FEEDBACK.name, given.encode(), f"{name}-{case}")
    found = {one.request_id for one in talk.answers(f"{name}-", count=2)}
    assert found == {f"{name}-unsure", f"{name}-wrong"}
    assert talk.agent.metric("modelwatch_policy_questions_total", policy="wrong_answers", outcome="asked") == 1
    assert talk.agent.metric("modelwatch_policy_questions_total", policy="low_confidence", outcome="asked") == 1


def test_three_times_as_many_as_fit_in_hand_are_all_answered_and_the_agent_is_well(
    talk: Talk, agent: WorkerProcess, truck: NDArray[np.uint8], name: str
) -> None:
    image = tensor(truck)
    for number in range(COUNT):
        deadline = None if number % 2 else utc_now() + timedelta(hours=1)
        fields = {"image": image, "options": {"preset": "article"}, "deadline": deadline}
        question = ExplanationRequest.model_validate(
            {"request_id": f"{name}-{number}", "asked_at": utc_now(), **fields}
        )
        value = question.model_dump_json().encode()
        kafka.produce(talk.producer, EXPLANATION_REQUESTS.name, value=value, key=question.request_id)
    talk.producer.flush(10)
    found = talk.answers(f"{name}-", count=COUNT)
    assert len({one.request_id for one in found}) == len(found) == COUNT
    assert {one.outcome for one in found} == {"ok"}  # the topic is the queue
    agent.wait_ready(10)
    assert agent.metric("modelwatch_explanations_in_hand") == 0


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def test_a_worker_killed_and_an_agent_stopped_delay_and_lose_nothing(
    talk: Talk, agent: WorkerProcess, worker: WorkerProcess, servers: EmbeddedServers, name: str, truck: Any
) -> None:
    names = [f"{name}-{number}" for number in range(16)]
    for one in names:
        talk.record(servers, one, truck)
    worker.kill()
    for number, one in enumerate(names):
        deadline = utc_now() + timedelta(seconds=2 if number < 4 else 240)
        talk.ask(one, options={"preset": "article", "seed": number}, deadline=deadline)
    timeouts = talk.answers(f"{name}-", count=4)
    assert {one.request_id for one in timeouts} == set(names[:4])
    assert all(one.outcome == "timeout" and one.reason for one in timeouts)
    assert agent.metric("modelwatch_explanations_in_hand") == 12
    worker.start()
    assert agent.stop() == 0  # twelve are in hand: they are left to the next start
    agent.start()
    found = talk.answers(f"{name}-", count=16)
    first = {one.request_id: one for one in reversed(found)}
    assert sorted(first) == sorted(names)
    others = [one.seconds for one in found if one != first[one.request_id]]
    assert not others  # who is told twice is told the same: what is recorded
    assert {one.outcome for one in found if one not in timeouts} == {"ok"}
    records = Store(servers.elasticsearch).all("inferences", ["explanation.anchors.outcome"])
    written = {one: records[one]["explanation"]["anchors"]["outcome"] for one in names}
    assert written == {one: "timeout" if one in names[:4] else "ok" for one in names}


def test_what_is_read_again_after_a_kill_gets_the_answer_that_was_recorded(
    talk: Talk, agent: WorkerProcess, servers: EmbeddedServers, name: str, truck: Any
) -> None:
    talk.record(servers, name, truck)
    agent.wait_ready()
    talk.ask(name, method="occlusion", deadline=(deadline := utc_now() + timedelta(seconds=10)))
    while not any(one.request_id == name for one in talk.seen):
        talk.read()
    agent.kill()  # a commit comes once a second: most likely before it
    wait_until(lambda: utc_now() > deadline, agent.last_words)
    agent.start().wait_ready()
    wait_until(lambda: agent.metric("modelwatch_consumer_lag", topic=EXPLANATION_REQUESTS.name) == 0, agent.last_words)
    answers = talk.answers(name, count=1)
    assert all(one == answers[0] for one in answers)
    record = Store(servers.elasticsearch).all("inferences", ["explanation.occlusion"])[name]["explanation"]
    assert record["occlusion"]["outcome"] == "ok"
