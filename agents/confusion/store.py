"""Where the join keeps its entries: RocksDB on disk, or a dictionary in tests; a batch of changes is all or nothing."""

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from runtime.errors import FatalError

BLOCK_CACHE_BYTES = 16 << 20
WRITE_BUFFER_BYTES = 16 << 20


@dataclass(slots=True)
class Changes:
    """Keys to set and keys to delete. Of a key that is in both, the last word holds."""

    puts: dict[bytes, bytes] = field(default_factory=dict)
    deletes: set[bytes] = field(default_factory=set)

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Set keys."""
        self.puts |= items
        self.deletes -= items.keys()

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete keys."""
        for key in keys:
            self.puts.pop(key, None)
            self.deletes.add(key)


class Store(Protocol):
    """A sorted map of bytes."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""

    def scan(self, prefix: bytes, limit: int, after: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """At most `limit` items in the order of their keys, from `after` on."""

    def write(self, changes: Changes) -> None:
        """Apply all of the changes, or, if the process is killed, none."""


class MemoryStore:
    """For tests of what is built on a store."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """See `Store`."""
        return [self.items.get(key) for key in keys]

    def scan(self, prefix: bytes, limit: int, after: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """See `Store`."""
        keys = sorted(key for key in self.items if key.startswith(prefix) and key >= (after or prefix))
        return [(key, self.items[key]) for key in keys[:limit]]

    def write(self, changes: Changes) -> None:
        """See `Store`."""
        for key in changes.deletes - changes.puts.keys():
            self.items.pop(key, None)
        self.items |= changes.puts


class RocksStore:
    """RocksDB in a folder of its own. What was written survives the process, by RocksDB's write-ahead log.

    Raises:
        FatalError: the folder cannot be used, or another process has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """See `Store`."""
        found: Any = self._db.get(list[Any](keys)) if keys else []
        return list(found)

    def scan(self, prefix: bytes, limit: int, after: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """See `Store`."""
        found: list[tuple[bytes, bytes]] = []
        items: Iterable[tuple[Any, Any]] = self._db.items(from_key=after or prefix)
        for key, value in items:
            if len(found) == limit or not key.startswith(prefix):
                break
            found.append((key, value))
        return found

    def write(self, changes: Changes) -> None:
        """See `Store`."""
        batch = WriteBatch(raw_mode=True)
        for key in changes.deletes - changes.puts.keys():
            batch.delete(key)
        for key, value in changes.puts.items():
            batch.put(key, value)
        if len(batch):
            self._db.write(batch)

    def clear(self) -> None:
        """Forget everything."""
        self._db.close()
        shutil.rmtree(self.folder)
        self._open()

    def close(self) -> None:
        """Let another process open it."""
        self._db.close()

    def disk_bytes(self) -> int:
        """Size of the folder's files."""
        total = 0
        for path in self.folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # RocksDB puts its files together meanwhile
                total += path.stat().st_size
        return total

    def _open(self) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_keep_log_file_num(2)
        table = BlockBasedOptions()
        table.set_block_cache(Cache(BLOCK_CACHE_BYTES))
        options.set_block_based_table_factory(table)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = Rdict(str(self.folder), options)
        except Exception as error:  # rocksdict raises plain exceptions
            raise FatalError(
                f"the join's state in {self.folder} cannot be opened: {error}; each instance needs a folder of its "
                "own (MODELWATCH_STATE_FOLDER, MODELWATCH_INSTANCE)"
            ) from error
