"""Faust behind one door: an app that reads committed records only and commits nothing but what an agent calls safe.

Stock Faust 0.15.3 loses records in each of the ways named below. Every piece has a test that fails on stock Faust
(`tests/contract/test_faust_app.py`), so that an upgrade tells which of them may go.
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import faust
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from runtime.byte_room import ByteRoom, size_of
from runtime.errors import CONFIGURATION_EXIT, ConfigurationError
from runtime.logging import get_logger
from runtime.settings import Settings

log = get_logger(__name__)

NEVER = 86_400.0
SESSION_SECONDS = 30.0
HEARTBEAT_SECONDS = 3.0
REQUEST_SECONDS = 90.0
REBALANCE_SECONDS = 60.0
COMMIT_SECONDS = 1.0
METADATA_MS = 10_000
FETCH_BYTES = 2 << 20
"""Of one partition. Images are some kilobytes; one message larger than this is fetched alone."""
ROOM_SECONDS = 0.05
"""Between two looks for room, while the messages in hand are too large for more."""


class CommittedConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads committed records only. Faust does that under `exactly_once` alone, which loses records in other ways."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # handed to the fetcher when the consumer starts
        return consumer

    def ends(self, tp: TP) -> tuple[int | None, int | None]:
        """Offset of the next message to hand over, markers passed, and end of the partition; None while unknown."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(TopicPartition(tp.topic, tp.partition)) if assignment is not None else None
        if state is None:
            return None, None
        return state.position if state.has_valid_position else None, state.highwater

    def is_member(self) -> bool:
        """Whether the group's coordinator knows us."""
        coordinator = self._ensure_consumer()._coordinator
        return bool(coordinator.member_id) and coordinator.generation >= 0


class EpochListener(driver.ConsumerRebalanceListener):
    """Numbers assignments by itself: a broker's generations begin again with a new group and then look like old."""

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """A new assignment, also where it holds the same partitions: all is read again from the committed offsets."""
        app = self._thread.app
        app.consumer_generation_id += 1
        assigned = {TP(tp.topic, tp.partition) for tp in assigned}
        await self._thread.on_partitions_assigned(assigned, app.consumer_generation_id)


class ExplicitConsumer(driver.Consumer):
    """Commits, for each partition, the one offset up to which the agent said that results are safe.

    Faust infers it from the acknowledgements of single messages and the gaps between offsets, and is wrong after a
    transaction's marker (`_add_gap` takes the message behind the gap for acknowledged), when messages are acknowledged
    out of order, and when a partition without a commit is not begun at its first message. None of it is used here.
    """

    RebalanceListener = EpochListener
    app: Any
    _thread: CommittedConsumerThread

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._safe: dict[TP, int] = {}
        self._confirmed: dict[TP, int] = {}
        self._handed: dict[TP, int] = {}
        self._began: dict[TP, int] = {}
        self._chained_under = -1

    def _new_consumer_thread(self) -> CommittedConsumerThread:
        return CommittedConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def mark_safe(self, tp: TP, offset: int, generation: int) -> None:
        """Results of everything before `offset` are safe. Ignored if it was read under an earlier assignment."""
        if generation == self.app.consumer_generation_id and offset > self._safe.get(tp, 0):
            self._safe[tp] = offset

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """What was fetched, unless a rebalance came between: then all begins again at the committed offsets.

        Faust takes what a fetch brings for the present assignment's, although it may have been fetched under the one
        before, or half of it be dropped; and it notes what it dropped as read. Either would leave a hole.
        """
        generation = self.app.consumer_generation_id
        async for tp, message in super().getmany(timeout):
            if self.app.consumer_generation_id != generation:
                break
            self._chain(tp, message)
            if (room := self.app.rooms.get(tp.topic)) is not None:
                room.take(size_of(message), generation)
            yield tp, message
        if self.app.consumer_generation_id != generation and self.assignment():
            await self._begin_again()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        """Fetch nothing of streams whose messages in hand are too large for more; Faust counts messages only."""
        rooms = self.app.rooms
        asked = active_partitions or set()
        open_ones = {tp for tp in asked if tp.topic not in rooms or not rooms[tp.topic].is_full}
        if len(open_ones) < len(asked):
            timeout = ROOM_SECONDS
        if asked and not open_ones:
            await self.sleep(ROOM_SECONDS)
            return {}
        return await super()._getmany(open_ones, timeout)

    def _chain(self, tp: TP, message: Any) -> None:
        """Tell each message which one was before it, so that a hole shows (`runtime.batches`); None at a beginning."""
        if self._chained_under != self.app.consumer_generation_id:
            self._chained_under, self._handed = self.app.consumer_generation_id, {}
        message.previous_offset = self._handed.get(tp)
        if message.previous_offset is None:
            self._began[tp] = message.offset
        self._handed[tp] = message.offset

    async def _begin_again(self) -> None:
        """Seek to the committed offsets, and to the beginning where there is none, where Faust would stay."""
        self._handed = {}
        try:
            await self.perform_seek()
            for tp in self.assignment():
                if self._read_offset[tp] is None:
                    await self._thread.seek_to_beginning(TopicPartition(tp.topic, tp.partition))
        except (AssertionError, IllegalStateError):
            return  # aiokafka: the partitions are being taken away; the next assignment begins at the committed offsets

    def is_member(self) -> bool:
        """Whether the group's coordinator knows us."""
        return self._thread.is_member()

    def uncommitted(self) -> dict[TP, int]:
        """By partition, the committed offset that the brokers have confirmed where a higher one is safe."""
        return {tp: self._confirmed.get(tp, 0) for tp, offset in self._safe.items() if self._should_commit(tp, offset)}

    def lag(self, tp: TP, processed: int | None) -> int | None:
        """Messages not processed yet; None while the partition's end or our place in it is unknown.

        A transaction's marker at the end is no message, and so never processed; the fetch position is behind it.

        Args:
            processed: the offset behind the last message processed under this assignment; None: none was.
        """
        position, end = self._thread.ends(tp)
        handed = self._handed.get(tp)
        if handed is None or (processed is not None and processed > handed):
            place = position  # whatever was handed over is processed
        else:
            place = self._began[tp] if processed is None else processed
        return None if end is None or place is None else max(0, end - place)

    def highwater(self, tp: TP) -> int:
        """End of the partition, 0 while unknown. Faust's asserts, and crashes when a rebalance comes between."""
        return self._thread.ends(tp)[1] or 0

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust's check asserts in the same way, and counts an offset held back on purpose as a livelock."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        return

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter([tp for tp in self._safe if topics is None or tp in topics or tp.topic in topics])

    def _new_offset(self, tp: TP) -> int | None:
        return self._safe.get(tp)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        # Faust's own record of what is committed moves even when the commit has failed.
        return offset > self._confirmed.get(tp, 0)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        done = await super()._commit(offsets)
        if done:
            self._confirmed.update(offsets)
        return done

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        for tp in revoked:
            self._safe.pop(tp, None)
            self._confirmed.pop(tp, None)
        await super().on_partitions_revoked(revoked)


