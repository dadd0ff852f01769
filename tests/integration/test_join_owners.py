"""Who takes a partition of the join over: one owner at a time, whatever stands in its topics, and nothing is lost."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents.confusion import join_stage
from agents.confusion.fold import Fold, decode_fold, encode_fold, fold_key, latest
from agents.confusion.inputs import partition_of
from agents.confusion.join_stage import JoinStage
from agents.confusion.partition import Limits
from agents.confusion.recovery import JoinLoader, Opened
from runtime import kafka
from runtime.batches import Batch
from runtime.embedded import EmbeddedServers
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Results
from runtime.settings import Settings
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.topics import FEEDBACK, JOIN_FOLDS, JOINS, PAIRS
from tests.faults.agents import wait_for
from tests.servers.messages import read

LIMITS = Limits(window_seconds=30, keep_seconds=3600, max_entries=1000, lookup_seconds=30, orphan_seconds=600)
SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (1,), "kind": "tabular"},
        "labels": ("a", "b"),
        "weights": {"framework": "null"},
    }
)
GROUP = ("m", "1")
NOW, LATER = 1.7e9, 4e9
"""When all was answered, and a moment when all of that is too old: before and after any run of these tests."""
PARTITIONS = 12
PARTITION = itertools.count()


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of our own: topic names are fixed."""
    with EmbeddedServers(tmp_path_factory.mktemp("own-servers")) as own:
        kafka.create_topics(Settings(kafka_bootstrap_servers=own.kafka, kafka_partitions=PARTITIONS))
        yield own.kafka
        own.kill()


@pytest.fixture
def partition() -> int:
    """One that no other test uses."""
    return next(PARTITION)


OPEN: list[Results] = []


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    """A producer that is left open reports a lost broker until the tests end."""
    yield
    while OPEN:
        OPEN.pop().close()


class Instance:
    """The first stage of one instance of the agent, which is handed its messages by hand."""

    def __init__(self, bootstrap: str, name: str, folder: Path, assignment: Callable[[], int | None]) -> None:
        self.settings = Settings(kafka_bootstrap_servers=bootstrap, instance=name)
        self.loader = JoinLoader(self.settings, {"m": SPEC}, LIMITS, folder / name)
        metrics = ConfusionMetrics(CollectorRegistry())
        self.stage = JoinStage({"m": SPEC}, metrics, self.loader, LIMITS)
        self.stage.partitions = PARTITIONS
        results = Results(self.settings, asyncio.get_running_loop())
        OPEN.append(results)
        self.records: list[Any] = []

        async def in_place(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        async def write(records: list[Any]) -> None:
            self.records.extend(records)

        sink: Any = SimpleNamespace(write=write)
        self.stage.connect(results, DeadLetters(results, metrics, "confusion"), sink, in_place, assignment)

    async def take(self, *messages: Any, generation: int = 1) -> None:
        await self.stage.deliver(self.stage.compute(Batch(list(messages), generation)))


def pair(partition: int, number: int, offset: int) -> Any:
    writer = PairWriter("m", "1", "0" * 64, SPEC.labels, "cpu")
    nothing: Any = [{}]
    image, outputs = np.zeros((1, 1), np.uint8), np.array([[0.9, 0.1]], np.float32)
    [value] = writer.encode(
        [id_on(partition, number)],
        image,
        nothing,
        [NOW],
        [None],
        outputs,
        queue=[0.0],
        batch=[0.0],
        compute=0.0,
        batch_size=1,
        answered_at=NOW,
    )
    return message(PAIRS.name, partition, offset, value)


def truth(partition: int, number: int, index: int, offset: int) -> Any:
    name = id_on(partition, number)
    value = orjson.dumps({"request_id": name, "truth_index": index, "given_at": "2023-01-01T00:00:00Z"})
    return message(FEEDBACK.name, partition, offset, value)


def id_on(partition: int, number: int) -> str:
    """A request id that lies on a partition, another one for each number."""
    found = (
        name for name in (f"id-{place}" for place in itertools.count()) if partition_of(name, PARTITIONS) == partition
    )
    return next(itertools.islice(found, number, None))


def message(topic: str, partition: int, offset: int, value: bytes) -> Any:
    fields = {"key": b"", "headers": (), "timestamp": NOW, "topic": topic, "partition": partition, "offset": offset}
    return SimpleNamespace(value=value, **fields)


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(steps, 120))


def opened(bootstrap: str, name: str, folder: Path, partition: int) -> Opened:
    """By an instance without any local state."""
    settings = Settings(kafka_bootstrap_servers=bootstrap, instance=name)
    return JoinLoader(settings, {"m": SPEC}, LIMITS, folder / name).open(partition)


