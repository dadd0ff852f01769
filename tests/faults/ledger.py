"""The books: what was sent, against what the topics and the records hold. Every difference must be zero."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from runtime.settings import Settings
from schemas.topics import DEAD_LETTERS, EXPLANATIONS, PAIRS
from tests.faults.agents import Store, reports
from tests.servers.messages import read


@dataclass(frozen=True)
class Ledger:
    """What became of the requests of a run.

    Attributes:
        sent: ids of all requests.
        missing_pairs, doubled_pairs, strangers: ids without a pair, with several, and of pairs that nobody asked for.
        unscored, unjoined: ids whose record has no verdict, or not the truth that was told.
        doubled_in_windows: ids in more than one drift window.
        wrong_windows: windows that closed as full and are not.
        unwindowed: pairs in no window, beyond those of the window that is open.
        unanswered: questions without an explanation.
        dead_letters: how many.
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

    @property
    def lost(self) -> set[str]:
        """Ids of which something is missing somewhere."""
        return {*self.missing_pairs, *self.unscored, *self.unjoined, *self.unanswered}

    @property
    def doubled(self) -> set[str]:
        """Ids of which something is there twice."""
        return {*self.doubled_pairs, *self.strangers, *self.doubled_in_windows}

    @property
    def balanced(self) -> bool:
        """Whether every difference is zero."""
        return not (self.lost or self.doubled or self.wrong_windows or self.unwindowed or self.dead_letters)


def balance(
    settings: Settings, store: Store, truths: Mapping[str, int], questions: Sequence[str], window_size: int
) -> Ledger:
    """Read everything, and compare. Call it when all is settled, and no transaction is under way."""
    pairs = Counter(orjson.loads(message.value())["request"]["request_id"] for message in read(settings, PAIRS.name))
    records = store.all("inferences", ["outlier.score", "feedback.truth", "response.predicted"])
    windows = reports(settings)
    members = Counter(name for report in windows.values() for name in report.request_ids or ())
    answered = {message.key().decode() for message in read(settings, EXPLANATIONS.name)}
    told = {name: record.get("feedback", {}).get("truth") for name, record in records.items()}
    scored = {name for name, record in records.items() if "score" in record.get("outlier", {})}
    full = [one for one in windows.values() if one.closed_by == "full"]
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
        strangers=sorted((pairs.keys() | records.keys()) - truths.keys()),
        unscored=sorted(truths.keys() - scored),
        unjoined=sorted(name for name, truth in truths.items() if told.get(name) != truth),
        doubled_in_windows=sorted(name for name, count in members.items() if count > 1),
        wrong_windows=sorted(one.window_id for one in full if one.size != window_size),
        unanswered=sorted(set(questions) - answered),
        unwindowed=max(0, len(pairs) - len(members) - window_size + 1),
        dead_letters=len(read(settings, DEAD_LETTERS.name)),
    )