class HardenedTransport(driver.Transport):
    """Faust's Kafka transport with our consumer in it."""

    Consumer = ExplicitConsumer


class HardenedApp(faust.App):
    """A Faust app that ends the process when any of its services crashes: Faust's own way out may hang."""

    on_fatal: Callable[[BaseException], None]
    rooms: dict[str, ByteRoom]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_fatal = end_process
        self.rooms = {}

    def _create_directories(self) -> None:
        """None: an agent keeps nothing on disk."""

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.on_fatal(reason)


def end_process(reason: BaseException) -> None:
    """Log why, and end at once without cleaning up: what is not committed is read again by the next process."""
    log.error("stopped_by_error", error=f"{type(reason).__name__}: {reason}", exc_info=reason)
    os._exit(CONFIGURATION_EXIT if isinstance(reason, ConfigurationError) else 1)


def create_app(settings: Settings, group: str, buffer_size: int, session_seconds: float = SESSION_SECONDS) -> Any:
    """The Faust app of an agent.

    Args:
        group: consumer group, and the app's id.
        buffer_size: messages that may wait between fetching and the agent, for each topic.
        session_seconds: an instance silent for this long loses its partitions to the others.
    """
    app = HardenedApp(
        group,
        broker=[f"kafka://{one.strip()}" for one in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        broker_client_id=f"modelwatch-{settings.instance}",
        # A static member is back at once after a restart, which causes no rebalance.
        consumer_group_instance_id=f"{group}-{settings.instance}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        processing_guarantee="at_least_once",
        # Once this is exceeded, aiokafka leaves the group and never comes back; its clock also runs while a slow record
        # store holds fetching up.
        broker_max_poll_interval=NEVER,
        # aiokafka asks a partition's former leader where to begin until it looks again who leads: 5 min by default.
        consumer_metadata_max_age_ms=METADATA_MS,
        broker_session_timeout=session_seconds,
        broker_heartbeat_interval=min(HEARTBEAT_SECONDS, session_seconds / 3),
        broker_request_timeout=REQUEST_SECONDS,
        broker_rebalance_timeout=REBALANCE_SECONDS,
        broker_commit_interval=COMMIT_SECONDS,
        stream_buffer_maxsize=buffer_size,
        # Waiting for acknowledgements in a rebalance or at the end may last for ever, and is needed by none of ours.
        stream_wait_empty=False,
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        store="memory://",
        logging_config=None,
        loghandlers=[],
    )
    app.transport = HardenedTransport(app.conf.broker_consumer, app, loop=app.loop)
    return app


def raw_topic(app: Any, names: Iterable[str]) -> Any:
    """Topics as keys and values of bytes: decoding is cheaper a batch at a time, off the event loop."""
    return app.topic(*names, key_type=bytes, value_type=bytes, value_serializer="raw", key_serializer="raw")


def _credentials(settings: Settings) -> Any:
    """Faust's form of the security settings, None for plain text."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = _ssl_context(settings) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return SSLCredentials(context)
    password = settings.kafka_sasl_password  # the settings are whole: their class sees to that
    return SASLCredentials(
        username=settings.kafka_sasl_username,
        password=password.get_secret_value() if password else None,
        ssl_context=context,
        mechanism=settings.kafka_sasl_mechanism,
    )


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=str(settings.kafka_ssl_ca_location) if settings.kafka_ssl_ca_location else None
        )
        if settings.kafka_ssl_certificate_location:
            key_password = settings.kafka_ssl_key_password
            context.load_cert_chain(
                str(settings.kafka_ssl_certificate_location),
                str(settings.kafka_ssl_key_location) if settings.kafka_ssl_key_location else None,
                key_password.get_secret_value() if key_password else None,
            )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the certificate files cannot be read: {error}; check the MODELWATCH_KAFKA_SSL_ settings"
        ) from error
    return context
