"""What the join's first stage hands from its thread to the event loop: what was merged, and what is to be written."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from agents.confusion.entries import EMPTY, Entry, PairHalf, Truth
from agents.confusion.fold import Fold
from agents.confusion.ownership import Claim
from agents.confusion.partition import Applied, PartitionJoin
from agents.confusion.recovery import Opened
from agents.confusion.store import RocksStore
from runtime.elasticsearch_sink import Record
from runtime.results import Outgoing
from schemas.letters import Source
from schemas.messages import JoinEntry
from schemas.refusal import Reason, Refusal
from schemas.topics import FEEDBACK, JOINS

FIRST_REPUBLISH_SECONDS = 60.0
"""The first time: by then the former owner has learned from its group that it is none."""
ENTRY_VERSION = JoinEntry.model_fields["schema_version"].default


class Loader(Protocol):
    """See `agents.confusion.recovery.JoinLoader`."""

    def open(self, partition: int) -> Opened:
        """Take a partition over."""

    def look(self, partition: int, claim: Claim) -> None:
        """See in its log whether somebody else has claimed it since."""

    def is_anew(self, fold: Fold) -> bool:
        """Whether the topics that a fold's marks are about were made anew."""


@dataclass(slots=True)
class Owned:
    """A partition that is ours.

    Attributes:
        left: answers that left the state when it was opened; in a fold that is not published yet.
        fresh: requests judged since it was opened, until sums are published anew for the first time. Their records are
            written again then: a former owner may have written an older truth, which was long on its way.
        read_until: timestamp of the newest pair that is merged, seconds since the epoch.
    """

    join: PartitionJoin
    store: RocksStore
    claim: Claim
    left: list[tuple[str, PairHalf]] = field(default_factory=list)
    fresh: set[str] | None = field(default_factory=set)
    era: int = 0
    publication: int = 0
    read_until: float = 0.0
    positioned: float = 0.0
    republish_at: float = field(default_factory=lambda: time.monotonic() + FIRST_REPUBLISH_SECONDS)


@dataclass(frozen=True, slots=True)
class Merged:
    """Inputs of one partition, merged and stored.

    Attributes:
        owned: under which ownership; under another they must be merged again.
    """

    owned: Owned
    parts: list[tuple[str, Entry]]
    applied: list[Applied]

    def entries(self) -> dict[str, Entry]:
        """What the log must hold, by request id."""
        return {one.request_id: one.new for one in self.applied if one.new != EMPTY}


@dataclass(frozen=True, slots=True)
class Joined:
    """A batch, merged and stored.

    Attributes:
        generation: number of the assignment under which it was read.
        merged: by partition.
        repeated: answers that took the place of an earlier one, by model; and `surplus`, those beyond what a request
            may have.
        misplaced: feedback that is sent on to the partition of its pair: an item of a batch, or one without a key.
        uncounted: what their records must say of answers that are not counted.
    """

    generation: int
    merged: dict[int, Merged]
    refused: list[tuple[Any, Refusal]]
    pairs: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    surplus: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    misplaced: list[Outgoing] = field(default_factory=list)
    uncounted: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What the clock brought: records, sums and folds to write, and truths whose pair should be looked for.

    Attributes:
        progress: how far the pairs of a partition are read, seconds since the epoch.
    """

    generation: int
    records: list[Record] = field(default_factory=list)
    sums: list[Outgoing] = field(default_factory=list)
    folds: list[Outgoing] = field(default_factory=list)
    waiting: dict[int, list[tuple[str, Entry]]] = field(default_factory=dict)
    progress: dict[int, float] = field(default_factory=dict)


def log_message(partition: int, request_id: str, entry: Entry, claim: Claim) -> Outgoing:
    """The entry as it is now; nothing, if nothing is known any more."""
    document = {"schema_version": ENTRY_VERSION, "request_id": request_id, **orjson.loads(orjson.dumps(entry))}
    value = None if entry == EMPTY else orjson.dumps(document)
    return Outgoing(JOINS.name, request_id, value, [], partition, delivered=claim.delivered)


def letter_of(partition: int, request_id: str, letter: str | None, offset: int) -> Source:
    """An item of feedback, for the dead letters."""
    return Source(request_id.encode(), (letter or "").encode(), FEEDBACK.name, partition, offset)


def orphans(partition: int, request_id: str, truths: Iterable[Truth]) -> list[tuple[Source, Refusal]]:
    """Truths that have waited in vain, for the dead letters."""
    waited = (
        f"no pair with request id {request_id!r} came, and no record has it; answers to a request of several images "
        f"have the ids {request_id}-0, {request_id}-1, …: give their truths as `truths`, one a row"
    )
    return [
        (letter_of(partition, request_id, truth.letter, truth.offset), Refusal(Reason.ORPHAN, waited))
        for truth in truths
    ]
