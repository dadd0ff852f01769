"""Sends dead letters again, each once: the message and the note that it was sent are in one transaction."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from cli.letters.reading import Found, replayed
from runtime import kafka
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings
from schemas.acls import LETTERS_TRANSACTION
from schemas.base import utc_now
from schemas.letters import NOWHERE, identity
from schemas.messages import LetterReplay
from schemas.topics import EXPLANATION_REQUESTS, FEEDBACK, LETTER_REPLAYS, REQUESTS

FROM_OUTSIDE = {REQUESTS.name, FEEDBACK.name, EXPLANATION_REQUESTS.name}
"""Topics that anyone writes. What lies on the others was taken by other services already, and would count twice."""
TRANSACTION_LETTERS = 100
CALL_SECONDS = 60.0
ALREADY, CUT, INTERNAL, GONE = "sent before", "not whole in its letter", "not from outside", "topic gone"
UNPLACED = "of no message"
REFUSED_AGAIN = "refused again after a replay"


@dataclass
class Outcome:
    """What became of the letters.

    Attributes:
        sent: by topic.
        skipped: by why.
    """

    sent: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


class Delivery:
    """Takes the place that one message was given.

    Attributes:
        identity: of a letter about it; None while it has no place, or where the brokers do not say which.
    """

    def __init__(self, guard: kafka.DeliveryGuard) -> None:
        self.identity: str | None = None
        self._guard = guard

    def on_delivery(self, error: KafkaError | None, message: Any) -> None:
        """Delivery callback."""
        self._guard.on_delivery(error, message)
        if error is None and message.offset() >= 0:
            self.identity = identity(message.topic(), message.partition(), message.offset(), message.value())


class Replay:
    """Sends letters to where they came from.

    Args:
        internal: send also what lay on topics that only our services write.
        dry_run: only say what would be done.
        again: send also what was refused again after a replay.
    """

    def __init__(self, settings: Settings, internal: bool, dry_run: bool, again: bool = False) -> None:
        self._internal = internal
        self._again = again
        self._dry_run = dry_run
        # Who holds the transactional id holds it alone, so the notes read after that are all there are.
        self._producer = None if dry_run else _transactional(settings)
        self._partitions = kafka.cluster_topics(settings)
        self._replayed = replayed(settings)
        self._chosen = set(self._replayed.done)
        self.outcome = Outcome()

    def send(self, found: Iterable[Found]) -> Iterator[int]:
        """Send them; yields after each transaction how many letters were looked at.

        Raises:
            TransientError: the brokers do not take a message; all before its transaction is sent and noted.
        """
        letters = iter(found)
        while chunk := list(islice(letters, TRANSACTION_LETTERS)):
            wanted = [one for one in chunk if self._is_wanted(one)]
            if wanted and self._producer is not None:
                self._transact(self._producer, wanted)
            self.outcome.sent.update(one.letter.topic for one in wanted)
            yield len(chunk)

    def _is_wanted(self, one: Found) -> bool:
        why = self._refusal(one)
        if why is not None:
            self.outcome.skipped[why] += 1
            return False
        self._chosen.add(one.letter.identity)
        return True

    def _refusal(self, one: Found) -> str | None:
        letter = one.letter
        if letter.identity in self._chosen:
            return ALREADY
        if letter.identity in self._replayed.sent and not self._again:
            return REFUSED_AGAIN
        if letter.offset == NOWHERE:
            return UNPLACED
        if not letter.is_whole:
            return CUT
        if letter.topic not in FROM_OUTSIDE and not self._internal:
            return INTERNAL
        return None if letter.topic in self._partitions else GONE

    def _transact(self, producer: Producer, wanted: list[Found]) -> None:
        guard = kafka.DeliveryGuard()
        try:
            producer.begin_transaction()
            sent = [Delivery(guard) for _ in wanted]
            for one, delivery in zip(wanted, sent, strict=True):
                kafka.produce(producer, one.letter.topic, delivery.on_delivery, **self._message(one))
            producer.flush(CALL_SECONDS)  # a note names the place that its message was given
            for one, delivery in zip(wanted, sent, strict=True):
                note = _note(one, delivery.identity)
                self._replayed.add(note)
                kafka.produce(
                    producer,
                    LETTER_REPLAYS.name,
                    guard.on_delivery,
                    value=note.model_dump_json().encode(),
                    key=note.identity,
                )
            producer.commit_transaction(CALL_SECONDS)
            guard.check()
        except KafkaException as failure:
            places = f"{wanted[0].place} to {wanted[-1].place}"
            raise TransientError(
                f"letters {places} could not be sent: {failure.args[0].str()}; those before are, run it again"
            ) from failure

    def _message(self, one: Found) -> dict[str, Any]:
        letter = one.letter
        message: dict[str, Any] = {"value": letter.value, "key": letter.key, "headers": letter.headers}
        if letter.partition < self._partitions[letter.topic]:
            message["partition"] = letter.partition
        return message


def _note(one: Found, sent_identity: str | None) -> LetterReplay:
    letter = one.letter
    return LetterReplay(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        identity=letter.identity,
        letter_partition=one.partition,
        letter_offset=one.offset,
        sent_identity=sent_identity,
        replayed_at=utc_now(),
    )


def _transactional(settings: Settings) -> Producer:
    producer = kafka.producer(settings, LETTERS_TRANSACTION)
    try:
        producer.init_transactions(CALL_SECONDS)
    except KafkaException as failure:
        error = failure.args[0]
        if kafka.refused(error):
            raise ConfigurationError(
                f"the brokers do not let this user send letters again: {error.str()}; see user modelwatch-operators in "
                "docs/acls.md"
            ) from failure
        raise TransientError(f"no transaction can be begun: {error.str()}") from failure
    return producer
