"""RocksDB behaves as the dictionary that other tests use in its place, and keeps what was written."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.confusion.store import Changes, MemoryStore, RocksStore
from runtime.errors import FatalError

KEYS = st.sampled_from([b"a", b"a1", b"a2", b"b", b"b\0", b"c"])
CHANGES = st.tuples(st.dictionaries(KEYS, st.binary(min_size=1, max_size=4)), st.sets(KEYS))


@settings(max_examples=20)
@given(st.lists(CHANGES, max_size=6))
def test_it_is_a_sorted_map(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[bytes, bytes], set[bytes]]]
) -> None:
    rocks, memory = RocksStore(tmp_path_factory.mktemp("rocks")), MemoryStore()
    for puts, deletes in steps:
        for store in (rocks, memory):
            store.write(Changes(dict(puts), set(deletes)))
    keys = [b"a", b"b", b"zz"]
    assert rocks.get_many(keys) == memory.get_many(keys)
    for prefix, after in ((b"a", None), (b"b", None), (b"a", b"a1"), (b"c", None)):
        assert rocks.scan(prefix, 2, after) == memory.scan(prefix, 2, after)
    rocks.close()


def test_what_was_written_is_there_when_it_is_opened_again_and_gone_when_it_is_cleared(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "one")
    store.write(Changes({b"e1": b"x"}))
    store.close()
    store = RocksStore(tmp_path / "one")
    assert store.get_many([b"e1"]) == [b"x"]
    assert store.disk_bytes() > 0
    store.clear()
    assert store.get_many([b"e1"]) == [None]
    store.close()


def test_two_processes_cannot_use_one_folder_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "one")
    with pytest.raises(FatalError, match="MODELWATCH_STATE_FOLDER"):
        RocksStore(tmp_path / "one")
    store.close()
