"""Models of thousands of classes: counts by class are exact, and every message stays small."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faust.types import TP
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from sklearn.metrics import precision_recall_fscore_support

from agents.confusion.board_stage import BoardStage, _message
from agents.confusion.entries import Entry, PairHalf, Truth, answer_of
from agents.confusion.figures import figures
from agents.confusion.fold import Fold, decode_fold, encode_fold
from agents.confusion.join_stage import JoinStage
from agents.confusion.ownership import Claim
from agents.confusion.partition import MAX_FOLD_BYTES, Limits, PartitionJoin
from agents.confusion.records import report_record
from agents.confusion.recovery import Opened
from agents.confusion.settings import ConfusionSettings
from agents.confusion.store import MemoryStore
from agents.confusion.sums import DENSE_CLASSES, MAX_MISTAKES, SCALE, Sums, add, lasting
from agents.confusion.told_sums import LIFETIME
from runtime.batches import Batch
from runtime.metrics import ConfusionMetrics
from schemas.messages import PerformanceReport
from schemas.model_spec import MAX_CLASSES, ModelSpec
from schemas.topics import MIB, PERFORMANCE, PERFORMANCE_SUMS

LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=10_000, lookup_seconds=1, orphan_seconds=9)


def spec_of(classes: int, version: str = "1") -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "version": version,
            "input": {"shape": (2, 2, 3)},
            "labels": tuple(f"class {number}" for number in range(classes)),
            "weights": {"framework": "null"},
        }
    )


class Pipeline:
    """One partition's join, its messages, and the board that reads them."""

    def __init__(self, classes: int, fold: Fold | None = None, **limits: Any) -> None:
        self.spec = spec_of(classes)
        self.metrics = ConfusionMetrics(CollectorRegistry())
        store: Any = MemoryStore()
        store.disk_bytes, store.close = lambda: 0, lambda: None
        self.join = PartitionJoin(store, fold or Fold(0), {"m": self.spec}, LIMITS)
        opened = Opened(self.join, store, Claim(0, 1))
        loader: Any = SimpleNamespace(open=lambda _: opened, look=lambda *_: None, is_anew=lambda _: False)
        self.joins = JoinStage({"m": self.spec}, self.metrics, loader, LIMITS)
        nowhere: Any = None
        self.joins.connect(nowhere, nowhere, nowhere, nowhere, lambda: 1)
        settings = ConfusionSettings(performance_window_seconds=10)
        self.board = BoardStage({"m": self.spec}, self.metrics, settings, lambda: 1e9)
        self.tp = TP(PERFORMANCE_SUMS.name, 0)
        self.offset = 0

    def tick(self, now: float) -> tuple[list[bytes], list[PerformanceReport]]:
        """The folds that are published, and the reports."""
        upkeep = self.joins.upkeep(1, {0: True}, now)
        sizes = [len(one.value or b"") for one in upkeep.sums]
        assert max(sizes, default=0) < PERFORMANCE_SUMS.max_message_bytes
        messages = []
        for one in upkeep.sums:
            message = {"tp": self.tp, "partition": 0, "offset": self.offset, "value": one.value}
            messages.append(SimpleNamespace(key=str(one.key).encode(), **message))
            self.offset += 1
        self.board.compute(Batch(messages, 1))
        reports = self.board.reports(1, {self.tp: self.offset})
        return [one.value for one in upkeep.folds if one.value], reports

    def shown(self, name: str, window: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            f"modelwatch_{name}", {"model": "m", "version": "1", "window": window}
        )

    def series(self) -> int:
        return sum(len(gauge.collect()[0].samples) for gauge in self.metrics.performance.values())


def inputs(spec: ModelSpec, truths: NDArray[Any], predicted: NDArray[Any]) -> list[tuple[str, Entry]]:
    classes, found = len(spec.labels), []
    for number, (truth, answer) in enumerate(zip(truths.tolist(), predicted.tolist(), strict=True)):
        vector = np.full(classes, 0.5 / classes)
        vector[answer] += 0.5
        half = PairHalf(0, number, "m", "1", 100.0 + number % 30, 100.0, *answer_of(vector.tolist(), spec))
        found.append((f"id{number}", Entry((half,), (Truth(1.0, number, 0, truth),))))
    return found


