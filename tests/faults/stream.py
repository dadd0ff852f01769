"""A steady stream of requests from real test images, and the account of what became of each."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from confluent_kafka import TopicPartition

from runtime import kafka
from runtime.settings import Settings
from schemas.payloads.encode import encode_png
from schemas.topics import DEAD_LETTERS, PAIRS, REQUESTS
from tests.servers.messages import read
from training.datasets import load_split

DEFAULT_MODEL = "cifar10-resnet32"
PARTITIONS = 4
IMAGES = 1_000
"""Different test images in a stream; they come round again under other ids."""
TICK_SECONDS = 0.02
HEADERS = [("content-type", b"image/png")]


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until `condition()` holds; `AssertionError` naming `what` if it does not in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


class RequestStream:
    """Sends requests at a steady pace from a thread of its own until told to finish. Use it in a `with` block.

    Attributes:
        truths: class index of each request sent so far, by id.
        rate: requests a second; may be changed.
    """

    def __init__(self, settings: Settings, prefix: str, rate: float) -> None:
        images, labels = load_split("test", progress=False)
        self._values = [encode_png(image) for image in images[:IMAGES]]
        self._labels = labels[:IMAGES].tolist()
        self._prefix = prefix
        self.rate = rate
        self._producer = kafka.producer(settings, **{"log_level": 0})
        self._guard = kafka.DeliveryGuard()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.truths: dict[str, int] = {}

    def __enter__(self) -> "RequestStream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def finish(self, at_least: int) -> None:
        """End the steady stream, send at once what is missing to `at_least` requests, and see all acknowledged."""
        self.__exit__()
        self._send(at_least - len(self.truths))
        assert self._producer.flush(60) == 0
        self._guard.check()

    def name_of(self, index: int) -> str:
        """Id of a request by its number."""
        return f"{self._prefix}-{index:06d}"

    def _run(self) -> None:
        began = before = time.monotonic()
        due = 0.0
        for tick in itertools.count(1):
            now = time.monotonic()
            due += (now - before) * self.rate
            before = now
            self._send(int(due) - len(self.truths))
            self._producer.poll(0)
            if self._stopping.wait(max(0.0, began + tick * TICK_SECONDS - time.monotonic())):
                return

    def _send(self, count: int) -> None:
        for index in range(len(self.truths), len(self.truths) + count):
            key, row = self.name_of(index), index % IMAGES
            self.truths[key] = self._labels[row]
            kafka.produce(
                self._producer,
                REQUESTS.name,
                self._guard.on_delivery,
                key=key,
                value=self._values[row],
                headers=HEADERS,
            )


@dataclass(frozen=True)
class Account:
    """What the log holds after a stream, as subscribers see it.

    Attributes:
        missing: ids without a pair.
        repeated: ids with more than one, and how many.
        strangers: ids of pairs that nobody asked for.
        right: share of the answers that name the true class.
        aborted: records of pairs that were written and taken back.
        dead_letters: how many.
    """

    missing: list[str]
    repeated: dict[str, int]
    strangers: list[str]
    right: float
    aborted: int
    dead_letters: int


def wait_for_answers(settings: Settings, group: str, timeout: float) -> None:
    """Wait until the group has committed, on each partition, all that is there now."""
    reader = kafka.consumer(settings, group, static=False)
    partitions = [TopicPartition(REQUESTS.name, number) for number in range(PARTITIONS)]
    ends = [reader.get_watermark_offsets(partition, timeout=30)[1] for partition in partitions]

    def answered() -> bool:
        offsets = [max(0, one.offset) for one in reader.committed(partitions, timeout=30)]
        return all(offset >= end for offset, end in zip(offsets, ends, strict=True))

    wait_until(answered, timeout, f"the group committed {ends}")
    reader.close()


def account(settings: Settings, truths: dict[str, int]) -> Account:
    """Compare the pairs with the requests. Call it when no worker runs, so that no transaction is under way."""
    pairs = read(settings, PAIRS.name)
    answers = [orjson.loads(pair.value()) for pair in pairs]
    seen = Counter(answer["request"]["request_id"] for answer in answers)
    right = sum(answer["response"]["predicted"] == truths.get(answer["request"]["request_id"]) for answer in answers)
    written = read(settings, PAIRS.name, **{"isolation.level": "read_uncommitted"})
    return Account(
        missing=sorted(truths.keys() - seen.keys()),
        repeated={key: count for key, count in seen.items() if count > 1},
        strangers=sorted(seen.keys() - truths.keys()),
        right=right / max(1, len(answers)),
        aborted=len(written) - len(pairs),
        dead_letters=len(read(settings, DEAD_LETTERS.name)),
    )


def assert_exactly_once(found: Account) -> None:
    """Nothing lost, nothing doubled, nothing invented, nothing refused."""
    assert found.missing == []
    assert found.repeated == {}
    assert found.strangers == []
    assert found.dead_letters == 0
