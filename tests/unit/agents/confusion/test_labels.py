"""A new version with other labels: the answers of the one before are neither judged nor shown by the new ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from agents.confusion.entries import Entry, PairHalf, Truth, decode
from agents.confusion.fold import Fold, latest
from agents.confusion.inputs import InputReader, Inputs
from agents.confusion.join_stage import JoinStage
from agents.confusion.late import late_part
from agents.confusion.ownership import Claim
from agents.confusion.partition import LATE_WINDOW, Limits, PartitionJoin
from agents.confusion.records import truth_record
from agents.confusion.recovery import Opened
from agents.confusion.store import MemoryStore, RocksStore
from agents.confusion.sums import SCALE, Sums
from agents.confusion.told_sums import LIFETIME, partition_of, read_sums
from agents.outliers.records import document_of
from agents.pairs import ReadPair
from runtime.batches import Batch
from runtime.metrics import ConfusionMetrics
from schemas.identity import labels_id
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter, read_pair
from schemas.refusal import Reason
from tests.unit.agents.confusion.test_stages import Board, messages, read, told

NOW = 1.7e9
LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=1000, lookup_seconds=1, orphan_seconds=9)
OLD = ModelSpec.model_validate(
    {
        "name": "m",
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("cat", "dog", "ship"),
        "weights": {"framework": "null"},
    }
)
REORDERED = OLD.model_copy(update={"version": "2", "labels": ("ship", "dog", "cat")})
FEWER = OLD.model_copy(update={"version": "2", "labels": ("dog", "cat")})
SAME = OLD.model_copy(update={"version": "2"})
NEW = pytest.mark.parametrize("new", [REORDERED, FEWER], ids=["reordered", "fewer"])


def pair_message(spec: ModelSpec = OLD, name: str = "id", offset: int = 0, without_id: bool = False) -> Any:
    """An answer whose most probable class is the first one."""
    writer = PairWriter(spec.name, spec.version, "0" * 64, spec.labels, "cpu")
    outputs = np.array([np.linspace(0.9, 0.05, len(spec.labels))], np.float32)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    [value] = writer.encode([name], images, [{}], [NOW], [None], outputs, [0.0], [0.0], 0.0, 1, NOW)
    if without_id:
        document = orjson.loads(value)
        del document["response"]["labels_id"]
        value = orjson.dumps(document)
    return _message("inference.pairs", name, value, offset)


def truth_message(name: str = "id", offset: int = 0, **form: Any) -> Any:
    truth = {"request_id": name, "given_at": f"2023-11-14T22:00:{offset:02}Z", **form}
    return _message("inference.feedback", name, orjson.dumps(truth), offset)


def _message(topic: str, name: str, value: bytes, offset: int) -> Any:
    fields = {"partition": 0, "timestamp": NOW, "headers": ()}
    return SimpleNamespace(topic=topic, key=name.encode(), value=value, offset=offset, **fields)


def take(join: PartitionJoin, spec: ModelSpec, *sent: Any) -> tuple[list[Reason], Inputs]:
    """What a partition's owner does with messages: the reasons for which it refuses something, and what it read."""
    inputs = InputReader({"m": spec}, 30, 1, default_model="m").read(sent, NOW, join.unlabelled())
    refused = [why for _, why in inputs.refused]
    refused += [why for one in join.apply(inputs.parts) for _, why in one.refused]
    assert all("truth_index" in why.detail for why in refused if why.reason is Reason.INVALID_FIELD)
    return [why.reason for why in refused], inputs


def counted(old: ModelSpec = OLD, **truth: Any) -> tuple[MemoryStore, Sums]:
    """A store whose model has answered class 0 (cat), and, once the truth is told, was right; and its sums."""
    store = MemoryStore()
    join = PartitionJoin(store, latest([], 0), {"m": old}, LIMITS)
    assert take(join, old, pair_message(old), *([truth_message(**truth)] if truth else []))[0] == []
    return store, Sums(join.totals["m", "1"])


@NEW
@pytest.mark.parametrize("form", [{"truth_label": "cat"}, {"truth": "cat"}, {"truth_label": "ship"}, {"truth": 0}])
def test_a_truth_by_label_about_an_answer_by_other_labels_is_refused_and_changes_no_count(
    new: ModelSpec, form: dict[str, Any]
) -> None:
    store, before = counted(truth_index=0)
    join = PartitionJoin(store, latest([], 0), {"m": new}, LIMITS)
    assert take(join, new, truth_message(offset=1, **form))[0] == [Reason.INVALID_FIELD]
    assert join.totals["m", "1"] == before and before["cell:0:0"] == 1


