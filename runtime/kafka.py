"""Kafka clients: one place for security, delivery guarantees and the partitioner."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.errors import ConfigurationError, TransientError
from runtime.logging import get_logger
from runtime.settings import Settings
from runtime.topic_check import check_joined
from schemas.topics import MAX_MESSAGE_BYTES, MIB, topic_configs

log = get_logger(__name__)

T = TypeVar("T")

CREDENTIAL_ERRORS = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
REFUSED_CERTIFICATE = re.compile(r"SSL alert number (4[2-689]|116)\b")
"""How brokers refuse a client's certificate: bad, unsupported, revoked, expired, unknown, of an unknown authority,
without access, missing (RFC 8446, section 6.2). In TLS 1.3 they do so after the handshake, and librdkafka takes it for
a broken connection and tries again at once."""
SETTING_ERRORS = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
}
"""Of creating a topic: the same request is refused again."""
PATIENCE = (0.3, 1.0, math.inf)
"""Seconds for the first request of metadata, the second, and the third."""
CREATION_SETTINGS = (
    "MODELWATCH_KAFKA_REPLICATION_FACTOR (at most the number of brokers) and MODELWATCH_KAFKA_PARTITIONS"
)


def client_config(settings: Settings) -> dict[str, Any]:
    """librdkafka configuration of any client: brokers, security, log level."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": f"modelwatch-{settings.instance}",
        "security.protocol": settings.kafka_security_protocol,
        "log.connection.close": False,
        "reconnect.backoff.max.ms": 2000,
    }
    password, key_password = settings.kafka_sasl_password, settings.kafka_ssl_key_password
    optional = {
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": password.get_secret_value() if password else None,
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
        "ssl.key.password": key_password.get_secret_value() if key_password else None,
    }
    config.update({name: str(value) for name, value in optional.items() if value is not None})
    return config


def producer(settings: Settings, transactional_id: str | None = None, **overrides: Any) -> Producer:
    """An idempotent producer with the partitioner that Java clients and aiokafka use.

    librdkafka's own default differs, and then one id would not be on the same partition of every topic.

    Args:
        transactional_id: makes it transactional; the same id after a restart fences the process before.
    """
    config = client_config(settings) | {
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "batch.size": MIB,
        "message.max.bytes": MAX_MESSAGE_BYTES + MIB,
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": 256 * 1024,
    }
    if transactional_id is not None:
        config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 60_000}
    return _made(Producer, config | overrides)


def consumer(settings: Settings, group: str, static: bool = True, **overrides: Any) -> Consumer:
    """A consumer of committed records that commits nothing by itself.

    Args:
        static: membership by `group.instance.id` (KIP-345): a restart within the session time-out causes no rebalance.
    """
    config = client_config(settings) | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "session.timeout.ms": 30_000,
        "heartbeat.interval.ms": 3_000,
        "queued.max.messages.kbytes": 64 * 1024,
        "fetch.max.bytes": 50 * MIB,
        "fetch.queue.backoff.ms": 10,
        # The embedded broker ignores fetch limits and may answer with a whole backlog; real brokers keep to them.
        "receive.message.max.bytes": 2_000_000_000,
    }
    if static:
        config["group.instance.id"] = f"{group}-{settings.instance}"
    return _made(Consumer, config | overrides)


def admin(settings: Settings, **overrides: Any) -> AdminClient:
    """A client that asks about the cluster, and changes it."""
    return _made(AdminClient, client_config(settings) | overrides)


def _made(client: Callable[[dict[str, Any]], T], config: dict[str, Any]) -> T:
    try:
        return client(config)
    except KafkaException as failure:
        raise ConfigurationError(
            f"no Kafka client can be made of the settings: {failure.args[0].str()}; check the MODELWATCH_KAFKA_SASL_ "
            "settings, and the files that the MODELWATCH_KAFKA_SSL_ settings name"
        ) from failure


def assigned_consumer(settings: Settings, **overrides: Any) -> Consumer:
    """A consumer outside any group, for tools that read a topic from a given offset."""
    return consumer(settings, "modelwatch-tools", static=False, **overrides)


def refused(error: KafkaError) -> bool:
    """Whether the brokers refuse our credentials or rights, or we their certificate: trying again would not help."""
    return error.code() in CREDENTIAL_ERRORS or REFUSED_CERTIFICATE.search(error.str()) is not None


def _wrong_setting(error: KafkaError) -> bool:
    return refused(error) or error.code() in SETTING_ERRORS


def _create(client: AdminClient, topics: list[NewTopic]) -> list[str]:
    created = []
    for name, future in client.create_topics(topics, request_timeout=30).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            message = f"topic {name} could not be created: {error.str()}"
            if _wrong_setting(error):
                raise ConfigurationError(f"{message}; check {CREATION_SETTINGS}") from failure
            raise TransientError(message) from failure
    return created


def create_topics(settings: Settings, timeout: float = 10.0) -> list[str]:
    """Create the topics of `schemas.topics` that do not exist, and return their names.

    Raises:
        TransientError: no broker answered or showed the new topics within `timeout` seconds, or it refused just now.
        ConfigurationError: the brokers refuse our settings, or a joined topic exists with another partition count.
    """
    found = cluster_topics(settings, timeout)
    wanted = list(topic_configs())
    missing = [
        NewTopic(topic.name, settings.kafka_partitions, settings.kafka_replication_factor, config=config)
        for topic, config in wanted
        if topic.name not in found
    ]
    created = _create(admin(settings), missing) if missing else []
    found = _topics_when_known(settings, {topic.name for topic, _ in wanted}, timeout)
    check_joined(found, [topic for topic, _ in wanted])
    return created


