"""Finds the pair that a question is about: among the latest ones, else in the record store, else it waits for it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agents.explanations.recent_pairs import RecentPairs
from agents.pairs import read_pairs, record_id_of
from elasticsearch import ApiError, AsyncElasticsearch, NotFoundError, TransportError
from runtime.logging import get_logger
from runtime.record_indices import INFERENCES, all_of, index_of_day
from schemas.messages import InferencePair

log = get_logger(__name__)

OWN = ("request_id", "model")
POLL_SECONDS = 0.5
"""Between two looks into the record store; a record can be searched about a second after it was written."""
MOST_RECORDS = 16
"""The latest under one id that are looked at."""


class StoreAway(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """The record store does not answer; the text says what it said."""


class NotAnswered(Exception):  # noqa: N818 - as above
    """There is no such answer; the text says which ones there are under the id."""


class SeveralAnswers(Exception):  # noqa: N818 - as above
    """Several answers are meant, and none of them is the primary one; the text lists them."""


@dataclass(frozen=True, slots=True)
class Sought:
    """Which prediction is meant; None: any."""

    request_id: str
    model: str | None = None
    version: str | None = None

    def fits(self, answer: "Answered") -> bool:
        """Whether this may be it."""
        return self.model in (None, answer.model) and self.version in (None, answer.version)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer under the id that is sought, and where its record is.

    Attributes:
        pair: None while it is in the store only.
    """

    model: str
    version: str
    primary: bool
    index: str
    record_id: str
    pair: InferencePair | None


@dataclass(frozen=True)
class FoundPair:
    """A pair.

    Attributes:
        index: of its record.
        record_id: its record's.
        record: fields of its record that say how it was explained before; empty if there are none.
    """

    pair: InferencePair
    index: str
    record_id: str
    record: dict[str, Any]


