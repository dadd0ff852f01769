"""Taking a partition over: its fold and the log of its entries, read into the local store where that lags behind."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from agents.confusion.entries import Entry, PairHalf, entry_of
from agents.confusion.fold import Fold, bring_back, claimed, decode_fold, encode_fold, fold_key, latest
from agents.confusion.ownership import Claim, claim_message, is_claim
from agents.confusion.partition import FOLD, POSITION, Limits, PartitionJoin
from agents.confusion.store import Changes, RocksStore
from runtime import kafka
from runtime.errors import TransientError
from runtime.logging import get_logger
from runtime.results import Outgoing
from runtime.settings import Settings
from schemas.messages import JoinEntry
from schemas.model_spec import ModelSpec
from schemas.topics import FEEDBACK, JOIN_FOLDS, JOINS, PAIRS

log = get_logger(__name__)

CALL_SECONDS = 30.0
KEPT_SECONDS = 2.0
QUIET_SECONDS = 60.0
POLL_SECONDS = 0.05
"""A call that takes many messages waits so long although the end is reached."""
BATCH = 2000


@dataclass(frozen=True, slots=True)
class Opened:
    """A partition, taken over.

    Attributes:
        left: answers that left the state by that, because the topics were made anew. Their records must hold their
            truth before the fold is published.
    """

    join: PartitionJoin
    store: RocksStore
    claim: Claim
    left: list[tuple[str, PairHalf]] = field(default_factory=list)


class JoinLoader:
    """Opens partitions. Blocks while it reads, so call it off the event loop.

    Args:
        folder: of the stores, one a partition.
        on_unreadable: gets the topic of each message that is none of ours.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Mapping[str, ModelSpec],
        limits: Limits,
        folder: Path,
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._specs = specs
        self._limits = limits
        self._folder = folder
        self._on_unreadable = on_unreadable

    def open(self, partition: int) -> Opened:
        """The join of a partition as its last owner left it, claimed.

        The claim comes first: what others had written before it is read, and what they write after it does not count
        (`agents.confusion.ownership`). The local store is trusted if it has the very fold that holds; otherwise
        somebody else has owned the partition since, or a fold was not published, and all is read from the log.

        Raises:
            TransientError: the brokers do not answer.
            FatalError: the store cannot be opened.
        """
        began = time.monotonic()
        store = RocksStore(self._folder / f"partition-{partition}")
        try:
            claim = Claim(offset := self._claim(partition), offset + 1)
            found = self._folds(partition)
            fold = latest(found.values(), partition)
            [held, position] = store.get_many([FOLD, POSITION])
            low, high = self._ends(partition)
            start = int(position) if position else low
            local = held == encode_fold(fold) and low <= start <= high
            if not local:
                store.clear()
                start = low
            self.look(partition, claim)
            fold = claimed(fold, claim.offset, not claim.lost)
            ids, anew = self._topics(partition, fold)
            if not fold.topic_ids and not anew:
                fold.topic_ids = ids
            bring_back(fold, time.time(), self._limits.window_seconds)
            self._publish(fold, found)
            store.write(Changes({FOLD: encode_fold(fold), POSITION: str(start).encode()}))
            join = PartitionJoin(store, fold, self._specs, self._limits)
            self._replay(join, partition, start, high)
            store.write(Changes({POSITION: str(high).encode()}))
            left = join.begin_anew(ids, time.time()) if anew else []
        except KafkaException as error:
            store.close()
            raise TransientError(f"the join's state cannot be read: {error.args[0].str()}") from error
        log.info(
            "partition_opened",
            partition=partition,
            epoch=fold.epoch,
            entries=join.entries,
            read=high - start,
            local=local,
            seconds=round(time.monotonic() - began, 2),
        )
        return Opened(join, store, claim, left)

    def is_anew(self, fold: Fold) -> bool:
        """Whether the topics of pairs and feedback are not those any more that a partition's marks are about.

        Raises:
            TransientError: the brokers do not answer.
        """
        return self._topics(fold.partition, fold)[1]

    def _topics(self, partition: int, fold: Fold) -> tuple[dict[str, str], bool]:
        """Ids of the topics of pairs and feedback, as far as there are any; and whether they are other topics now."""
        ids, end = kafka.topic_ids(self._admin, (PAIRS.name, FEEDBACK.name)), self._ends(partition, PAIRS.name)[1]
        anew = fold.is_of_other_topics(ids, end)
        if anew:
            log.warning(
                "topics_made_anew", partition=partition, marks=fold.marks, end=end, ids=ids, were=fold.topic_ids
            )
        return ids, anew

    @cached_property
    def _admin(self) -> AdminClient:
        """Asks for the topics' ids."""
        return kafka.admin(self._settings)

    def look(self, partition: int, claim: Claim) -> None:
        """Read what has come to the log since, for the claim of another.

        Raises:
            TransientError: the brokers do not answer.
        """
        try:
            end = self._ends(partition)[1]
            if end <= claim.checked:
                return
            between = self._read(JOINS.name, partition, claim.checked, end)
            found = next((message for message in between if is_claim(message.value())), None)
        except KafkaException as error:
            raise TransientError(f"the join's log cannot be read: {error.args[0].str()}") from error
        if found is not None and not claim.lost:
            log.warning(
                "outbid",
                partition=partition,
                claim=claim.offset,
                other=found.offset(),
                instance=orjson.loads(found.value())["claim"],
            )
        claim.looked(end, found is not None)

    def _ends(self, partition: int, topic: str = JOINS.name) -> tuple[int, int]:
        place = TopicPartition(topic, partition)
        try:
            low, high = self._reader.get_watermark_offsets(place, timeout=KEPT_SECONDS)
        except KafkaException:
            self._reader.close()
            del self._reader  # it may have asked the partition's former leader
            low, high = self._reader.get_watermark_offsets(place, timeout=CALL_SECONDS)
        return low, high

    @cached_property
    def _reader(self) -> Consumer:
        """Reads, and asks for the log's ends. It is kept, because that is done every second."""
        return kafka.assigned_consumer(self._settings, **{"enable.partition.eof": True, "fetch.wait.max.ms": 10})

    @cached_property
    def _writer(self) -> Producer:
        """Writes what opens a partition."""
        return kafka.producer(self._settings)

    def _folds(self, partition: int) -> dict[bytes, Fold]:
        """Every fold that the topic holds, by key, each key's last one."""
        found: dict[bytes, Fold] = {}
        for message in self._read(JOIN_FOLDS.name, partition, OFFSET_BEGINNING):
            if not message.value():
                found.pop(message.key(), None)
                continue
            try:
                fold = decode_fold(message.value())
            except ValueError as error:
                self._pass_over(message, error)
                continue
            if fold.partition == partition:
                found[message.key() or b""] = fold
        return found

    def _pass_over(self, message: Any, error: Exception) -> None:
        """A message that is none of ours: better a hole, counted and said, than an agent that ends at each start."""
        self._on_unreadable(message.topic())
        log.error(
            "unreadable_state",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            error=str(error)[:300],
        )

    def _claim(self, partition: int) -> int:
        """Offset of our claim in the log."""
        instance = self._settings.instance
        [offset] = self._write([Outgoing(JOINS.name, instance, claim_message(instance), [], partition)])
        if offset < 0:
            raise TransientError(f"the broker did not say where the claim of partition {partition} stands")
        return offset

    def _publish(self, fold: Fold, found: Mapping[bytes, Fold]) -> None:
        """The fold under our epoch, before anything is done under it; then those of former owners go."""
        former = [key for key, one in found.items() if one.epoch < fold.epoch]
        self._write([Outgoing(JOIN_FOLDS.name, fold_key(fold), encode_fold(fold), [], fold.partition)])
        self._write([Outgoing(JOIN_FOLDS.name, key, None, [], fold.partition) for key in former])

    def _write(self, messages: Sequence[Outgoing]) -> list[int]:
        """Offsets of the messages, once the brokers hold them."""
        guard, offsets = kafka.DeliveryGuard(), list[int]()

        def delivered(error: KafkaError | None, message: Any) -> None:
            guard.on_delivery(error, message)
            offsets.append(message.offset())

        for one in messages:
            kafka.produce(self._writer, one.topic, delivered, value=one.value, key=one.key, partition=one.partition)
        if self._writer.flush(CALL_SECONDS):
            raise TransientError(f"no broker took what opens a partition of the join in {CALL_SECONDS:g} s")
        guard.check()
        return offsets

    def _replay(self, join: PartitionJoin, partition: int, start: int, end: int) -> None:
        inputs: list[tuple[str, Entry]] = []
        if start >= end:
            return
        for message in self._read(JOINS.name, partition, start, end):
            if is_claim(message.value()):
                continue
            try:
                request_id, entry = read_entry(message.key(), message.value())
            except (ValueError, KeyError, TypeError) as error:
                self._pass_over(message, error)
                continue
            if entry is not None:
                inputs.append((request_id, entry))
            if entry is None or len(inputs) >= BATCH:
                join.apply(inputs, replay=True)
                inputs = []
            if entry is None:
                join.forget(request_id)
        join.apply(inputs, replay=True)

    def _read(self, topic: str, partition: int, start: int, end: int | None = None) -> Iterator[Any]:
        """Messages from `start` to the end of the partition, or to `end`."""
        reader = self._reader
        try:
            reader.assign([TopicPartition(topic, partition, start)])
            deadline = time.monotonic() + QUIET_SECONDS
            while time.monotonic() < deadline:
                for message in reader.consume(BATCH, POLL_SECONDS):
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        return
                    if error is None:
                        deadline = time.monotonic() + QUIET_SECONDS
                        yield message
                        if end is not None and message.offset() + 1 >= end:
                            return
            raise TransientError(f"{topic}, partition {partition}, could not be read to its end")
        finally:
            reader.unassign()


def read_entry(key: bytes | None, value: bytes | None) -> tuple[str, Entry | None]:
    """A request's id and its entry in a message of the log; no entry, if nothing is known any more.

    Raises:
        ValueError, KeyError, TypeError: the message is none of ours.
    """
    if value is None:
        if not key:
            raise ValueError("neither key nor value")
        return key.decode(), None
    document = orjson.loads(value)
    JoinEntry.model_validate(document)
    return document["request_id"], entry_of(document)
