"""Entries as the store and the log hold them; those of the first version are still read, and mean the same."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from agents.confusion.entries import EMPTY, Entry, PairHalf, Truth, decode, encode
from agents.confusion.fold import Fold, bring_back, decode_fold, encode_fold
from agents.confusion.partition import Limits, PartitionJoin
from agents.confusion.recovery import read_entry
from agents.confusion.store import MemoryStore
from schemas.messages import JoinEntry
from schemas.model_spec import ModelSpec

GOLDEN = Path(__file__).resolve().parents[3] / "golden"
LIMITS = Limits(window_seconds=30, keep_seconds=86_400, max_entries=1000, lookup_seconds=30, orphan_seconds=600)
GROUP = ("cifar10-resnet32", "1")
SPEC = ModelSpec.model_validate(
    {
        "name": GROUP[0],
        "version": "1",
        "input": {"shape": (2, 2, 3)},
        "labels": ("a", "b"),
        "weights": {"framework": "null"},
    }
)
ENTRIES = sorted(path for path in GOLDEN.glob("v*/JoinEntry*.json") if "claim" not in path.stem)


def golden(version: int, name: str = "JoinEntry") -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((GOLDEN / f"v{version}" / f"{name}.json").read_bytes())
    return found


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_entry_of_every_version_is_read_from_the_log_and_written_again(path: Path) -> None:
    request_id, entry = read_entry(b"", path.read_bytes())
    assert entry is not None and decode(encode(entry)) == entry
    JoinEntry.model_validate({"request_id": request_id, **orjson.loads(encode(entry))})


def test_the_state_of_the_first_version_counts_as_it_did_after_an_upgrade() -> None:
    join = PartitionJoin(MemoryStore(), Fold(0), {GROUP[0]: SPEC}, LIMITS)
    entry, waiting = (read_entry(b"", orjson.dumps(golden(1, name)))[1] for name in ("JoinEntry", "JoinEntry-waiting"))
    assert entry is not None and waiting is not None
    join.apply([("id-1", entry), ("id-2", waiting)], replay=True)
    assert join.totals[GROUP]["cell:1:0"] == join.totals[GROUP]["labelled"] == 1
    assert [name for name, _ in join.due(2e9)] == ["id-2"]
    store = MemoryStore()
    store.items[b"eid-1"] = orjson.dumps({name: golden(1)[name] for name in ("pair", "truths", "since", "due")})
    store.items[b"o\0" + (7).to_bytes(8, "big")] = b"id-1"
    kept = PartitionJoin(store, Fold(0), {GROUP[0]: SPEC}, LIMITS)
    assert kept.totals == join.totals
    assert [name for name, _ in kept.expire(2e9)] == ["id-1"] and kept.totals == join.totals
    assert set(store.items) == {b"f"}


def test_a_moment_of_the_future_that_the_state_holds_since_an_earlier_version_outranks_nothing() -> None:
    written = golden(1)
    written["pair"]["time"] = written["truths"][0]["given_at"] = 4.07e9  # 2098
    _, entry = read_entry(b"", orjson.dumps(written))
    assert entry is not None and entry.pairs[0].told is not None
    kept_from = written["pair"]["kept_from"]
    assert entry.pairs[0].time == entry.pairs[0].told.given_at == kept_from
    fold = Fold(0, closed={GROUP: 135_000_000})
    bring_back(fold, 3e9, 30)
    assert fold.closed == {GROUP: 100_000_000}


def test_truths_wait_in_the_progress_of_the_log_of_pairs() -> None:
    join = PartitionJoin(MemoryStore(), Fold(0), {GROUP[0]: SPEC}, LIMITS)
    join.apply([("id", Entry((), (Truth(0.0, 0, 0, 1, letter="{}"),), 1000.0, 1030.0))])
    for progress in (0.0, 1029.0):
        assert join.due(progress) == []
    waiting = join.due(1031.0)
    assert join.give_up(waiting, 1031.0) == [] and join.due(1599.0) == []
    [(name, entry, truths)] = join.give_up(join.due(1601.0), 1601.0)
    assert (name, entry, [one.letter for one in truths]) == ("id", EMPTY, ["{}"])


def test_a_fold_tells_its_topics_from_others() -> None:
    fold = decode_fold(encode_fold(Fold(0, marks=[7, -1], era=2, era_began=5.0, topic_ids={"inference.pairs": "x"})))
    half = PairHalf(0, 9, *GROUP, 1.0, 1.0, 0, "AAAAAA==", era=2)
    assert (fold.era, fold.era_began) == (2, 5.0)
    assert not fold.is_of_other_topics({"inference.pairs": "x"}, 8) and not fold.is_of_other_topics({}, 8)
    assert fold.is_of_other_topics({"inference.pairs": "y"}, 8) and fold.is_of_other_topics({}, 7)
    assert not fold.has(half) and fold.has(PairHalf(0, 9, *GROUP, 1.0, 1.0, 0, "AAAAAA==", era=1))
    assert fold.has_left(7, 9.0) and fold.has_left(9, 4.0) and not fold.has_left(9, 9.0)