@pytest.mark.parametrize("classes", [1000, MAX_CLASSES])
def test_figures_of_thousands_of_classes_are_exact_and_every_message_fits(classes: int) -> None:
    rng, count = np.random.default_rng(classes), 3000
    truths = rng.integers(0, classes, count)
    predicted = np.where(rng.random(count) < 0.4, truths, rng.integers(0, classes, count))
    pipeline = Pipeline(classes)
    pipeline.join.apply(inputs(pipeline.spec, truths, predicted))
    _, reports = pipeline.tick(100.0)
    assert sum(report.labelled for report in reports) == count
    for report in reports:
        assert len(_message(report).value or b"") < MIB // 2 < PERFORMANCE.max_message_bytes
        wrong = sum(one.count for one in report.mistakes) + report.mistakes_left_out
        assert report.accuracy == (report.labelled - wrong) / report.labelled
        assert report.confusion == () and len(report.mistakes) <= MAX_MISTAKES
        assert len(report.by_class) == DENSE_CLASSES and report.classes_left_out > 0
        document: Any = report_record(report).document
        assert document.get("mistakes_left_out", 0) == report.mistakes_left_out
        assert sum(cell["count"] for cell in document["confusion"]) == wrong - report.mistakes_left_out
    lifetime = figures(pipeline.board._board.sums(("m", "1"), LIFETIME), pipeline.spec.classes)
    assert (lifetime["labelled"], lifetime["mistakes"]) == (count, ())
    assert lifetime["accuracy"] == pytest.approx((truths == predicted).mean(), abs=1e-12)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, predicted, labels=np.union1d(truths, predicted), average=None, zero_division=np.nan
    )
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert getattr(lifetime["macro"], name) == pytest.approx(np.nanmean(values), abs=1e-9)
    assert pipeline.shown("accuracy", "rolling") is not None and pipeline.series() < 100


def test_what_leaves_the_state_of_a_model_of_many_classes_is_in_the_fold_to_the_last_count() -> None:
    rng, count = np.random.default_rng(1), 500
    truths, predicted = (rng.integers(0, 1000, count) for _ in range(2))
    pipeline = Pipeline(1000)
    pipeline.join.apply(inputs(pipeline.spec, truths, predicted))
    before = pipeline.join.totals["m", "1"].copy()
    folds, _ = pipeline.tick(100.0)
    assert folds == []
    [fold], reports = pipeline.tick(200.0)
    assert decode_fold(fold).sums["m", "1"] == pipeline.join.totals["m", "1"] == before
    _, reports = pipeline.tick(200.0)
    assert reports == [] and pipeline.shown("labelled", "lifetime") == count


def test_an_instance_that_lost_its_partitions_shows_no_entries_and_no_figures() -> None:
    pipeline = Pipeline(10)
    pipeline.join.apply(inputs(pipeline.spec, np.zeros(3, int), np.zeros(3, int)))
    pipeline.tick(100.0)
    value = pipeline.metrics.registry.get_sample_value
    assert value("modelwatch_join_entries") == 3 and pipeline.series() > 0
    pipeline.joins.upkeep(2, {}, 100.0)
    pipeline.board.reports(2, {})
    assert value("modelwatch_join_entries") == 0 and pipeline.series() == 0