@NEW
@pytest.mark.parametrize(("form", "truth"), [({"truth_index": 2}, 2), ({"truth_one_hot": [0, 0, 1]}, 2)])
def test_a_truth_that_needs_no_label_is_about_the_labels_of_the_answer(
    new: ModelSpec, form: dict[str, Any], truth: int
) -> None:
    store, _ = counted(truth_index=0)
    join = PartitionJoin(store, latest([], 0), {"m": new}, LIMITS)
    assert take(join, new, truth_message(offset=1, **form))[0] == []
    assert join.totals["m", "1"][f"cell:{truth}:0"] == 1
    [half] = join.entry("id").pairs
    document: Any = truth_record(0, "id", half, {"m": new}).document
    assert {name: document["feedback"].get(name) for name in ("truth", "label", "correct")} == {
        "truth": 2,
        "label": None,
        "correct": False,
    }


@NEW
def test_a_truth_by_label_is_about_the_answer_of_the_version_that_has_the_label(new: ModelSpec) -> None:
    store, before = counted()
    join = PartitionJoin(store, latest([], 0), {"m": new}, LIMITS)
    refused, _ = take(join, new, pair_message(new, offset=1), truth_message(offset=1, truth_label="cat"))
    assert refused == []
    assert {half.version: half.truth for half in join.entry("id").pairs} == {"1": None, "2": new.labels.index("cat")}
    assert join.totals["m", "1"] == before


def test_a_new_version_with_the_same_labels_takes_truths_by_label_about_the_one_before() -> None:
    store, _ = counted(truth_index=0)
    join = PartitionJoin(store, latest([], 0), {"m": SAME}, LIMITS)
    assert take(join, SAME, truth_message(offset=1, truth_label="ship"))[0] == []
    assert join.totals["m", "1"]["cell:2:0"] == 1


def test_pairs_and_entries_of_earlier_versions_say_no_labels_and_are_judged_by_those_that_are_here() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": REORDERED}, LIMITS)
    assert take(join, REORDERED, pair_message(without_id=True), truth_message(truth_label="cat"))[0] == []
    [half] = join.entry("id").pairs
    assert (half.labels, half.truth) == (None, 2)
    assert not any(name.startswith("labels:") for name in join.totals["m", "1"]) and join.unlabelled() == set()
    document = orjson.loads(orjson.dumps(join.entry("id")))
    del document["pairs"][0]["labels"]
    assert decode(orjson.dumps(document)) == join.entry("id")


@NEW
def test_late_feedback_is_about_the_labels_in_the_record(new: ModelSpec) -> None:
    store, before = counted(truth_index=0)
    join = PartitionJoin(store, latest([], 0), {"m": new}, LIMITS)
    [(_, folded)] = join.expire(NOW * 2)
    sent = pair_message()
    record = document_of(ReadPair(read_pair(sent.value), sent), None)
    record |= truth_record(0, "id", folded, {"m": new}).document  # type: ignore[arg-type]
    assert record["response"]["labels_id"] == labels_id(OLD.labels) and "label" not in record["feedback"]
    for offset, (form, reason) in enumerate((("cat", Reason.INVALID_FIELD), (2, None)), 1):
        waiting = Entry((), (Truth(NOW + offset, offset, 0, form),), NOW, NOW)
        part = late_part(record, waiting, {"m": new})
        assert part is not None and part.pairs[0].labels == labels_id(OLD.labels)
        [applied] = join.apply([("id", part), ("id", waiting)])[1:]
        assert [why.reason for _, why in applied.refused] == [reason] * (reason is not None)
        expected = before["cell:0:0"] if reason else 0
        assert join.totals["m", "1"]["cell:0:0"] == expected
    assert join.totals["m", "1"]["cell:2:0"] == 1
    assert join.totals["m", "1"][f"labels:{labels_id(OLD.labels)}"] == 1
    assert f"labels:{labels_id(OLD.labels)}" not in join.windows["m", "1", LATE_WINDOW]


def test_self_contained_feedback_is_answered_by_the_labels_that_are_here() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": OLD}, LIMITS)
    take(join, OLD, truth_message(model="m", response=[0.9, 0.1, 0.0], truth_label="cat"))
    assert [half.labels for half in join.entry("id").pairs] == [labels_id(OLD.labels)]


@NEW
def test_which_labels_were_used_outlives_the_state_in_folds_and_sums(new: ModelSpec) -> None:
    store, before = counted(truth_index=0)
    assert before[f"labels:{labels_id(OLD.labels)}"] == 1
    join = PartitionJoin(store, latest([], 0), {"m": OLD}, LIMITS)
    join.expire(NOW * 2)
    later = PartitionJoin(MemoryStore(), join.fold, {"m": new}, LIMITS)
    assert later.totals["m", "1"] == before and later.unlabelled() == {"m"}
    [message] = messages(told(before, window=LIFETIME))
    message.partition = partition_of("m", 1)
    found = read_sums(message, 1)
    assert found is not None and found.sums == before


class Loader:
    """A partition whose last owner has counted these sums."""

    def __init__(self, folder: Path, spec: ModelSpec, sums: Sums) -> None:
        self._folder, self._spec, self._sums = folder, spec, sums

    def open(self, _partition: int) -> Opened:
        store = RocksStore(self._folder)
        join = PartitionJoin(store, Fold(0, sums={("m", "1"): Sums(self._sums)}), {"m": self._spec}, LIMITS)
        return Opened(join, store, Claim(0, 1))

    def look(self, _partition: int, _claim: Claim) -> None:
        pass

    def is_anew(self, _fold: Fold) -> bool:
        return False