def _topics_when_known(settings: Settings, names: set[str], timeout: float) -> dict[str, int]:
    """The cluster's topics, as soon as `names` are among them: brokers learn of a new topic after its creation."""
    deadline = time.monotonic() + timeout
    while unknown := names - (found := cluster_topics(settings, timeout)).keys():
        if time.monotonic() > deadline:
            raise TransientError(
                f"the brokers do not show these topics {timeout:g} s after they were created: {sorted(unknown)}; "
                "try again, and check that this user may describe them"
            )
        time.sleep(0.05)
    return found


class Topics:
    """Asks the cluster for its topics, by one client that is kept.

    librdkafka makes and ends a client while it holds the interpreter's lock, and waits by the time of day meanwhile: a
    process that does so again and again stands still where the clock is set just then.
    """

    def __init__(self, settings: Settings) -> None:
        self._at = settings.kafka_bootstrap_servers
        self._errors: list[KafkaError] = []
        # The request's own error says only that it timed out; why comes by the callback, which `poll` calls.
        self._client = admin(settings, error_cb=self._errors.append, log_level=0)

    def read(self, timeout: float = 10.0) -> dict[str, int]:
        """The cluster's topics, and the number of partitions of each.

        Raises:
            TransientError: no broker answered within `timeout` seconds.
            ConfigurationError: the brokers refuse our credentials, or we their certificate.
        """
        self._client.poll(0)
        self._errors.clear()  # those of the time before
        try:
            metadata = _metadata(self._client, timeout, lambda: any(map(_wrong_setting, self._errors)))
        except KafkaException as failure:
            for error in filter(_wrong_setting, self._errors):
                raise ConfigurationError(
                    f"the brokers at {self._at} and this client do not accept each other: {error.str()}; "
                    "check the MODELWATCH_KAFKA_SECURITY_PROTOCOL, _SASL_ and _SSL_ settings"
                ) from failure
            causes = ", ".join(dict.fromkeys(error.str() for error in [failure.args[0], *self._errors]))
            raise TransientError(
                f"no broker answered at {self._at} within {timeout:g} s ({causes}); "
                "is KAFKA_BOOTSTRAP_SERVERS right and the broker up?"
            ) from failure
        return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def cluster_topics(settings: Settings, timeout: float = 10.0) -> dict[str, int]:
    """The cluster's topics, asked for once; see `Topics.read`."""
    return Topics(settings).read(timeout)


def _metadata(client: AdminClient, timeout: float, hopeless: Callable[[], bool]) -> Any:
    """The cluster's metadata; asked for in pieces of the time, because librdkafka goes on trying until each is over."""
    deadline = time.monotonic() + timeout
    for patience in PATIENCE:
        left = max(0.01, deadline - time.monotonic())
        try:
            return client.list_topics(timeout=min(patience, left))
        except KafkaException:
            client.poll(0)  # for the error callback
            if hopeless() or patience >= left:
                raise
    raise AssertionError  # the last piece is endless


def is_member(settings: Settings, group: str, timeout: float = 5.0) -> bool:
    """Whether the group's coordinator counts this instance, by its static name, among the members of a group.

    Raises:
        TransientError: it cannot say.
    """
    client = admin(settings)  # its futures end with it
    try:
        described = client.describe_consumer_groups([group], request_timeout=timeout)[group].result(2 * timeout)
    except KafkaException as failure:
        raise TransientError(f"group {group} cannot be described: {failure.args[0].str()}") from failure
    return any(member.group_instance_id == f"{group}-{settings.instance}" for member in described.members)


def topic_ids(client: AdminClient, names: Iterable[str], timeout: float = 10.0) -> dict[str, str]:
    """Ids of topics: another one, if a topic was deleted and made anew. Those that have none are left out (KIP-516:
    brokers before 2.8, the embedded broker).

    Raises:
        TransientError: the brokers do not say.
    """
    found = {}
    for name, future in client.describe_topics(TopicCollection(list(names)), request_timeout=timeout).items():
        try:
            described = str(future.result(2 * timeout).topic_id)
        except KafkaException as failure:
            raise TransientError(f"topic {name} cannot be described: {failure.args[0].str()}") from failure
        if described.strip("A="):  # zero, in base64
            found[name] = described
    return found


class DeliveryGuard:
    """Collects delivery failures of a producer: the first is kept and raised at the next `check`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: KafkaError | None = None

    def on_delivery(self, error: KafkaError | None, _message: Any) -> None:
        """Delivery callback to give to `Producer.produce`."""
        if error is not None:
            with self._lock:
                self._failure = self._failure or error

    def check(self) -> None:
        """Raise `TransientError` if any message could not be delivered."""
        if self._failure is not None:
            raise TransientError(f"a message could not be delivered: {self._failure.str()}")


def produce(client: Producer, topic: str, on_delivery: Callable[..., None] | None = None, **message: Any) -> None:
    """Produce, waiting while the local queue is full instead of dropping or failing."""
    while True:
        try:
            client.produce(topic, on_delivery=on_delivery, **message)
            return
        except BufferError:
            client.poll(0.05)
