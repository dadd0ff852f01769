"""From the join's sums to the board's, as messages; no number is too large for them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from agents.confusion import joined
from agents.confusion.board import LIFETIME
from agents.confusion.board_stage import BoardStage
from agents.confusion.fold import Fold, decode_fold, encode_fold
from agents.confusion.gauges import PerformanceGauges
from agents.confusion.join_stage import JoinStage
from agents.confusion.ownership import Claim
from agents.confusion.partition import Limits, PartitionJoin
from agents.confusion.records import report_record
from agents.confusion.recovery import Opened
from agents.confusion.settings import ConfusionSettings
from agents.confusion.store import RocksStore
from agents.confusion.sums import SCALE, Sums
from runtime.batches import Batch
from runtime.metrics import ConfusionMetrics
from schemas.messages import PerformanceSums
from schemas.model_spec import BreakdownSpec, ModelSpec
from schemas.refusal import Reason

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


def test_the_sums_of_a_billion_pairs_reach_the_board_to_the_last_unit(tmp_path: Path) -> None:
    metrics = ConfusionMetrics(CollectorRegistry())
    joins = JoinStage({"m": SPEC}, metrics, Loader(tmp_path), LIMITS)
    [message] = joins.upkeep(1, {0: True}, 0.0).sums
    board = BoardStage({"m": SPEC}, PerformanceGauges(metrics), ConfusionSettings())
    tp = TP("monitoring.performance-sums", 0)
    read = SimpleNamespace(tp=tp, offset=0, key=str(message.key).encode(), value=message.value)
    board.compute(Batch([read], 1))
    assert board._board.sums(("m", "1"), LIFETIME) == SUMS
    assert board.reports(1, {tp: 1}) == []
    shown = metrics.registry.get_sample_value
    labels = {"model": "m", "version": "1", "window": "lifetime"}
    assert shown("modelwatch_accuracy", labels) == 1.0
    assert shown("modelwatch_labelled", labels) == BILLION


def test_gauges_of_a_regression_model_are_of_its_errors() -> None:
    spec = SPEC.model_copy(update={"name": "n", "task": "regression", "labels": ("people",)})
    spec = spec.model_copy(update={"breakdown": BreakdownSpec(attribute="site", values=("north",))})
    sums = {"pairs": 4, "labelled": 2, "absolute": 7 * SCALE, "squared": 25 * SCALE * SCALE}
    by_value = {f"value:{name}:north": number for name, number in sums.items()}
    metrics = ConfusionMetrics(CollectorRegistry())
    stage = BoardStage({"n": spec}, PerformanceGauges(metrics), ConfusionSettings())
    tp = TP("monitoring.performance-sums", 0)
    told = PerformanceSums(
        model="n", version="1", window=9, partition=0, epoch=1, progress=1, sums={**sums, **by_value}
    )
    read = [
        SimpleNamespace(tp=tp, offset=place, key=f"n/1/{window}/0".encode(), value=told.model_dump_json().encode())
        for place, window in enumerate((9, LIFETIME))
    ]
    stage.compute(Batch(read, 1))
    [report] = stage.reports(1, {tp: 2})
    assert (report.rmse, report.mae, report.label_coverage) == (12.5**0.5, 3.5, 0.5)
    assert (report.confusion, report.accuracy, report.estimated_accuracy, report.by_class) == ((), None, None, {})
    assert report.by_value["north"].rmse == 12.5**0.5 and report.by_value["north"].correct is None
    record: Any = report_record(report).document
    assert record["rmse"] == 12.5**0.5 and record["by_value"][0]["mae"] == 3.5
    shown, labels = metrics.registry.get_sample_value, {"model": "n", "version": "1"}
    for window in ("rolling", "lifetime"):
        assert shown("modelwatch_rmse", {**labels, "window": window}) == 12.5**0.5
        assert shown("modelwatch_mae", {**labels, "window": window}) == 3.5
        assert shown("modelwatch_value_rmse", {**labels, "window": window, "value": "north"}) == 12.5**0.5
        assert shown("modelwatch_accuracy", {**labels, "window": window}) is None
    assert shown("modelwatch_label_coverage", {**labels, "window": "latest"}) == 0.5
    assert shown("modelwatch_estimated_accuracy", {**labels, "window": "latest"}) is None


@pytest.mark.parametrize(
    "sums",
    [
        {"pairs": 4, "labelled": 2, "absolute": SCALE, "squared": SCALE * SCALE},
        {"pairs": 4, "labelled": 2, "confidence": 3 * SCALE, "cell:2:1": 2},
    ],
)
def test_of_a_version_that_had_other_classes_nothing_is_said(sums: dict[str, int]) -> None:
    metrics = ConfusionMetrics(CollectorRegistry())
    stage = BoardStage({"m": SPEC}, PerformanceGauges(metrics), ConfusionSettings())
    tp, present = TP("monitoring.performance-sums", 0), {"pairs": 1, "labelled": 1, "confidence": SCALE, "cell:1:1": 1}
    read = []
    for version, own in (("0", sums), ("1", present)):
        for window in (9, LIFETIME):
            told = PerformanceSums(
                model="m", version=version, window=window, partition=0, epoch=1, progress=1, sums=own
            )
            key, value = f"m/{version}/{window}/0".encode(), told.model_dump_json().encode()
            read.append(SimpleNamespace(tp=tp, offset=len(read), key=key, value=value))
    stage.compute(Batch(read, 1))
    assert [report.model_version for report in stage.reports(1, {tp: 4})] == ["1"]
    shown = {sample.labels["version"] for sample in metrics.performance["labelled"].collect()[0].samples}
    assert shown == {"1"}


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
    joins = JoinStage({"m": SPEC}, ConfusionMetrics(CollectorRegistry()), Loader(tmp_path), LIMITS)
    fields = {"key": b"id", "headers": (), "partition": 0, "offset": 0, "timestamp": 1.7e9}
    answer = {"request_id": "id", "truth_index": 1, "given_at": "2023-11-14T00:00:00Z", "model": "m"}
    told = SimpleNamespace(topic="inference.feedback", value=orjson.dumps({**answer, "response": [0.9, 0.1]}), **fields)
    joins.compute(Batch([told], 1))
    [record] = joins.upkeep(1, {0: True}, 0.0).records
    assert (record.id, record.kind) == ("id", "inferences")
    assert joins.upkeep(1, {0: True}, 0.0).records == []