def sums_of(classes: int, pairs: int, seed: int) -> Sums:
    """Of so many labelled pairs, answered at random."""
    rng = np.random.default_rng(seed)
    truths, predicted = rng.integers(0, classes, pairs), rng.integers(0, classes, pairs)
    right = truths == predicted
    sums = Sums({"pairs": pairs, "labelled": pairs, "log_loss": pairs * SCALE, "brier": pairs * SCALE})
    sums |= Sums({"estimate:1:pairs": pairs, "estimate:1:confidence": pairs * SCALE // 2})
    for name, one in (("hit", truths[right]), ("missed", truths[~right]), ("false", predicted[~right])):
        numbers, counts = np.unique(one, return_counts=True)
        sums |= Sums({f"{name}:{n}": c for n, c in zip(numbers.tolist(), counts.tolist(), strict=True)})
    cells, counts = np.unique(truths[~right] * classes + predicted[~right], return_counts=True)
    names = (f"mistake:{cell // classes}:{cell % classes}" for cell in cells.tolist())
    sums |= Sums(dict(zip(names, counts.tolist(), strict=True)))
    return sums


def test_a_window_of_a_million_pairs_of_five_thousand_classes_fits_into_its_messages() -> None:
    sums = sums_of(MAX_CLASSES, 1_000_000, 0)
    assert len(sums) > 900_000
    pipeline = Pipeline(MAX_CLASSES, Fold(0, sums={("m", "1"): lasting(sums)}))
    key = ("m", "1", 3)
    pipeline.join.windows[key] = sums
    pipeline.join.changed.add(key)
    _, [report] = pipeline.tick(100.0)
    assert len(_message(report).value or b"") < PERFORMANCE.max_message_bytes
    assert len(report.mistakes) == MAX_MISTAKES
    wrong = sum(count for name, count in sums.items() if name.startswith("missed:"))
    assert sum(one.count for one in report.mistakes) + report.mistakes_left_out == wrong
    least = min(one.count for one in report.mistakes)
    assert least >= sorted((n for name, n in sums.items() if name.startswith("mistake:")), reverse=True)[MAX_MISTAKES]
    assert pipeline.shown("labelled", "lifetime") == 1_000_000
    # Three terms a class, and no more for more pairs.
    assert len(encode_fold(pipeline.join.fold)) < MIB // 2


@pytest.mark.parametrize("most", [MAX_FOLD_BYTES, 200_000])
def test_a_fold_keeps_the_versions_that_answered_last_and_stays_small(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.confusion.partition.MAX_FOLD_BYTES", most)
    one = lasting(sums_of(1000, 20_000, 0))
    groups = [(model, str(number)) for model in "mn" for number in range(1, 16)]
    fold = Fold(0, sums={group: Sums(one) for group in groups}, closed={group: int(group[1]) for group in groups})
    pipeline = Pipeline(1000, fold)
    pipeline.join.apply(inputs(pipeline.spec, np.zeros(1, int), np.zeros(1, int)))
    upkeep = pipeline.joins.upkeep(1, {0: True}, 200.0)
    kept = decode_fold(upkeep.folds[0].value or b"").sums
    assert len(upkeep.folds[0].value or b"") <= most
    assert kept.keys() == pipeline.join.totals.keys() and ("m", "1") in kept, "the present version stays"
    if most == MAX_FOLD_BYTES:
        assert kept.keys() - {("m", "1")} == {
            group for group in groups if int(group[1]) > (6 if group[0] == "m" else 5)
        }
    else:
        assert 1 < len(kept) < 20 and min(int(version) for _, version in kept.keys() - {("m", "1")}) > 6
    dropped = pipeline.metrics.registry.get_sample_value("modelwatch_sums_left_out_total", {"reason": "old_version"})
    assert dropped == len(groups) - len(kept)
    gone = {one.key for one in pipeline.joins.upkeep(1, {0: True}, 200.0).sums if one.value is None}
    assert {f"{model}/{version}/{LIFETIME}/0" for model, version in groups} & gone == {
        f"{model}/{version}/{LIFETIME}/0" for model, version in set(groups) - kept.keys()
    }


def test_feedback_about_a_version_whose_sums_were_dropped_changes_nothing() -> None:
    pipeline = Pipeline(10)
    half = PairHalf(1, 5, "m", "0", 100.0, 100.0, *answer_of([0.1] * 10, pipeline.spec), counted=-1)
    [applied] = pipeline.join.apply([("id", Entry((half,), (Truth(1.0, 5, 0, 3),), 1.0, 2.0))])
    assert applied.new.pairs == ()
    assert ("m", "0") not in pipeline.join.totals


def test_a_model_of_few_classes_has_its_whole_matrix_as_before() -> None:
    spec = spec_of(DENSE_CLASSES)
    pipeline = Pipeline(DENSE_CLASSES)
    pipeline.join.apply(inputs(spec, np.array([1, 2, 99]), np.array([1, 3, 0])))
    _, reports = pipeline.tick(100.0)
    total = Sums()
    for report in reports:
        add(total, Sums({f"{t}:{p}": n for t, row in enumerate(report.confusion) for p, n in enumerate(row) if n}))
        assert (report.mistakes, report.mistakes_left_out, report.classes_left_out) == ((), 0, 0)
    assert total == {"1:1": 1, "2:3": 1, "99:0": 1}


def test_a_spec_of_more_classes_than_fit_is_refused_by_number() -> None:
    with pytest.raises(ValidationError, match=r"5001 labels; a model has at most 5000 classes"):
        spec_of(MAX_CLASSES + 1)
