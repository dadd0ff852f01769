"""From the join's sums to the board's, as messages; no number is too large for them."""

import asyncio
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from agents.confusion import joined
from agents.confusion.board_stage import BoardStage
from agents.confusion.fold import Fold, decode_fold, encode_fold
from agents.confusion.join_stage import JoinStage
from agents.confusion.ownership import Claim
from agents.confusion.partition import Limits, PartitionJoin
from agents.confusion.records import report_record
from agents.confusion.recovery import Opened
from agents.confusion.settings import ConfusionSettings
from agents.confusion.store import RocksStore
from agents.confusion.sums import SCALE, Sums
from agents.confusion.told_sums import LIFETIME, MAX_UNREADABLE_BYTES, partition_of
from agents.confusion.versions import KEPT_VERSIONS
from runtime.batches import Batch
from runtime.elasticsearch_sink import Record
from runtime.metrics import ConfusionMetrics
from runtime.results import DeadLetters, Outgoing
from schemas.messages import PerformanceReport, PerformanceSums
from schemas.model_spec import BreakdownSpec, ModelSpec
from schemas.pairs import PairWriter
from schemas.refusal import Reason
from schemas.topics import DEAD_LETTERS, PERFORMANCE_SUMS

SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("a", "b"),
        "weights": {"framework": "null"},
    }
)
LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=1000, lookup_seconds=1, orphan_seconds=9)
BILLION = 10**9
SUMS_TOPIC = PERFORMANCE_SUMS.name
SUMS = Sums({"pairs": BILLION, "labelled": BILLION, "confidence": BILLION * SCALE - 1, "cell:1:1": BILLION})


