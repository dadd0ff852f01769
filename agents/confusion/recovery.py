"""Taking a partition over: its fold and the log of its entries, read into the local store where that lags behind."""

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from agents.confusion.entries import Entry, entry_of
from agents.confusion.fold import Fold, decode_fold, encode_fold, latest
from agents.confusion.partition import FOLD, POSITION, Limits, PartitionJoin
from agents.confusion.store import Changes, RocksStore
from runtime import kafka
from runtime.errors import FatalError, TransientError
from runtime.logging import get_logger
from runtime.settings import Settings
from schemas.model_spec import ModelSpec
from schemas.topics import JOIN_FOLDS, JOINS

log = get_logger(__name__)

CALL_SECONDS = 30.0
KEPT_SECONDS = 2.0
QUIET_SECONDS = 60.0
POLL_SECONDS = 0.05
"""A call that takes many messages waits so long although the end is reached."""
BATCH = 2000


class JoinLoader:
    """Opens partitions. Blocks while it reads, so call it off the event loop.

    Args:
        folder: of the stores, one a partition.
    """

    def __init__(self, settings: Settings, specs: Mapping[str, ModelSpec], limits: Limits, folder: Path) -> None:
        self._settings = settings
        self._specs = specs
        self._limits = limits
        self._folder = folder

    def open(self, partition: int) -> tuple[PartitionJoin, RocksStore]:
        """The join of a partition as its last owner left it, claimed.

        The local store is trusted if it has the very fold that holds; otherwise somebody else has owned the partition
        since, or a fold was not published, and all is read from the log.

        Raises:
            TransientError: the brokers do not answer.
            FatalError: the store cannot be opened, or the log has an unreadable entry.
        """
        began = time.monotonic()
        store = RocksStore(self._folder / f"partition-{partition}")
        try:
            fold = latest(self._folds(partition), partition)
            [held, position] = store.get_many([FOLD, POSITION])
            low, high = self._ends(partition)
            start = int(position) if position else low
            local = held == encode_fold(fold) and low <= start <= high
            if not local:
                store.clear()
                start = low
            fold.epoch += 1
            self._claim(fold)
            store.write(Changes({FOLD: encode_fold(fold), POSITION: str(start).encode()}))
            join = PartitionJoin(store, fold, self._specs, self._limits)
            self._replay(join, partition, start, high)
            store.write(Changes({POSITION: str(high).encode()}))
        except KafkaException as error:
            store.close()
            raise TransientError(f"the join's state cannot be read: {error.args[0].str()}") from error
        log.info(
            "partition_opened",
            partition=partition,
            entries=join.entries,
            read=high - start,
            local=local,
            seconds=round(time.monotonic() - began, 2),
        )
        return join, store

    def log_end(self, partition: int) -> int:
        """Offset behind the last message of the log."""
        return self._ends(partition)[1]

    def _ends(self, partition: int) -> tuple[int, int]:
        log = TopicPartition(JOINS.name, partition)
        try:
            low, high = self._reader.get_watermark_offsets(log, timeout=KEPT_SECONDS)
        except KafkaException:
            self._reader.close()
            del self._reader  # it may have asked the partition's former leader
            low, high = self._reader.get_watermark_offsets(log, timeout=CALL_SECONDS)
        return low, high

    @cached_property
    def _reader(self) -> Consumer:
        """Asks for the log's ends. It is kept, because that is done every few seconds."""
        return kafka.assigned_consumer(self._settings)

    def _folds(self, partition: int) -> list[Fold]:
        values = (message.value() for message in self._read(JOIN_FOLDS.name, partition, OFFSET_BEGINNING))
        return [decode_fold(value) for value in values if value]

    def _claim(self, fold: Fold) -> None:
        client, guard = kafka.producer(self._settings), kafka.DeliveryGuard()
        key = fold_key(fold, self._settings)
        kafka.produce(
            client, JOIN_FOLDS.name, guard.on_delivery, value=encode_fold(fold), key=key, partition=fold.partition
        )
        if client.flush(CALL_SECONDS):
            raise TransientError(f"no broker took the claim of partition {fold.partition} in {CALL_SECONDS:g} s")
        guard.check()

    def _replay(self, join: PartitionJoin, partition: int, start: int, end: int) -> None:
        inputs: list[tuple[str, Entry]] = []
        if start >= end:
            return
        for message in self._read(JOINS.name, partition, start):
            value = message.value()
            if value is None:
                join.apply(inputs, replay=True)
                inputs = []
                join.forget(message.key().decode())
                continue
            try:
                document = orjson.loads(value)
                inputs.append((document["request_id"], entry_of(document)))
            except (ValueError, KeyError, TypeError) as error:
                raise FatalError(
                    f"{JOINS.name}, partition {partition}, offset {message.offset()} holds no entry: {error!r}"
                ) from error
            if len(inputs) >= BATCH:
                join.apply(inputs, replay=True)
                inputs = []
        join.apply(inputs, replay=True)

    def _read(self, topic: str, partition: int, start: int) -> Iterator[Any]:
        """Messages from `start` to the end of the partition."""
        reader = kafka.assigned_consumer(self._settings, **{"enable.partition.eof": True})
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
            raise TransientError(f"{topic}, partition {partition}, could not be read to its end")
        finally:
            reader.close()


def fold_key(fold: Fold, settings: Settings) -> str:
    """With the instance, so that what a former owner writes does not take the place of what holds."""
    return f"{fold.partition}/{settings.instance}"