@pytest.mark.parametrize(
    ("new", "is_shown"), [(REORDERED, False), (FEWER, False), (SAME, True)], ids=["reordered", "fewer", "same"]
)
def test_figures_of_a_version_with_other_labels_are_not_shown_from_the_pairs_to_the_gauges(
    tmp_path: Path, new: ModelSpec, is_shown: bool
) -> None:
    joins = JoinStage({"m": new}, ConfusionMetrics(CollectorRegistry()), Loader(tmp_path, new, Sums()), LIMITS, "m")
    nowhere: Any = None
    joins.connect(nowhere, nowhere, nowhere, nowhere, lambda: 1)
    # Two classes are what a spec of two takes: pairs of three are of another version, and not counted.
    sent = pair_message() if len(new.labels) == len(OLD.labels) else pair_message(_two("ship", "car"))
    joins.compute(Batch([sent, truth_message(truth_index=0)], 1))
    sums = joins.upkeep(1, {0: True}, NOW).sums
    board = Board(new, now=NOW + 60, performance_window_seconds=10)
    reports = board.take([read(str(one.key), one.value, offset) for offset, one in enumerate(sums)])
    assert [report.accuracy for report in reports] == [1.0] * is_shown
    for window in ("rolling", "lifetime"):
        assert board.shown("accuracy", window) == (1.0 if is_shown else None)
        assert board.shown("recall", window, label="cat") == (1.0 if is_shown else None)
    assert bool(board.series()) == is_shown
    assert bool(board.left_out("other_classes")) != is_shown


def _two(*labels: str) -> ModelSpec:
    return OLD.model_copy(update={"labels": labels})


def test_gauges_of_a_version_that_is_answered_by_other_labels_as_well_go() -> None:
    board = Board(OLD)
    own = {"pairs": 1, "labelled": 1, "estimate:1:pairs": 1, "estimate:1:confidence": SCALE, "cell:1:1": 1}
    own |= {f"labels:{labels_id(OLD.labels)}": 1}
    board.take(messages(told(own), told(own, window=LIFETIME)))
    assert board.shown("accuracy", "lifetime") == board.shown("accuracy", "rolling") == 1.0
    both = {name: 2 * count for name, count in own.items()}
    both |= {f"labels:{labels_id(OLD.labels)}": 1, f"labels:{labels_id(REORDERED.labels)}": 1}
    assert board.take(messages(told(both), told(both, window=LIFETIME))) == []
    assert board.series() == 0


def test_the_id_is_of_the_labels_in_their_order_and_never_changes() -> None:
    assert labels_id(("cat", "dog", "ship")) == "1cc6fcb018d9df57"
    ids = {
        labels_id(labels)
        for labels in (OLD.labels, REORDERED.labels, FEWER.labels, ("cat,dog", "ship"), ("Katze", "Köter"))
    }
    assert len(ids) == 5 and all(len(one) == 16 for one in ids)


def test_a_half_knows_whether_a_spec_has_its_labels() -> None:
    half = PairHalf(0, 0, "m", "1", NOW, NOW, 0, "AAAAAA==")
    assert half.has_labels_of(OLD) and half.has_labels_of(REORDERED)


LARGER = FEWER.model_copy(update={"input": FEWER.input.model_copy(update={"shape": (4, 4, 3)})})


@pytest.mark.parametrize("new", [FEWER, LARGER], ids=["fewer", "larger"])
def test_answers_of_the_version_before_are_counted_while_the_worker_still_gives_them(new: ModelSpec) -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": new}, LIMITS)
    refused, inputs = take(join, new, pair_message(OLD), truth_message(offset=1, truth_index=0))
    assert (refused, inputs.unwatched, inputs.uncounted) == ([], {}, [])
    assert (join.totals["m", "1"]["pairs"], join.totals["m", "1"]["cell:0:0"]) == (1, 1)


def test_an_answer_that_does_not_say_its_labels_and_has_others_in_number_is_not_counted() -> None:
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": FEWER}, LIMITS)
    _, inputs = take(join, FEWER, pair_message(OLD, without_id=True))
    assert (inputs.parts, inputs.unwatched, len(inputs.uncounted)) == ([], {"other_version": 1}, 1)


@pytest.mark.parametrize(
    "wrong", [{"probabilities": [0.5, 7.0, 0.1]}, {"probabilities": [-1.0, 0.5, 0.1]}, {"predicted": 3}]
)
def test_an_answer_of_another_version_that_is_none_by_itself_is_not_counted(wrong: dict[str, Any]) -> None:
    message = pair_message(OLD)
    document = orjson.loads(message.value)
    document["response"] |= wrong
    message.value = orjson.dumps(document)
    join = PartitionJoin(MemoryStore(), latest([], 0), {"m": FEWER}, LIMITS)
    _, inputs = take(join, FEWER, message)
    assert inputs.parts == []