class PairLookup:
    """Finds pairs by request id, model and version.

    Args:
        max_ahead: seconds that the clocks in a pair may be ahead; others are no pairs.
    """

    def __init__(self, recent: RecentPairs, store: AsyncElasticsearch, max_ahead: float) -> None:
        self._recent = recent
        self._store = store
        self._max_ahead = max_ahead

    async def find(self, sought: Sought, method: str, seconds: float) -> FoundPair:
        """The pair, once it is there: the one that fits; of several the primary one; of two of these the last.

        Raises:
            NotAnswered: it does not come within `seconds`.
            SeveralAnswers: none of those that fit is the primary one.
            StoreAway: the store did not answer, and the pair is not among the latest.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                return await self._find(sought, method)
            except (NotAnswered, SeveralAnswers, StoreAway) as error:  # the pair, or the primary one, may come yet
                failure = error
            left = until - time.monotonic()
            if left <= 0:
                raise failure
            await self._recent.wait(sought.request_id, min(left, POLL_SECONDS))

    async def _find(self, sought: Sought, method: str) -> FoundPair:
        away: StoreAway | None = None
        answers = self._latest(sought.request_id)
        chosen = _decisive(sought, answers)
        if chosen is None:
            try:
                answers = [*await self._recorded(sought.request_id), *answers]
            except StoreAway as error:
                away = error
            chosen = _choose(sought, answers)
        found = None if chosen is None else await self._whole(chosen, method)
        if found is None:
            raise away or NotAnswered(_missing(sought, answers))
        return found

    async def answers(self, request_id: str, seconds: float) -> list[InferencePair]:
        """The last answer of each model and version under an id, once there are any; empty if none come.

        Raises:
            StoreAway: the store did not answer, and there are none among the latest.
        """
        until = time.monotonic() + seconds
        while True:
            found = self._latest(request_id)
            if found:
                return [one.pair for one in found if one.pair is not None]
            recorded = [await self._whole(one, "") for one in await self._recorded(request_id)]
            if any(recorded):
                return [one.pair for one in recorded if one is not None]
            left = until - time.monotonic()
            if left <= 0:
                return []
            await self._recent.wait(request_id, min(left, POLL_SECONDS))

    def _latest(self, request_id: str) -> list[Answered]:
        """Answers among the latest pairs; the last one of each model and version."""
        pairs, _ = read_pairs(self._recent.get(request_id), {}, time.time(), self._max_ahead)
        own = [read.pair for read in pairs if read.pair.request.request_id == request_id]
        return _last(
            Answered(
                pair.response.model,
                pair.response.model_version,
                pair.response.primary,
                index_of_day(INFERENCES, pair.response.answered_at),
                record_id_of(pair),
                pair,
            )
            for pair in own
        )

    async def _recorded(self, request_id: str) -> list[Answered]:
        """Answers in the record store, by a search, which knows the index and the models."""
        fields = ["response.model", "response.model_version", "response.primary"]
        try:
            answer = await self._store.search(
                index=all_of(INFERENCES),
                query={"bool": {"filter": [{"term": {"request_id": request_id}}]}},
                sort=[{"@timestamp": {"order": "desc", "unmapped_type": "date"}}],
                size=MOST_RECORDS,
                source_includes=fields,
                ignore_unavailable=True,
            )
        except NotFoundError:
            return []
        except (ApiError, TransportError) as error:
            raise StoreAway(f"the record store does not answer: {error}") from error
        hits = [hit for hit in reversed(answer["hits"]["hits"]) if hit.get("_source", {}).get("response")]
        return _last(_hit(hit, hit["_source"]["response"]) for hit in hits)

    async def _whole(self, answer: Answered, method: str) -> FoundPair | None:
        """The pair and what its record says of explanations, as it is now: a search may be a second behind."""
        fields = OWN if answer.pair is not None else (*OWN, "request", "response")
        try:
            record = await self._get(answer, fields, method) or {}
        except StoreAway as error:
            if answer.pair is None:
                raise
            log.warning("record_store_away", error=str(error))
            record = {}
        pair = answer.pair or _pair_of(record)
        return None if pair is None else FoundPair(pair, answer.index, answer.record_id, record)

    async def _get(self, answer: Answered, fields: Sequence[str], method: str) -> dict[str, Any] | None:
        """Fields of a record, and how it was explained; None if there is no such record."""
        includes = [*fields, f"explanation.{method}"]
        try:
            found = await self._store.get(index=answer.index, id=answer.record_id, source_includes=includes)
        except NotFoundError:
            return None
        except (ApiError, TransportError) as error:
            raise StoreAway(f"the record store does not answer: {error}") from error
        return dict(found["_source"])


def _hit(hit: dict[str, Any], response: dict[str, Any]) -> Answered:
    model, version = str(response.get("model", "")), str(response.get("model_version", ""))
    return Answered(model, version, bool(response.get("primary", True)), hit["_index"], hit["_id"], None)


def _last(answers: Iterable[Answered]) -> list[Answered]:
    """The last of each model and version, in their order."""
    found: dict[tuple[str, str], Answered] = {}
    for one in answers:
        found.pop((one.model, one.version), None)
        found[one.model, one.version] = one
    return list(found.values())


def _decisive(sought: Sought, answers: Sequence[Answered]) -> Answered | None:
    """The answer that is meant, whatever else may be recorded under the id."""
    fitting = [one for one in answers if sought.fits(one)]
    if sought.model is not None and sought.version is not None and fitting:
        return fitting[-1]
    return next((one for one in reversed(fitting) if one.primary), None)


def _choose(sought: Sought, answers: Sequence[Answered]) -> Answered | None:
    fitting = [one for one in _last(answers) if sought.fits(one)]
    chosen = _decisive(sought, fitting)
    if chosen is None and len(fitting) > 1:
        raise SeveralAnswers(
            f"several answers fit under id {sought.request_id}: {_named(fitting)}; none of them is the primary one: "
            "name model and model_version"
        )
    return chosen or (fitting[0] if fitting else None)


def _missing(sought: Sought, answers: Sequence[Answered]) -> str:
    if not answers:
        return (
            f"no pair of id {sought.request_id} among the latest or in the record store; send the image with the "
            "question"
        )
    version = "" if sought.version is None else f" of version {sought.version}"
    return (
        f"no answer{version} of model {sought.model or 'any'} to {sought.request_id}; there is {_named(_last(answers))}"
    )


def _named(answers: Sequence[Answered]) -> str:
    return ", ".join(sorted(f"{one.model}:{one.version}" for one in answers))


def _pair_of(record: dict[str, Any]) -> InferencePair | None:
    """The pair in a record; None where it holds none, such as one that somebody else wrote."""
    try:
        return InferencePair.model_validate({name: record[name] for name in ("request", "response")})
    except (KeyError, ValidationError):
        return None
