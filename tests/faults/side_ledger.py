"""The books of the models that come and go beside the lab's own: each request has one whole answer, or one refusal."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.identity import record_id
from schemas.messages import DriftReport
from schemas.refusal import Reason

Group = tuple[str, str]
"""A model and its version."""


@dataclass(frozen=True)
class Expected:
    """What may become of a request: while processes are replaced one after another, more than one thing may.

    Attributes:
        versions: of the model that may answer; none: nobody may.
        refusable: whether it may become a dead letter, reason `unknown_model`.
    """

    versions: frozenset[str]
    refusable: bool


@dataclass(frozen=True)
class SideRequest:
    """A request to a model beside the lab's own, in the order of sending.

    Attributes:
        truth: index of the true class.
    """

    request_id: str
    model: str
    truth: int
    expected: Expected


class Answer(NamedTuple):
    """A pair, as far as it matters here."""

    request_id: str
    model: str
    version: str

    @property
    def record(self) -> str:
        """Id of its record: the lab's own model is the primary one."""
        return record_id(self.request_id, self.model, self.version, False)


class Refused(NamedTuple):
    """A dead letter, as far as it matters here."""

    request_id: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What topics and store hold of these models.

    Attributes:
        records: by id.
        counts: pairs and truths that the confusion agent counts over the lifetime.
    """

    answers: Collection[Answer] = ()
    letters: Collection[Refused] = ()
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    windows: Collection[DriftReport] = ()
    counts: Mapping[Group, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SideLedger:
    """What became of the requests to these models. Every list of a balanced one is empty.

    Attributes:
        sent, answered, refused, joined, in_windows: how many.
        unaccounted: ids with neither pair nor dead letter.
        doubled_outcomes: ids with more than one of either, or both.
        unexpected: ids answered by another model or version than may, refused though they may not or otherwise.
        strangers: ids of pairs, letters, records and places in windows that belong to no request or answer of ours.
        unscored, unjoined, unwindowed: answered ids whose record has no verdict, or not the truth that was told; that
            are in no drift window.
        doubled_in_windows: ids in more than one.
        wrong_windows: windows that hold answers of another model or version, or closed as full and are not.
        miscounted: versions whose lifetime counts are not those of the pairs and truths.
    """

    sent: int = 0
    answered: int = 0
    refused: int = 0
    joined: int = 0
    windows: int = 0
    in_windows: int = 0
    unaccounted: list[str] = field(default_factory=list)
    doubled_outcomes: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)
    unjoined: list[str] = field(default_factory=list)
    unwindowed: list[str] = field(default_factory=list)
    doubled_in_windows: list[str] = field(default_factory=list)
    wrong_windows: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)

    @property
    def lost(self) -> set[str]:
        """Ids of which something is missing somewhere."""
        return {*self.unaccounted, *self.unscored, *self.unjoined, *self.unwindowed}

    @property
    def doubled(self) -> set[str]:
        """Ids of which something is there twice, or where nobody asked for it."""
        return {*self.doubled_outcomes, *self.doubled_in_windows, *self.strangers}

    @property
    def balanced(self) -> bool:
        """Whether every difference is zero."""
        return not (self.lost or self.doubled or self.unexpected or self.wrong_windows or self.miscounted)

    @property
    def differences(self) -> dict[str, list[str]]:
        """Those that are not zero, the first few of each."""
        lists = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        return {name: value[:5] for name, value in lists.items() if value}


def balance_side(sent: Iterable[SideRequest], told: Collection[str], found: Found, window_size: int) -> SideLedger:
    """Compare what was sent with what is there.

    Args:
        told: ids of the requests about which the truth was told.
        window_size: of these models.
    """
    asked = {one.request_id: one for one in sent}
    answers, reasons = defaultdict[str, list[Answer]](list), defaultdict[str, list[str]](list)
    for answer in found.answers:
        answers[answer.request_id].append(answer)
    for letter in found.letters:
        reasons[letter.request_id].append(letter.reason)
    distinct = {answer for answer in found.answers if answer.request_id in asked}
    outcomes = Counter([*(one.request_id for one in found.answers), *(one.request_id for one in found.letters)])
    joined = {one for one in distinct if _truth(found, one) == asked[one.request_id].truth}
    members = Counter(_members(found.windows))
    placed = Counter(name for name, _ in members.elements())
    return SideLedger(
        sent=len(asked),
        answered=len(answers.keys() & asked.keys()),
        refused=len(reasons.keys() & asked.keys()),
        joined=len(joined),
        windows=len(found.windows),
        in_windows=members.total(),
        unaccounted=sorted(asked.keys() - outcomes.keys()),
        doubled_outcomes=sorted(name for name, count in outcomes.items() if count > 1),
        unexpected=sorted(name for name, one in asked.items() if not _is_expected(one, answers[name], reasons[name])),
        strangers=_strangers(asked, distinct, outcomes, found, placed),
        unscored=sorted(one.request_id for one in distinct if "score" not in _part(found, one, "outlier")),
        unjoined=sorted(one.request_id for one in distinct - joined if one.request_id in told),
        unwindowed=sorted(one.request_id for one in distinct if one.request_id not in placed),
        doubled_in_windows=sorted(name for name, count in placed.items() if count > 1),
        wrong_windows=_wrong_windows(found.windows, distinct, window_size),
        miscounted=_miscounted(distinct, told, found.counts),
    )


def _part(found: Found, answer: Answer, name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = found.records.get(answer.record, {}).get(name) or {}
    return part


def _truth(found: Found, answer: Answer) -> Any:
    return _part(found, answer, "feedback").get("truth")


def _members(windows: Iterable[DriftReport]) -> Iterable[tuple[str, Group]]:
    return ((name, (one.model, one.model_version or "")) for one in windows for name in one.request_ids or ())


def _is_expected(one: SideRequest, answers: Collection[Answer], reasons: Collection[str]) -> bool:
    by_whom = all(answer.model == one.model and answer.version in one.expected.versions for answer in answers)
    why = all(one.expected.refusable and reason == Reason.UNKNOWN_MODEL.value for reason in reasons)
    return by_whom and why


def _strangers(
    asked: Mapping[str, SideRequest],
    distinct: Collection[Answer],
    outcomes: Mapping[str, int],
    found: Found,
    placed: Mapping[str, int],
) -> list[str]:
    records = found.records.keys() - {one.record for one in distinct}
    return sorted(
        {*(outcomes.keys() - asked.keys()), *records, *(placed.keys() - {one.request_id for one in distinct})}
    )


def _wrong_windows(windows: Iterable[DriftReport], distinct: Collection[Answer], window_size: int) -> list[str]:
    wrong = []
    for one in windows:
        own = {Answer(name, one.model, one.model_version or "") for name in one.request_ids or ()}
        if not own <= set(distinct) or (one.closed_by == "full") != (one.size == window_size) or len(own) != one.size:
            wrong.append(one.window_id)
    return sorted(wrong)


def _miscounted(
    distinct: Collection[Answer], told: Collection[str], counts: Mapping[Group, tuple[int, int]]
) -> list[str]:
    pairs = Counter((one.model, one.version) for one in distinct)
    labelled = Counter((one.model, one.version) for one in distinct if one.request_id in told)
    expected = {group: (pairs[group], labelled[group]) for group in pairs}
    wrong = {group for group in expected.keys() | counts.keys() if expected.get(group) != counts.get(group)}
    return sorted(f"{'/'.join(one)}: {counts.get(one)} counted, {expected.get(one)} there" for one in wrong)
