"""Bad messages never stop a partition: each is whole in the dead letters, and every good one among them is answered."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import pytest
from confluent_kafka import Message

from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS, Settings
from schemas.headers import parse_time
from schemas.payloads import FORMATS
from schemas.topics import DEAD_LETTERS, MAX_MESSAGE_BYTES, MIB, PAIRS, REQUESTS
from tests.corpus import BadRequest, bad_requests
from tests.faults.mutations import mutated_requests
from tests.faults.raw_producer import send_raw
from tests.faults.stream import DEFAULT_MODEL, PARTITIONS, wait_for_answers
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read
from training.datasets import load_split

WARM_UP, HALF = 200, 2_000
"""Bad messages, and as many good ones among them."""
ANSWER_SECONDS = 120.0
MAX_GROWTH_BYTES = 40 << 20
"""Of the worker's memory over the second half. Over many halves it goes up and down by 25 MB, without a trend; a half
carries more than this bound, so keeping its bytes would show. The 20 MB messages come before: until several were in
hand together, which leaves holes of their size in the heap, each may raise it by a few times its own size."""
OUR_HEADERS = ["topic", "partition", "offset", "stage", "reason", "error", "time"]

Place = tuple[int, int]
"""Partition and offset of a request."""


@dataclass
class Sent:
    """What was sent: good ids, the bad messages by the place where each lies, and the bytes of all values."""

    good: list[str]
    bad: dict[Place, BadRequest]
    size: int = 0


class Sender:
    """Sends good and bad requests in random order."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._producer = kafka.producer(settings)
        self._images, _ = load_split("test", progress=False)
        self._seed = seed
        self._spec = load_model_folders(PROJECT_MODELS)[DEFAULT_MODEL].spec
        self.sent = Sent([], {})

    def send(self, count: int, oversize: int) -> None:
        """`count` bad requests, a third of them damaged at random, and `oversize` of 20 MB, among `count` good ones."""
        self._seed += 1
        damaged = mutated_requests(count // 3, self._seed, self._spec)
        corpus = bad_requests(count - len(damaged), self._seed)
        huge = list(bad_requests(1, self._seed, oversize=True)) * oversize
        mixed: list[BadRequest | int] = [*damaged, *corpus, *huge, *range(count)]
        random.Random(self._seed).shuffle(mixed)
        for one in mixed:
            if isinstance(one, BadRequest):
                self._send_bad(one)
            else:
                self._send_good(one)
        assert self._producer.flush(60) == 0

    def _send_good(self, row: int) -> None:
        payload = FORMATS[sorted(FORMATS)[row % len(FORMATS)]]
        key, headers = f"good-{self._seed}-{row}", [("content-type", payload.content_type.encode())]
        value = payload.encode(self._images[row])
        self.sent.good.append(key)
        self.sent.size += len(value)
        kafka.produce(self._producer, REQUESTS.name, key=key, value=value, headers=headers)

    def _send_bad(self, bad: BadRequest) -> None:
        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            self.sent.bad[message.partition(), message.offset()] = bad

        self.sent.size += len(bad.value or b"")
        kafka.produce(
            self._producer,
            REQUESTS.name,
            on_delivery=delivered,
            key=bad.key,
            value=bad.value,
            headers=bad.headers,
        )


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.slow),
        pytest.param("apache", marks=pytest.mark.real_kafka),
    ]
)
def bootstrap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A broker of the test's own with our topics, of each kind."""
    if request.param == "apache":
        yield request.getfixturevalue("own_kafka").bootstrap
        return
    with EmbeddedServers(tmp_path / "embedded", keep=False) as servers:
        kafka.create_topics(Settings(kafka_bootstrap_servers=servers.kafka, kafka_partitions=PARTITIONS))
        yield servers.kafka
        servers.kill()


@pytest.fixture
def worker(bootstrap: str, tmp_path: Path, unique: str) -> Iterator[WorkerProcess]:
    """A worker of the real model."""
    process = WorkerProcess(bootstrap, tmp_path, group=unique)
    yield process.start()
    process.kill()


@pytest.fixture
def null_worker(bootstrap: str, tmp_path: Path, null_models: str, unique: str) -> Iterator[WorkerProcess]:
    """A worker that answers without computing."""
    process = WorkerProcess(bootstrap, tmp_path, group=unique, models=Path(null_models))
    yield process.start()
    process.kill()


