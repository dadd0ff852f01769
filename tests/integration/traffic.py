"""Requests to a worker through Kafka, and what became of them: pairs and dead letters as any subscriber sees them."""

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaException, Message, TopicPartition
from pydantic import ValidationError

from runtime import kafka
from runtime.settings import Settings
from schemas.messages import InferencePair
from schemas.topics import DEAD_LETTERS, PAIRS, REQUESTS

SECONDS = 120.0
QUIET_SECONDS = 0.1
"""Reading goes on for so long after everything awaited was there, to see what there is too much of."""


class Traffic:
    """One sender and one reader of committed records; it sees what is written after it was made.

    Attributes:
        seen: messages so far, by topic.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seen: dict[str, list[Message]] = {PAIRS.name: [], DEAD_LETTERS.name: []}
        self._producer = kafka.producer(settings)
        self._guard = kafka.DeliveryGuard()
        self._reader = kafka.assigned_consumer(settings)
        self._reader.assign(self._ends(self.seen))

    def skip(self, group: str) -> None:
        """Let the group begin at the present end of the requests."""
        member = kafka.consumer(self.settings, group, static=False)
        member.commit(offsets=self._ends([REQUESTS.name]), asynchronous=False)
        member.close()

    def send(self, value: bytes | None, content_type: str, key: str | None = None, **headers: str) -> None:
        """Send one request; `_` in a header's name stands for `-`."""
        named = [("content-type", content_type), *((name.replace("_", "-"), text) for name, text in headers.items())]
        kafka.produce(
            self._producer,
            REQUESTS.name,
            self._guard.on_delivery,
            key=key,
            value=value,
            headers=[(name, text.encode()) for name, text in named],
        )

    def flush(self) -> None:
        """Wait until the broker has all that was sent."""
        assert self._producer.flush(SECONDS) == 0
        self._guard.check()

    def pairs(self, request_ids: Iterable[str], seconds: float = SECONDS) -> dict[str, Message]:
        """The one pair of each of these requests; `AssertionError` if one has none in time, or two."""
        wanted = set(request_ids)
        found: dict[str, Message] = {}
        for message in self._await(PAIRS.name, lambda message: key_of(message) in wanted, len(wanted), seconds):
            assert key_of(message) not in found, f"two pairs of {key_of(message)}"
            found[key_of(message)] = message
        return found

    def tagged(self, tag: str, count: int = 1) -> list[InferencePair]:
        """The pairs whose request has this value of the attribute `tag`: exactly `count`."""
        found = self._await(
            PAIRS.name,
            lambda message: tag_of(message) == tag,
            count,
            SECONDS,
        )
        assert len(found) == count
        return [pair_of(message) for message in found]

    def dead_letters(self, keys: Iterable[str]) -> dict[str, Message]:
        """The one dead letter of each of these keys."""
        wanted = set(keys)
        found = self._await(DEAD_LETTERS.name, lambda message: key_of(message) in wanted, len(wanted), SECONDS)
        assert len(found) == len(wanted)
        return {key_of(message): message for message in found}

    def end_of(self, topic: str) -> int:
        """How many messages the topic has got, all partitions together."""
        return sum(partition.offset for partition in self._ends([topic]))

    def close(self) -> None:
        """End the clients."""
        self._reader.close()
        self._producer.flush(SECONDS)

    def _await(self, topic: str, fits: Any, count: int, seconds: float) -> list[Message]:
        deadline = time.monotonic() + seconds
        found = [message for message in self.seen[topic] if fits(message)]
        quiet_since = time.monotonic()
        while len(found) < count or time.monotonic() - quiet_since < QUIET_SECONDS:
            assert time.monotonic() < deadline, f"{len(found)} messages of {count} on {topic} in {seconds:g} s"
            for message in self._reader.consume(500, 0.05):
                assert message.error() is None, message.error()
                self.seen[message.topic()].append(message)
                if message.topic() == topic and fits(message):
                    found.append(message)
                    quiet_since = time.monotonic()
        return found

    def _ends(self, topics: Iterable[str]) -> list[TopicPartition]:
        counts = kafka.cluster_topics(self.settings)
        every = [TopicPartition(topic, number) for topic in topics for number in range(counts[topic])]
        for partition in every:
            partition.offset = self._end(partition)
        return every

    def _end(self, partition: TopicPartition) -> int:
        """Its end; a topic just created has no leader for a moment."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                end: int = self._reader.get_watermark_offsets(partition, timeout=SECONDS)[1]
                return end
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def key_of(message: Message) -> str:
    """The message's key as text; empty if it has none."""
    return (message.key() or b"").decode(errors="replace")


def tag_of(message: Message) -> str | None:
    """The attribute `tag` of a pair; None where there is none, or the message is another test's and no pair."""
    try:
        return pair_of(message).request.attributes.get("tag")
    except ValidationError:
        return None


def pair_of(message: Message) -> InferencePair:
    """The pair in a message."""
    return InferencePair.model_validate_json(message.value())
