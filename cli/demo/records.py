"""The demo's records, read from the store as anybody would read them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from elasticsearch import Elasticsearch
from runtime.errors import TransientError
from runtime.record_indices import INFERENCES, all_of
from runtime.settings import Settings

SETTLE_SECONDS = 240.0
POLL_SECONDS = 0.5
PAGE = 500
Document = dict[str, Any]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> None:
    """Poll until `condition` holds.

    Args:
        what: is awaited, in the plural.

    Raises:
        TransientError: it does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TransientError(f"{what} were not there within {seconds:g} s; the logs say why")
        time.sleep(POLL_SECONDS)


class Records:
    """Records of predictions, by request id and by query."""

    def __init__(self, settings: Settings) -> None:
        self._store = Elasticsearch(settings.elasticsearch_url, request_timeout=30)

    def count(self, query: Mapping[str, Any] | None = None) -> int:
        """How many there are that fit `query`."""
        self._store.indices.refresh(index=all_of(INFERENCES))
        return int(self._store.count(index=all_of(INFERENCES), query=query)["count"])

    def find(self, request_ids: Sequence[str], fields: Sequence[str]) -> dict[str, Document]:
        """Those of these ids that are there, with these fields."""
        self._store.indices.refresh(index=all_of(INFERENCES))
        found: dict[str, Document] = {}
        for start in range(0, len(request_ids), PAGE):
            query = {"ids": {"values": list(request_ids[start : start + PAGE])}}
            found.update(self._search(query, PAGE, fields))
        return found

    def wait_for(self, request_ids: Sequence[str], whole: str, fields: Sequence[str]) -> list[Document]:
        """Those of these ids in order, once each has the field `whole`; empty for one that never comes."""
        found: dict[str, Document] = {}

        def complete() -> bool:
            found.update(self.find([name for name in request_ids if whole not in found.get(name, {})], fields))
            return all(whole in found.get(name, {}) for name in request_ids)

        with contextlib.suppress(TransientError):  # a check says how many are missing
            wait_until(complete, f"{len(request_ids)} records with {whole}")
        return [found.get(name, {}) for name in request_ids]

    def _search(self, query: Mapping[str, Any], size: int, fields: Sequence[str]) -> Iterator[tuple[str, Document]]:
        hits = self._store.search(index=all_of(INFERENCES), query=query, size=size, source_includes=list(fields))
        for hit in hits["hits"]["hits"]:
            yield hit["_id"], hit["_source"]