def test_two_that_open_a_partition_at_once_do_not_hold_one_epoch(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    barrier, epochs = threading.Barrier(2), dict[str, tuple[int, int]]()

    class Interleaved(JoinLoader):
        """Claims only when the other opener is about to claim as well: each has read what there was before."""

        def _claim(self, partition: int) -> int:
            barrier.wait(30)
            return super()._claim(partition)

    def open_one(name: str) -> None:
        settings = Settings(kafka_bootstrap_servers=bootstrap, instance=name)
        found = Interleaved(settings, {}, LIMITS, tmp_path / name).open(partition)
        epochs[name] = found.join.fold.epoch, found.claim.offset

    threads = [threading.Thread(target=open_one, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (first, claim), (second, later) = sorted(epochs.values())
    assert first < second and claim < later, "the later claim has the higher epoch"
    assert opened(bootstrap, "third", tmp_path, partition).join.fold.epoch > second


def test_what_an_owner_writes_behind_anothers_claim_is_not_safe_until_it_has_claimed_again(
    bootstrap: str, partition: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_stage, "RECLAIM_SECONDS", 0.01)

    async def steps() -> None:
        rightful = Instance(bootstrap, "rightful", tmp_path, lambda: 1)
        await rightful.take(pair(partition, 0, 0))
        stale = opened(bootstrap, "stale", tmp_path, partition)
        await rightful.take(pair(partition, 1, 1), truth(partition, 0, 0, 0))
        owned = rightful.stage._owned[partition]
        assert owned.claim.offset > stale.claim.offset and owned.join.fold.epoch > stale.join.fold.epoch
        assert owned.join.totals[GROUP] == {**owned.join.totals[GROUP], "pairs": 2, "labelled": 1}
        # The stale owner folds what it knows: a pair without the truth that came since.
        [(name, half)] = stale.join.expire(LATER)
        assert (name, half.told) == (id_on(partition, 0), None)
        produce(rightful.settings, stale.join.fold)
        third = opened(bootstrap, "third", tmp_path, partition).join
        assert (third.totals[GROUP]["pairs"], third.totals[GROUP]["labelled"]) == (2, 1)
        assert [record.id for record in rightful.records] == [id_on(partition, 0)]

    run(steps())


def test_an_owner_whose_assignment_is_over_leaves_its_inputs_to_the_next_one(
    bootstrap: str, partition: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_stage, "RECLAIM_SECONDS", 0.01)

    async def steps() -> None:
        former = Instance(bootstrap, "former", tmp_path, lambda: 2)
        await former.take(pair(partition, 0, 0))
        claim = opened(bootstrap, "next", tmp_path, partition).claim
        await former.take(truth(partition, 0, 1, 0))
        assert former.records == []
        assert partition not in former.stage._owned or former.stage._owned[partition].claim.offset < claim.offset

    run(steps())


def test_an_idle_owner_sees_that_it_was_outbid_and_publishes_its_sums_under_a_higher_epoch(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    async def steps() -> None:
        rightful = Instance(bootstrap, "rightful", tmp_path, lambda: 1)
        await rightful.take(pair(partition, 0, 0))
        other = opened(bootstrap, "other", tmp_path, partition).join.fold.epoch
        assert rightful.stage.upkeep(1, {partition: True}, NOW).sums == []
        sums = [orjson.loads(one.value or b"") for one in rightful.stage.upkeep(1, {partition: True}, NOW).sums]
        assert {one["window"] for one in sums} == {-2, int(NOW // 30)}
        assert all(one["epoch"] > other for one in sums)

    run(steps())


def test_a_fold_of_a_former_owner_does_not_take_the_place_of_the_present_one_in_the_compacted_topic(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    former = opened(bootstrap, "same-name", tmp_path / "before", partition)
    present = opened(bootstrap, "same-name", tmp_path / "after", partition)
    settings = Settings(kafka_bootstrap_servers=bootstrap)
    former.join.fold.marks[0] = 99
    produce(settings, former.join.fold)
    by_key = {one.key(): one.value() for one in folds(settings, partition)}
    held = latest([decode_fold(value) for value in by_key.values() if value], partition)
    assert held.epoch == present.join.fold.epoch and held.marks == [-1, -1]
    opened(bootstrap, "third", tmp_path, partition)
    by_key = {one.key(): one.value() for one in folds(settings, partition)}
    assert sum(value is not None for value in by_key.values()) == 1, "what former owners left behind goes"


def test_epochs_that_were_numbered_by_an_earlier_version_are_below_every_later_one(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap)
    left = Fold(partition, epoch=500, marks=[7, -1])
    put(settings, JOIN_FOLDS.name, partition, f"{partition}/an-instance".encode(), encode_fold(left))
    for _ in range(8):
        put(settings, PAIRS.name, partition, b"a pair", b"")
    first = opened(bootstrap, "one", tmp_path, partition).join.fold
    second = opened(bootstrap, "other", tmp_path, partition).join.fold
    assert 500 < first.epoch < second.epoch
    assert first.marks == second.marks == [7, -1]


def test_what_is_none_of_ours_in_the_topics_of_the_join_is_passed_over_and_counted(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap)

    async def steps() -> None:
        owner = Instance(bootstrap, "before", tmp_path, lambda: 1)
        await owner.take(pair(partition, 0, 0))

    run(steps())
    entry = {"schema_version": 2, "request_id": "x", "truths": [], "since": 0, "due": 0, "gone": []}
    half = {"lane": 0, "offset": -1, "model": "m", "version": "1", "time": 0, "kept_from": 0, "predicted": 0}
    poison: list[tuple[bytes | None, bytes | None]] = [
        (None, None),
        (b"\xff", None),
        (b"x", b"garbage"),
        (b"x", b"[1]"),
        (b"x", b'{"request_id": "x"}'),
        (b"x", orjson.dumps({**entry, "pairs": [{**half, "probabilities": "AAAA"}]})),
        (b"x", orjson.dumps({**entry, "pairs": [{**half, "offset": 1, "probabilities": "AAA="}]})),
        (b"x", orjson.dumps({**entry, "due": 1e300, "pairs": []})),
    ]
    for key, value in poison:
        put(settings, JOINS.name, partition, key, value)
    for value in (b"garbage", b"{}", b'{"partition": -1}'):
        put(settings, JOIN_FOLDS.name, partition, b"poison" + value, value)
    counted: list[str] = []
    loader = JoinLoader(settings, {"m": SPEC}, LIMITS, tmp_path / "after", counted.append)
    assert loader.open(partition).join.totals[GROUP]["pairs"] == 1
    assert counted == [JOIN_FOLDS.name] * 3 + [JOINS.name] * len(poison)


def test_where_the_topic_of_pairs_was_made_anew_counting_begins_anew_and_what_was_counted_stays(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    settings = Settings(kafka_bootstrap_servers=bootstrap)
    for _ in range(6):
        put(settings, PAIRS.name, partition, b"a pair", b"")

    async def before() -> None:
        owner = Instance(bootstrap, "before", tmp_path, lambda: 1)
        await owner.take(pair(partition, 0, 4), truth(partition, 0, 0, 0), truth(partition, 2, 1, 1))
        await owner.stage.keep(owner.stage.upkeep(1, {partition: True}, LATER))  # folded
        await owner.take(pair(partition, 1, 5))
        assert owner.stage._owned[partition].join.fold.marks == [4, -1]

    async def after(name: str) -> None:
        owner = Instance(bootstrap, name, tmp_path, lambda: 1)
        await owner.take(pair(partition, 2, 0))
        await owner.stage.keep(owner.stage.upkeep(1, {partition: False}, NOW))
        join = owner.stage._owned[partition].join
        assert (join.totals[GROUP]["pairs"], join.totals[GROUP]["labelled"]) == (3, 2)
        assert owner.stage.is_folded(partition, 5, LATER) is False
        assert owner.stage.is_folded(partition, 5, join.fold.era_began - 1) is True

    run(before())
    anew = Settings(kafka_bootstrap_servers=bootstrap)
    make_anew(anew, PAIRS.name)
    for name in ("first-after", "second-after"):
        run(after(name))
    third = opened(bootstrap, "third", tmp_path, partition).join
    assert (third.totals[GROUP]["pairs"], third.totals[GROUP]["labelled"], third.fold.era) == (3, 2, 1)


def make_anew(settings: Settings, topic: str) -> None:
    """Delete a topic, and create it again, empty."""
    admin = kafka.admin(settings)
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in kafka.cluster_topics(settings), 30, lambda: "the topic is still there")
    kafka.create_topics(settings.model_copy(update={"kafka_partitions": PARTITIONS}))


def put(settings: Settings, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
    client = kafka.producer(settings)
    kafka.produce(client, topic, value=value, key=key, partition=partition)
    client.flush(30)


def produce(settings: Settings, fold: Fold) -> None:
    put(settings, JOIN_FOLDS.name, fold.partition, fold_key(fold).encode(), encode_fold(fold))


def folds(settings: Settings, partition: int) -> list[Any]:
    found = [one for one in read(settings, JOIN_FOLDS.name) if one.partition() == partition]
    return sorted(found, key=lambda one: one.offset())


def test_a_truth_whose_record_was_refused_is_written_when_its_letter_is_sent_again(
    bootstrap: str, partition: int, tmp_path: Path
) -> None:
    async def steps() -> None:
        instance = Instance(bootstrap, "one", tmp_path, lambda: 1)
        await instance.take(pair(partition, 0, 0), truth(partition, 0, 1, 7))
        [refused] = instance.records
        source = refused.source
        assert (source.topic, source.partition, source.offset) == (FEEDBACK.name, partition, 7)
        assert source.key.decode() == id_on(partition, 0)
        await instance.take(message(FEEDBACK.name, partition, 8, source.value))
        again = instance.records[-1]
        assert again.id == refused.id
        assert again.document["feedback"] == {**refused.document["feedback"], "offset": 8}

    run(steps())