def assert_whole(letter: Message, bad: BadRequest) -> None:
    """The letter is the message, unchanged, with one of its right reasons and where it lay."""
    headers = letter.headers()
    ours = {name: value.decode() for name, value in headers[-len(OUR_HEADERS) :]}
    assert letter.value() == bad.value
    assert letter.key() == bad.key
    assert headers[: -len(OUR_HEADERS)] == bad.headers
    assert list(ours) == OUR_HEADERS
    assert ours["topic"] == REQUESTS.name
    assert ours["stage"] == "inference"
    assert ours["reason"] in {reason.value for reason in bad.reasons}, (bad.fault, ours["reason"], ours["error"])
    assert ours["error"]
    assert parse_time(ours["time"]) > 0


def place_of(letter: Message) -> Place:
    """Where the message of this dead letter lay."""
    ours = dict(letter.headers()[-len(OUR_HEADERS) :])
    return int(ours["partition"]), int(ours["offset"])


@pytest.mark.timeout(900)
def test_bad_messages_are_dead_letters_and_good_ones_among_them_are_answered(
    bootstrap: str, worker: WorkerProcess, unique: str
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap, instance="test")
    sender, memory, sizes = Sender(settings, seed=1), [], [0]
    worker.wait_ready()
    process = psutil.Process(worker.pid)
    for count, oversize in ((WARM_UP, 5), (HALF, 1), (HALF, 0)):
        sender.send(count, oversize)
        wait_for_answers(settings, unique, ANSWER_SECONDS)
        memory.append(process.memory_info().rss)
        sizes.append(sender.sent.size)
    sent = sender.sent
    print(f"{len(sent.bad)} bad among {len(sent.good)} good; MB of memory after each part:", [m >> 20 for m in memory])
    print("MB sent:", [size >> 20 for size in sizes])
    pairs = read(settings, PAIRS.name, at_least=len(sent.good))
    answers = [orjson.loads(pair.value()) for pair in pairs]
    assert Counter(answer["request"]["request_id"] for answer in answers) == Counter(sent.good)
    assert all(answer["response"]["probabilities"] for answer in answers)
    letters = read(settings, DEAD_LETTERS.name, at_least=len(sent.bad))
    assert Counter(map(place_of, letters)) == Counter(sent.bad.keys())
    for letter in letters:
        assert_whole(letter, sent.bad[place_of(letter)])
    assert worker.alive and process.is_running(), "the process that answered is not the one that was started"
    assert worker.metric("modelwatch_pipeline_restarts_total") == 0
    assert worker.metric("modelwatch_dead_letters_total") == len(sent.bad)
    assert sizes[3] - sizes[2] > MAX_GROWTH_BYTES, "too little was sent for the next line to show anything"
    assert memory[2] - memory[1] < MAX_GROWTH_BYTES, f"memory grows: {memory}"


def test_what_no_dead_letter_can_hold_does_not_stop_a_partition(
    bootstrap: str, null_worker: WorkerProcess, unique: str
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap, instance="test")
    null_worker.wait_ready()
    good = FORMATS["png"].encode(load_split("test", progress=False)[0][0])
    compressing = kafka.producer(
        settings, **{"compression.type": "gzip", "message.max.bytes": 4 * MAX_MESSAGE_BYTES, "linger.ms": 0}
    )

    def send(key: str, value: bytes, *headers: tuple[str, bytes]) -> None:
        every = [("content-type", b"image/png"), *headers]
        compressing.produce(REQUESTS.name, partition=0, key=key, value=value, headers=every)
        assert compressing.flush(60) == 0

    send("before", good)
    send("huge", bytes(2 * MAX_MESSAGE_BYTES))
    send_raw(bootstrap, REQUESTS.name, 0, b"raw", good, [(b"not-utf-8-\xff", b"x")])
    send("traced", good, ("traceparent", bytes(MAX_MESSAGE_BYTES - MIB)))
    send("after", good)
    wait_for_answers(settings, unique, ANSWER_SECONDS)
    pairs = read(settings, PAIRS.name, at_least=3)
    assert sorted(pair.key() for pair in pairs) == [b"after", b"before", b"traced"]
    huge, raw = sorted(read(settings, DEAD_LETTERS.name, at_least=2), key=place_of)
    assert (place_of(huge), dict(huge.headers())["reason"], huge.value()) == ((0, 1), b"oversize", None)
    assert (place_of(raw), dict(raw.headers())["reason"], raw.value()) == ((0, 2), b"invalid_header", good)
    assert raw.key() == b"raw"
    assert null_worker.metric("modelwatch_pipeline_restarts_total") == 0
