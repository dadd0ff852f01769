"""Dead letters and what became of them, read from their topics."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.topic_reader import read_to_end
from runtime.errors import ConfigurationError
from runtime.settings import Settings
from schemas.headers import parse_time
from schemas.letters import DeadLetter, read_letter
from schemas.messages import LetterReplay
from schemas.refusal import Refusal
from schemas.topics import DEAD_LETTERS, LETTER_REPLAYS


@dataclass(frozen=True, slots=True)
class Found:
    """A letter, and where it lies in `inference.dead-letters`."""

    partition: int
    offset: int
    letter: DeadLetter

    @property
    def place(self) -> str:
        """What a user names it by."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True)
class Selection:
    """Which letters are meant; what is None or empty selects all.

    Attributes:
        since, until: seconds since the epoch, of the refusal.
        places: (partition, offset) in `inference.dead-letters`.
    """

    stage: str | None = None
    reason: str | None = None
    topic: str | None = None
    since: float | None = None
    until: float | None = None
    places: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def has(self, found: Found) -> bool:
        """Whether it is meant."""
        letter = found.letter
        wanted = ((self.stage, letter.stage), (self.reason, letter.reason), (self.topic, letter.topic))
        if any(want is not None and want != held for want, held in wanted):
            return False
        if self.places and (found.partition, found.offset) not in self.places:
            return False
        return (self.since is None and self.until is None) or self._is_in_time(letter)

    def _is_in_time(self, letter: DeadLetter) -> bool:
        try:
            moment = parse_time(letter.time)
        except ValueError:
            return False
        return (self.since is None or moment >= self.since) and (self.until is None or moment <= self.until)


def letters(settings: Settings, selection: Selection) -> Iterator[Found]:
    """The selected letters, one after another, up to the present end of the topic.

    Raises:
        TransientError: the topic is missing, or the brokers do not answer.
    """
    for message in read_to_end(settings, DEAD_LETTERS.name):
        try:
            letter = read_letter(message.key(), message.value(), _headers(message))
        except Refusal:
            continue  # whoever wrote it, it came from nowhere and can go nowhere
        found = Found(message.partition(), message.offset(), letter)
        if selection.has(found):
            yield found


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was sent again.

    Attributes:
        done: identities of the letters that were.
        sent: identities of the messages that this made: a letter of such a one is about what was refused once more.
    """

    done: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)

    def add(self, note: LetterReplay) -> None:
        """Take what a note says."""
        self.done.add(note.identity)
        if note.sent_identity is not None:
            self.sent.add(note.sent_identity)


def replayed(settings: Settings) -> Replayed:
    """What was sent again, by the notes about it."""
    known = Replayed()
    for message in read_to_end(settings, LETTER_REPLAYS.name):
        if message.value():
            known.add(LetterReplay.model_validate_json(message.value()))
    return known


def parse_places(texts: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Places from texts PARTITION:OFFSET.

    Raises:
        ConfigurationError: a text is no place.
    """
    for text in texts:
        if not re.fullmatch(r"\d{1,9}:\d{1,18}", text):
            raise ConfigurationError(f"{text!r} is not PARTITION:OFFSET, such as 2:17, as `letters show` prints it")
    return frozenset((int(partition), int(offset)) for partition, offset in (text.split(":") for text in texts))


def _headers(message: Any) -> Sequence[tuple[str, bytes | None]]:
    try:
        return message.headers() or ()
    except (SystemError, UnicodeDecodeError):  # a name that is not UTF-8: not a letter of ours
        return ()
