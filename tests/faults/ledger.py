"""The books: what was sent, against what the topics and the records hold. Every difference must be zero."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.settings import Settings
from schemas.letters import DeadLetter
from schemas.messages import DriftReport
from schemas.topics import DEAD_LETTERS, EXPLANATIONS, PAIRS
from tests.faults.agents import MODEL, Store, reports
from tests.faults.side_found import FIELDS, answer_of, letter_of, lifetime_counts, refused_of
from tests.faults.side_ledger import Answer, Found, Group, SideLedger, SideRequest, balance_side
from tests.servers.messages import read


@dataclass(frozen=True)
class Ledger:
    """What became of the requests of a run.

    Attributes:
        sent: ids of all requests.
        missing_pairs, doubled_pairs, strangers: ids without a pair, with several, and in windows that nobody asked for.
        unscored, unjoined: ids whose record has no verdict, or not the truth that was told.
        doubled_in_windows: ids in more than one drift window.
        wrong_windows: windows that closed as full and are not.
        unwindowed: pairs in no window, beyond those of the window that is open.
        unanswered: questions without an explanation.
        dead_letters: how many, but of those about the other models' requests.
        side: the books of the models beside the lab's own; whatever belongs to no request at all is a stranger there.
    """

    sent: int
    pairs: int
    records: int
    joined: int
    windows: int
    in_windows: int
    questions: int
    missing_pairs: list[str] = field(default_factory=list)
    doubled_pairs: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    unscored: list[str] = field(default_factory=list)
    unjoined: list[str] = field(default_factory=list)
    doubled_in_windows: list[str] = field(default_factory=list)
    wrong_windows: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    unwindowed: int = 0
    dead_letters: int = 0
    side: SideLedger = field(default_factory=SideLedger)

    @property
    def lost(self) -> set[str]:
        """Ids of which something is missing somewhere."""
        return {*self.missing_pairs, *self.unscored, *self.unjoined, *self.unanswered, *self.side.lost}

    @property
    def doubled(self) -> set[str]:
        """Ids of which something is there twice."""
        return {*self.doubled_pairs, *self.strangers, *self.doubled_in_windows, *self.side.doubled}

    @property
    def balanced(self) -> bool:
        """Whether every difference is zero."""
        own = self.lost or self.doubled or self.wrong_windows or self.unwindowed or self.dead_letters
        return not own and self.side.balanced


@dataclass(frozen=True)
class Side:
    """What was sent to the models beside the lab's own, and about which of it the truth was told."""

    sent: Sequence[SideRequest]
    told: Collection[str]
    window_size: int


def balance(
    settings: Settings, store: Store, truths: Mapping[str, int], questions: Sequence[str], window_size: int, side: Side
) -> Ledger:
    """Read everything, and compare. Call it when all is settled, and no transaction is under way."""
    answers = [answer_of(message.value()) for message in read(settings, PAIRS.name)]
    letters = list(map(letter_of, read(settings, DEAD_LETTERS.name)))
    counts = {group: count for group, count in lifetime_counts(settings).items() if group[0] != MODEL}
    answered = {message.key().decode() for message in read(settings, EXPLANATIONS.name)}
    everything = Everything(answers, letters, store.all("inferences", FIELDS), reports(settings), counts)
    return compare(everything, truths, questions, answered, window_size, side)


@dataclass(frozen=True)
class Everything:
    """What topics and store hold, of all models.

    Attributes:
        records, windows: by id.
        counts: pairs and truths over the lifetime of each version of a model beside the lab's own.
    """

    answers: Sequence[Answer]
    letters: Sequence[DeadLetter]
    records: Mapping[str, Mapping[str, Any]]
    windows: Mapping[str, DriftReport]
    counts: Mapping[Group, tuple[int, int]] = field(default_factory=dict)


def compare(
    there: Everything,
    truths: Mapping[str, int],
    questions: Sequence[str],
    answered: Collection[str],
    window_size: int,
    side: Side,
) -> Ledger:
    """The books. Whatever belongs to no request of the lab's own model must belong to one of another."""
    own = [one for one in there.answers if one.model == MODEL and one.request_id in truths]
    pairs = Counter(one.request_id for one in own)
    records = {name: record for name, record in there.records.items() if name in truths}
    windows = [one for one in there.windows.values() if one.model == MODEL]
    members = Counter(name for report in windows for name in report.request_ids or ())
    told = {name: record.get("feedback", {}).get("truth") for name, record in records.items()}
    scored = {name for name, record in records.items() if "score" in record.get("outlier", {})}
    others, letters = _side_found(there, truths, {one.request_id for one in side.sent})
    return Ledger(
        sent=len(truths),
        pairs=pairs.total(),
        records=len(records),
        joined=sum(told.get(name) == truth for name, truth in truths.items()),
        windows=len(windows),
        in_windows=members.total(),
        questions=len(questions),
        missing_pairs=sorted(truths.keys() - pairs.keys()),
        doubled_pairs=sorted(name for name, count in pairs.items() if count > 1),
        strangers=sorted(members.keys() - truths.keys()),
        unscored=sorted(truths.keys() - scored),
        unjoined=sorted(name for name, truth in truths.items() if told.get(name) != truth),
        doubled_in_windows=sorted(name for name, count in members.items() if count > 1),
        wrong_windows=sorted(one.window_id for one in windows if one.closed_by == "full" and one.size != window_size),
        unanswered=sorted(set(questions) - set(answered)),
        unwindowed=max(0, len(pairs) - len(members) - window_size + 1),
        dead_letters=len(letters),
        side=balance_side(side.sent, side.told, others, side.window_size),
    )


def _side_found(there: Everything, truths: Mapping[str, int], side: Collection[str]) -> tuple[Found, list[DeadLetter]]:
    """All that is not the lab's own model's, and the letters that are about neither."""
    answers = [one for one in there.answers if one.model != MODEL or one.request_id not in truths]
    records = {name: record for name, record in there.records.items() if name not in truths}
    windows = [one for one in there.windows.values() if one.model != MODEL]
    told = [(letter, refused_of(letter)) for letter in there.letters]
    refused = [one for _, one in told if one is not None and one.request_id in side]
    left = [letter for letter, one in told if one is None or one.request_id not in side]
    return Found(answers, refused, records, windows, there.counts), left
