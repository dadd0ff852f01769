"""Finds the pair that a question is about: among the latest ones, else in the record store, else it waits for it."""

import time
from dataclasses import dataclass
from typing import Any

from agents.explanations.recent_pairs import RecentPairs
from elasticsearch import ApiError, AsyncElasticsearch, NotFoundError, TransportError
from runtime.logging import get_logger
from runtime.record_indices import INFERENCES, all_of, index_of_day
from schemas.messages import InferencePair
from schemas.pairs import read_pair
from schemas.refusal import Refusal

log = get_logger(__name__)

OWN = ("request_id", "model")
POLL_SECONDS = 0.5
"""Between two looks into the record store; a record can be searched about a second after it was written."""


class StoreAway(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The record store does not answer; the text says what it said."""


@dataclass(frozen=True)
class FoundPair:
    """A pair.

    Attributes:
        index: of its record.
        record: fields of its record that say how it was explained before; empty if there are none.
    """

    pair: InferencePair
    index: str
    record: dict[str, Any]


class PairLookup:
    """Finds pairs by request id."""

    def __init__(self, recent: RecentPairs, store: AsyncElasticsearch) -> None:
        self._recent = recent
        self._store = store

    async def find(self, request_id: str, method: str, seconds: float) -> FoundPair | None:
        """The pair, or None if it does not come within `seconds`.

        Raises:
            StoreAway: the store did not answer once, and the pair is not among the latest.
        """
        until, failure = time.monotonic() + seconds, None
        while True:
            if (value := self._recent.get(request_id)) is not None and (found := await self._recorded(value, method)):
                return found
            try:
                failure = None
                if (found := await self._stored(request_id, method)) is not None:
                    return found
            except StoreAway as error:
                failure = error
            left = until - time.monotonic()
            if left <= 0:
                if failure is not None:
                    raise failure
                return None
            await self._recent.wait(request_id, min(left, POLL_SECONDS))

    async def _recorded(self, value: bytes, method: str) -> FoundPair | None:
        """A recent pair, with what its record says of explanations; None where the message holds no pair."""
        try:
            pair = read_pair(value)
        except Refusal:
            return None
        index = index_of_day(INFERENCES, pair.response.answered_at)
        try:
            return FoundPair(pair, index, await self._get(index, pair.request.request_id, OWN, method) or {})
        except StoreAway as error:
            log.warning("record_store_away", error=str(error))
            return FoundPair(pair, index, {})

    async def _stored(self, request_id: str, method: str) -> FoundPair | None:
        """By a search, which knows the index, and then the record itself: a search may be a second behind."""
        query = {"ids": {"values": [request_id]}}
        try:
            answer = await self._store.search(
                index=all_of(INFERENCES), query=query, size=1, source=False, ignore_unavailable=True
            )
        except NotFoundError:
            return None
        except (ApiError, TransportError) as error:
            raise StoreAway(f"the record store does not answer: {error}") from error
        for hit in answer["hits"]["hits"]:
            source = await self._get(str(hit["_index"]), request_id, (*OWN, "request", "response"), method)
            if source is not None and "request" in source and "response" in source:
                pair = InferencePair.model_validate({"request": source["request"], "response": source["response"]})
                return FoundPair(pair, str(hit["_index"]), source)
        return None

    async def _get(self, index: str, request_id: str, fields: tuple[str, ...], method: str) -> dict[str, Any] | None:
        """Fields of a record as it is now, and how it was explained; None if there is no such record."""
        try:
            found = await self._store.get(
                index=index, id=request_id, source_includes=[*fields, f"explanation.{method}"]
            )
        except NotFoundError:
            return None
        except (ApiError, TransportError) as error:
            raise StoreAway(f"the record store does not answer: {error}") from error
        return dict(found["_source"])