class Loader:
    """A partition whose last owner left a billion pairs behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, _partition: int) -> Opened:
        store = RocksStore(self._folder)
        join = PartitionJoin(store, Fold(0, sums={("m", "1"): Sums(SUMS)}), {"m": SPEC}, LIMITS)
        return Opened(join, store, Claim(0, 1))

    def look(self, _partition: int, _claim: Claim) -> None:
        pass

    def is_anew(self, _fold: Fold) -> bool:
        return False


def read(key: str | None, value: bytes | None, offset: int, partition: int = 0) -> Any:
    return SimpleNamespace(
        tp=TP(SUMS_TOPIC, partition),
        topic=SUMS_TOPIC,
        partition=partition,
        offset=offset,
        key=None if key is None else key.encode(),
        value=value,
        headers=[],
    )


def told(sums: Sums | dict[str, int], version: str = "1", model: str = "m", **fields: Any) -> PerformanceSums:
    fields = {"window": 9, "partition": 0, "epoch": 1, "progress": 1} | fields
    return PerformanceSums(model=model, version=version, sums=sums, **fields)


def messages(*all_told: PerformanceSums) -> list[Any]:
    keys = [f"{one.model}/{one.version}/{one.window}/{one.partition}" for one in all_told]
    values = [one.model_dump_json().encode() for one in all_told]
    return [read(key, value, offset) for offset, (key, value) in enumerate(zip(keys, values, strict=True))]


class Board:
    """The second stage, with what it shows and sends."""

    def __init__(self, *specs: ModelSpec, now: float = 1e9, **settings: Any) -> None:
        self.metrics = ConfusionMetrics(CollectorRegistry())
        self.stage = BoardStage(
            {spec.name: spec for spec in specs}, self.metrics, ConfusionSettings(**settings), lambda: now
        )
        self.sent: list[Outgoing] = []
        self.records: list[Record] = []
        sink = SimpleNamespace(write=self._write)
        letters = DeadLetters(self, self.metrics, "confusion")  # type: ignore[arg-type]
        self.stage.connect(self, letters, sink)  # type: ignore[arg-type]

    async def publish(self, sent: list[Outgoing]) -> None:
        self.sent += sent

    async def _write(self, records: list[Record]) -> None:
        self.records += records

    def take(self, messages: list[Any], generation: int = 1) -> list[PerformanceReport]:
        """What a tick reports after these messages."""
        self.stage.compute(Batch(messages, generation))
        reports = self.stage.reports(generation, {})
        asyncio.run(self.stage.publish(reports))
        return reports

    def shown(self, name: str, window: str, model: str = "m", **labels: str) -> float | None:
        all_labels = {"model": model, "version": "1", "window": window, **labels}
        return self.metrics.registry.get_sample_value(f"modelwatch_{name}", all_labels)

    def left_out(self, reason: str) -> float | None:
        return self.metrics.registry.get_sample_value("modelwatch_sums_left_out_total", {"reason": reason})

    def series(self) -> int:
        return sum(len(gauge.collect()[0].samples) for gauge in self.metrics.performance.values())


def test_the_sums_of_a_billion_pairs_reach_the_board_to_the_last_unit(tmp_path: Path) -> None:
    joins = JoinStage({"m": SPEC}, ConfusionMetrics(CollectorRegistry()), Loader(tmp_path), LIMITS)
    nowhere: Any = None
    joins.connect(nowhere, nowhere, nowhere, nowhere, lambda: 1)
    [message] = joins.upkeep(1, {0: True}, 0.0).sums
    board = Board(SPEC)
    assert board.take([read(str(message.key), message.value, 0)]) == []
    assert board.stage._board.sums(("m", "1"), LIFETIME) == SUMS
    assert board.shown("accuracy", "lifetime") == 1.0
    assert board.shown("labelled", "lifetime") == BILLION


def test_gauges_of_a_regression_model_are_of_its_errors() -> None:
    spec = SPEC.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
    spec = spec.model_copy(update={"breakdown": BreakdownSpec(attribute="site", values=("north",))})
    sums = {"pairs": 4, "labelled": 2, "absolute": 7 * SCALE, "squared": 25 * SCALE * SCALE}
    sums |= {f"value:{name}:north": number for name, number in sums.items()}
    board = Board(spec)
    [report] = board.take(messages(*(told(sums, model="n", window=window) for window in (9, LIFETIME))))
    assert (report.rmse, report.mae, report.label_coverage) == (12.5**0.5, 3.5, 0.5)
    assert (report.confusion, report.accuracy, report.estimated_accuracy, report.by_class) == ((), None, None, {})
    assert report.by_value["north"].rmse == 12.5**0.5 and report.by_value["north"].correct is None
    record: Any = report_record(report).document
    assert record["rmse"] == 12.5**0.5 and record["by_value"][0]["mae"] == 3.5
    for window in ("rolling", "lifetime"):
        assert board.shown("rmse", window, "n") == 12.5**0.5
        assert board.shown("mae", window, "n") == 3.5
        assert board.shown("value_rmse", window, "n", value="north") == 12.5**0.5
        assert board.shown("accuracy", window, "n") is None
    assert board.shown("label_coverage", "latest", "n") == 0.5
    assert board.shown("estimated_accuracy", "latest", "n") is None


PRESENT = {"pairs": 1, "labelled": 1, "confidence": SCALE, "cell:1:1": 1}
OTHERS = [
    {"pairs": 4, "labelled": 2, "absolute": SCALE, "squared": SCALE * SCALE},
    {"pairs": 4, "labelled": 2, "confidence": 3 * SCALE, "cell:2:1": 2},
    {"pairs": 4, "labelled": 2, "estimate:1:confidence": 3 * SCALE, "hit:2": 1, "missed:0": 1, "false:2": 1},
]


@pytest.mark.parametrize("sums", OTHERS)
def test_of_a_version_that_had_other_classes_nothing_is_said(sums: dict[str, int]) -> None:
    board = Board(SPEC)
    all_told = [
        told(own, version, window=window) for version, own in (("0", sums), ("1", PRESENT)) for window in (9, LIFETIME)
    ]
    assert [report.model_version for report in board.take(messages(*all_told))] == ["1"]
    shown = {sample.labels["version"] for sample in board.metrics.performance["labelled"].collect()[0].samples}
    assert shown == {"1"} and board.left_out("other_classes") == 2


def test_a_version_whose_classes_become_fewer_loses_its_gauges_and_ends_nothing() -> None:
    board = Board(SPEC)
    board.take(messages(told(PRESENT), told(PRESENT, window=LIFETIME)))
    assert board.shown("accuracy", "lifetime") == board.shown("accuracy", "rolling") == 1.0
    assert board.take(messages(told(OTHERS[1]), told(OTHERS[1], window=LIFETIME))) == []
    assert board.series() == 0


def test_a_model_that_was_removed_is_counted_and_nothing_is_said_of_it() -> None:
    board = Board(SPEC)
    all_told = [told(PRESENT, model=model, window=window) for model in ("m", "gone") for window in (9, LIFETIME)]
    gone = read("gone/1/9/0", None, 4)
    assert {report.model for report in board.take([*messages(*all_told), gone])} == {"m"}
    assert board.left_out("unknown_model") == 3
    shown = {sample.labels["model"] for sample in board.metrics.performance["labelled"].collect()[0].samples}
    assert shown == {"m"}


def test_one_window_of_the_far_future_blinds_nothing() -> None:
    now, seconds = 1e9, 30
    number = int(now / seconds)
    far = int(datetime(2099, 1, 1, tzinfo=timezone.utc).timestamp() / seconds)
    board = Board(SPEC, now=now)
    all_told = [told(PRESENT, window=window) for window in (number - 1, number, far)]
    reports = board.take(messages(*all_told))
    assert {report.begin.timestamp() // seconds for report in reports if report.begin} == {number - 1, number}
    assert board.shown("labelled", "rolling") == 2
    assert board.left_out("in_future") == 1


def test_what_is_republished_as_it_was_makes_no_report_and_keeps_the_gauges() -> None:
    board = Board(SPEC)
    all_told = messages(*(told(PRESENT, window=window) for window in (*range(100), LIFETIME)))
    assert len(board.take(all_told)) == 100
    before = board.series()
    assert board.take(all_told) == [] and board.series() == before > 0


def test_a_partition_that_is_lost_takes_its_gauges_along_and_one_that_comes_brings_them() -> None:
    board = Board(SPEC)
    all_told = messages(told(PRESENT), told(PRESENT, window=LIFETIME))
    board.take(all_told)
    assert board.series() > 0
    board.stage.reports(2, {})
    assert board.series() == 0
    board.take(all_told, generation=3)
    assert board.shown("accuracy", "rolling") == board.shown("accuracy", "lifetime") == 1.0


def test_gauges_of_more_versions_than_are_kept_go() -> None:
    board = Board(SPEC)
    all_told = [told(PRESENT, str(number), window=number + 9) for number in range(KEPT_VERSIONS + 3)]
    board.take(messages(*all_told))
    shown = {sample.labels["version"] for sample in board.metrics.performance["labelled"].collect()[0].samples}
    assert shown == {"1"} | {str(number) for number in range(4, KEPT_VERSIONS + 3)}
    assert board.left_out("old_version") == 3


GOOD = told(PRESENT).model_dump_json().encode()
POISON: list[tuple[str | None, bytes | None]] = [
    (None, None),
    (None, GOOD),
    ("", GOOD),
    ("m", GOOD),
    ("m/1/9", GOOD),
    ("m/1/nine/0", GOOD),
    ("m/1/-7/0", GOOD),
    ("m/1/9/-1", GOOD),
    ("m/1/１/0", GOOD),
    ("/1/9/0", GOOD),
    ("m/1/9/0", b""),
    ("m/1/9/0", b"\xff\x00"),
    ("m/1/9/0", b"[" * 100_000),
    ("m/1/9/0", b"{}"),
    ("m/1/9/1", GOOD),
    ("m/1/8/0", GOOD),
    ("a/m/1/9/0", GOOD),
    *(
        ("m/1/9/0", told(sums).model_dump_json().encode())
        for sums in (
            {"pairs": -1},
            {"pairs": 1, "labelled": 2},
            {"pairs": 10**400},
            {"pairs": 1, "labelled": 1, "cell:0:0": 2},
            {"pairs": 1, "labelled": 1, "missed:0": 1},
            {"pairs": 1, "labelled": 1, "cell:99999:0": 1},
            {"pairs": 2**62, "labelled": 2**62, "cell:0:0": 2**62},
        )
    ),
]


@pytest.mark.parametrize(("key", "value"), POISON)
def test_poison_becomes_a_letter_and_is_taken_from_the_topic(key: str | None, value: bytes | None) -> None:
    board = Board(SPEC)
    [report] = board.take([*messages(told(PRESENT, window=7)), read(key, value, 1)])
    assert report.accuracy == 1.0 and board.left_out("unreadable") == 1
    letters = [one for one in board.sent if one.topic == DEAD_LETTERS.name]
    assert len(letters) == 1 and letters[0].value == value
    removed = [one.key for one in board.sent if one.topic == SUMS_TOPIC]
    assert removed == ([key.encode()] if key else [])


def test_sums_on_a_partition_that_is_not_their_models_are_poison() -> None:
    board = Board(SPEC)
    board.stage.partitions = 6
    at = partition_of("m", 6)
    wrong = read("m/1/9/0", GOOD, 0, (at + 1) % 6)
    board.stage.compute(Batch([read("m/1/9/0", GOOD, 0, at), wrong], 1))
    board.stage.reports(1, {})
    asyncio.run(board.stage.publish([]))
    assert board.left_out("unreadable") == 1
    assert [one.partition for one in board.sent if one.topic == SUMS_TOPIC] == [wrong.partition]
    board.stage.compute(Batch([read("m/1/9/0", None, 1, wrong.partition)], 1))
    board.stage.reports(1, {})
    asyncio.run(board.stage.publish([]))
    assert board.left_out("unreadable") == 1, "it is gone, and no letter again"


def test_poison_that_was_taken_from_the_topic_is_no_letter_again() -> None:
    board = Board(SPEC)
    poison = [read("m/1/9/0", b"{", 0), read("junk", b"{", 1)]
    board.take(poison)
    assert board.left_out("unreadable") == 2
    removed = [read(str(one.key.decode()), None, 2 + n) for n, one in enumerate(poison)]
    board.take(removed)
    board.take([*poison, *removed], generation=2)
    assert board.left_out("unreadable") == 2


def test_poison_is_no_letter_before_all_of_the_topic_is_read() -> None:
    board = Board(SPEC)
    board.stage.compute(Batch([read("junk", b"{", 0)], 1))
    assert board.stage.reports(1, {TP(SUMS_TOPIC, 0): 2}) == []
    asyncio.run(board.stage.publish([]))
    assert board.sent == []
    board.take([read("junk", None, 1)])
    assert board.sent == [] and not board.left_out("unreadable")


def test_poison_that_waits_for_its_letters_is_bounded_in_bytes() -> None:
    board = Board(SPEC)
    value = b"{" * PERFORMANCE_SUMS.max_message_bytes
    for number in range(40):
        board.stage.compute(Batch([read(f"junk-{number}", value, number)], 1))
    board.take([])
    letters = [one for one in board.sent if one.topic == DEAD_LETTERS.name]
    assert sum(len(one.value or b"") for one in letters) <= MAX_UNREADABLE_BYTES
    assert 0 < len(letters) < 40 and board.left_out("unreadable") == 40


NAMES = st.sampled_from(["pairs", "labelled", "cell:0:1", "hit:1", "missed:0", "false:1", "mistake:0:1", "brier", "x"])
NAMES |= st.sampled_from(["log_loss", "absolute", "squared", "bin:3:confidence", "estimate:1:pairs", "value:pairs:a"])
NAMES |= st.sampled_from(["estimate:1:confidence", "confidence", "bin:99:count", "value:squared:a", "value:correct:a"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([LIFETIME, 0, 9, 33333333, 10**11]),
            st.dictionaries(NAMES | st.text(max_size=9), st.integers() | st.integers(0, 3), max_size=12),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_sums_at_all_end_the_board(hostile: list[tuple[int, dict[str, int]]]) -> None:
    for spec in (SPEC, SPEC.model_copy(update={"task": "regression", "labels": ("people",)})):
        for report in Board(spec).take(messages(*(told(sums, window=window) for window, sums in hostile))):
            assert report.labelled <= report.size


def test_a_fold_of_a_billion_pairs_is_read_back_to_the_last_unit() -> None:
    assert decode_fold(encode_fold(Fold(0, sums={("m", "1"): SUMS}))).sums == {("m", "1"): SUMS}


def test_feedback_that_is_read_ahead_of_its_pair_waits_for_the_log_and_not_for_the_clock(tmp_path: Path) -> None:
    metrics = ConfusionMetrics(CollectorRegistry())
    joins = JoinStage({"m": SPEC}, metrics, Loader(tmp_path), LIMITS)
    came, now = 1.7e9, 1.7e9 + 86_400
    fields = {"key": b"id", "headers": (), "partition": 0, "offset": 0, "timestamp": came}
    truth = {"request_id": "id", "truth_index": 1, "given_at": "2023-11-14T00:00:00Z"}
    told = SimpleNamespace(topic="inference.feedback", value=orjson.dumps(truth), **fields)
    joins.compute(Batch([told], 1))
    assert joins.upkeep(1, {0: False}, now).waiting == {}
    unreadable = SimpleNamespace(topic="inference.pairs", value=b"", **{**fields, "timestamp": came + 5, "offset": 7})
    joins.compute(Batch([unreadable], 1))
    behind = joins.upkeep(1, {0: False}, now)
    assert list(behind.waiting) == [0] and behind.progress == {0: came + 5}
    found, dropped = joins.settle({}, behind)
    assert found.refused == [] and dropped == [], "it waits until its pair could have been read"
    found, [tombstone] = joins.settle({}, joins.upkeep(1, {0: True}, now))
    [(letter, refusal)] = found.refused
    assert letter.value == orjson.dumps(truth) and refusal.reason is Reason.ORPHAN and "id-0, id-1" in refusal.detail
    assert (tombstone.key, tombstone.value) == ("id", None)


def test_records_that_a_former_owner_may_have_written_over_are_written_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "FIRST_REPUBLISH_SECONDS", -1)
    joins = JoinStage({"m": SPEC}, ConfusionMetrics(CollectorRegistry()), Loader(tmp_path), LIMITS, "m")
    fields = {"key": b"id", "headers": (), "partition": 0, "offset": 0, "timestamp": 1.7e9}
    answer = {"request_id": "id", "truth_index": 1, "given_at": "2023-11-14T00:00:00Z", "model": "m"}
    told = SimpleNamespace(topic="inference.feedback", value=orjson.dumps({**answer, "response": [0.9, 0.1]}), **fields)
    joins.compute(Batch([told], 1))
    [record] = joins.upkeep(1, {0: True}, 0.0).records
    assert (record.id, record.kind) == ("id", "inferences")
    assert joins.upkeep(1, {0: True}, 0.0).records == []


def test_the_record_of_an_answer_that_is_not_counted_says_so_before_its_message_is_acknowledged(tmp_path: Path) -> None:
    joins = JoinStage({"m": SPEC}, ConfusionMetrics(CollectorRegistry()), Loader(tmp_path), LIMITS)
    written: list[Record] = []

    async def write(records: list[Record]) -> None:
        written.extend(records)

    async def nothing(_: Any) -> None:
        pass

    async def in_thread(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    results: Any = SimpleNamespace(publish=nothing, send=nothing)
    joins.connect(results, results, SimpleNamespace(write=write), in_thread, lambda: 1)  # type: ignore[arg-type]
    writer = PairWriter("gone", "7", "0" * 64, ("a", "b"), "cpu", primary=False)
    probabilities = np.array([[0.25, 0.75]], np.float32)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    [value] = writer.encode(["id"], images, [{}], [1.6e9], [None], probabilities, [0.0], [0.0], 0.0, 1, 1.6e9)
    fields = {"key": b"id", "headers": (), "partition": 0, "offset": 0, "timestamp": 1.6e9}
    pair = SimpleNamespace(topic="inference.pairs", value=value, **fields)
    asyncio.run(joins.deliver(joins.compute(Batch([pair], 1))))
    [record] = written
    assert (record.id, record.index) == ("id@gone:7", "modelwatch-inferences-2020.09.13")
    uncounted = {"reason": "unknown_model", "answered_at": "2020-09-13T12:26:40+00:00"}
    assert record.document == {"uncounted": uncounted}
