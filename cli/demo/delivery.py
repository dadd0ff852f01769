"""The demo's ledger: what became of each message that was sent, on the topics and in the store."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cli.demo.records import Document
from cli.demo.verdict import Verdict
from cli.produce import BAD_MESSAGES, Sent
from cli.report.evidence import Delivery
from cli.topic_reader import read_topic
from runtime.errors import TransientError
from runtime.settings import Settings
from schemas.messages import InferencePair
from schemas.pairs import read_pair
from schemas.topics import DEAD_LETTERS, PAIRS

PAIR_SECONDS = 120.0
LETTER_SECONDS = 30.0


@dataclass
class Ledger:
    """Messages that were sent, and what was found of them.

    Attributes:
        batches: what was sent, by what it was.
        pairs: all on the topic.
        letters: dead letters on the topic: key, value, reason.
        records: of the requests, by id.
        stored: records in the store, whoever asked.
    """

    batches: Mapping[str, Sequence[Sent]]
    pairs: list[InferencePair] = field(default_factory=list)
    letters: list[tuple[str, bytes, str]] = field(default_factory=list)
    records: dict[str, Document] = field(default_factory=dict)
    stored: int = 0

    @property
    def request_ids(self) -> list[str]:
        """Of all images sent."""
        return [one for name in self.batches for one in self.request_ids_of(name)]

    def request_ids_of(self, name: str) -> list[str]:
        """Of the images of one batch."""
        return [one for sent in self.batches[name] for one in sent.request_ids]

    @property
    def bad_messages(self) -> Counter[tuple[str, bytes]]:
        """Key and value of each message that was sent to be refused."""
        return Counter(
            (name, BAD_MESSAGES[number % len(BAD_MESSAGES)][1])
            for batch in self.batches.values()
            for sent in batch
            for number, name in enumerate(sent.bad_ids)
        )

    @property
    def complete(self) -> bool:
        """Whether every request has a pair and a verdict in its record: figures of less would be of a part."""
        found = {pair.request.request_id for pair in self.pairs}
        return all(name in found and "outlier" in self.records.get(name, {}) for name in self.request_ids)

    def read_topics(self, settings: Settings) -> None:
        """Read pairs and dead letters, once all that is awaited is there or time is up."""
        self.pairs = read_pairs(settings, self.request_ids)
        self.letters = read_letters(settings, self.bad_messages.total())

    def deliveries(self) -> list[Delivery]:
        """A line a batch."""
        pairs = Counter(pair.request.request_id for pair in self.pairs)
        letters = Counter(key for key, _, _ in self.letters)
        return [_delivery(name, batch, pairs, self.records, letters) for name, batch in self.batches.items()]

    def check(self, verdict: Verdict) -> None:
        """One pair and one record a request; the dead letters are the bad messages, byte for byte."""
        wanted, found = Counter(self.request_ids), Counter(pair.request.request_id for pair in self.pairs)
        missing, extra = (wanted - found).total(), (found - wanted).total()
        verdict.check(
            "every request has exactly one pair",
            f"{wanted.total()} pairs, 0 missing, 0 extra",
            f"{found.total()} pairs, {missing} missing, {extra} extra",
            wanted == found,
        )
        bad, letters = self.bad_messages, Counter((key, value) for key, value, _ in self.letters)
        verdict.check(
            "dead letters are the bad messages sent on purpose",
            f"{bad.total()}, byte for byte",
            f"{letters.total()}, of which {(letters & bad).total()} byte for byte",
            letters == bad,
        )
        scored = sum("outlier" in self.records.get(name, {}) for name in wanted)
        verdict.check(
            "every request has exactly one record with its verdict",
            f"{len(wanted)} records",
            f"{self.stored} records, {scored} with a verdict",
            self.stored == scored == len(wanted) == wanted.total(),
        )


def read_pairs(settings: Settings, request_ids: Sequence[str]) -> list[InferencePair]:
    """Every pair on the topic, once all of `request_ids` are there or time is up."""
    missing = set(request_ids)
    pairs = []
    try:
        for message in read_topic(settings, PAIRS.name, lambda: not missing, PAIR_SECONDS):
            pair = read_pair(message.value())
            missing.discard(pair.request.request_id)
            pairs.append(pair)
    except TransientError:
        return pairs  # the check says how many are missing
    return pairs


def read_letters(settings: Settings, count: int) -> list[tuple[str, bytes, str]]:
    """Key, value and reason of every dead letter, once there are `count` or time is up."""
    letters: list[tuple[str, bytes, str]] = []
    try:
        for message in read_topic(settings, DEAD_LETTERS.name, lambda: len(letters) >= count, LETTER_SECONDS):
            reason = dict(message.headers() or ()).get("reason") or b"unknown"
            letters.append(((message.key() or b"").decode(), message.value() or b"", reason.decode()))
    except TransientError:
        return letters  # as above
    return letters


def _delivery(
    name: str, batch: Sequence[Sent], pairs: Counter[str], records: Mapping[str, Document], letters: Counter[str]
) -> Delivery:
    request_ids = [one for sent in batch for one in sent.request_ids]
    bad_ids = [one for sent in batch for one in sent.bad_ids]
    return Delivery(
        name,
        sent=len(request_ids),
        pairs=sum(pairs[one] for one in request_ids),
        records=sum(bool(records.get(one)) for one in request_ids),
        bad=len(bad_ids),
        dead_letters=sum(letters[one] for one in bad_ids),
    )
