"""What this project needs of a broker, checked against each one."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from runtime import kafka
from runtime.embedded import free_ports
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings
from schemas.topics import DEAD_LETTERS, MIB, PAIRS, REQUESTS, TOPICS, topic_configs
from tests.conftest import Broker, TopicFactory
from tests.servers.apache_kafka import ApacheKafka

DEADLINE = 30.0
KEYS = [f"request-{number}".encode() for number in range(200)] + [b"a", "Größe".encode(), b"\xff\x00\x80", b"x" * 257]


def murmur2(data: bytes) -> int:
    """MurmurHash2 as Kafka's Java client has it: 32 bits, seed 0x9747b28c (org.apache.kafka.common.utils.Utils)."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    state = 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        state = state * factor & mask ^ word
    if whole < len(data):
        state = (state ^ int.from_bytes(data[whole:], "little")) * factor & mask
    state = (state ^ state >> 13) * factor & mask
    return state ^ state >> 15


def java_partition(key: bytes, partitions: int) -> int:
    """Where Java's default partitioner puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def send(settings: Settings, topic: str, values: list[bytes], **message: Any) -> None:
    client = kafka.producer(settings)
    guard = kafka.DeliveryGuard()
    for value in values:
        kafka.produce(client, topic, on_delivery=guard.on_delivery, value=value, **message)
    assert client.flush(DEADLINE) == 0
    guard.check()


def read(settings: Settings, topic: str, at_least: int = 0, **overrides: Any) -> list[Message]:
    """All messages of a topic: read to the end of every partition, and on until there are `at_least` so many.

    A transaction may become visible a moment after its commit returned, hence the number.
    """
    reader = kafka.assigned_consumer(settings, **{"enable.partition.eof": True} | overrides)
    partitions = kafka.cluster_topics(settings)[topic]
    reader.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    deadline = time.monotonic() + DEADLINE
    found: list[Message] = []
    ended: set[int] = set()
    while len(ended) < partitions or len(found) < at_least:
        assert time.monotonic() < deadline, f"{len(found)} messages of {at_least}, {ended} of {partitions} partitions"
        for message in reader.consume(500, 0.1):
            if message.error() is None:
                found.append(message)
                ended.discard(message.partition())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    reader.close()
    return found


def committed(settings: Settings, group: str, topic: str, partitions: int = 1) -> int:
    """Sum of the group's committed offsets; a partition without one counts nothing."""
    reader = kafka.consumer(settings, group, static=False)
    offsets = reader.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=DEADLINE)
    reader.close()
    return sum(max(0, one.offset) for one in offsets)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, unique: str) -> dict[str, str]:
    """The table of topics under names of this test alone, because the broker is shared; by the real names."""
    renamed = {topic.name: f"{unique}.{topic.name}" for topic in TOPICS}
    entries = [(replace(topic, name=renamed[topic.name]), config) for topic, config in topic_configs()]
    monkeypatch.setattr(kafka, "topic_configs", lambda: iter(entries))
    return renamed


def test_setup_creates_every_topic_once_with_its_partitions_and_limits(
    kafka_settings: Settings, table: dict[str, str]
) -> None:
    assert sorted(kafka.create_topics(kafka_settings)) == sorted(table.values())
    assert kafka.create_topics(kafka_settings) == []
    found = kafka.cluster_topics(kafka_settings)
    assert {found[name] for name in table.values()} == {kafka_settings.kafka_partitions}
    admin = AdminClient(kafka.client_config(kafka_settings))
    resource = ConfigResource(ResourceType.TOPIC, table[PAIRS.name])
    config = admin.describe_configs([resource])[resource].result(DEADLINE)
    assert config["max.message.bytes"].value == str(PAIRS.max_message_bytes)
    assert config["retention.ms"].value == str(PAIRS.retention_ms)


def test_setup_names_joined_topics_whose_partition_counts_differ(
    kafka_settings: Settings, table: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = list(kafka.topic_configs())
    monkeypatch.setattr(kafka, "topic_configs", lambda: iter(everything[1:]))
    kafka.create_topics(kafka_settings)
    monkeypatch.setattr(kafka, "topic_configs", lambda: iter(everything))
    with pytest.raises(ConfigurationError) as caught:
        kafka.create_topics(kafka_settings.model_copy(update={"kafka_partitions": 3}))
    assert f"'{table[REQUESTS.name]}': 3" in str(caught.value)
    assert f"'{table[PAIRS.name]}': 4" in str(caught.value)


@pytest.mark.real_kafka
def test_a_replication_factor_that_the_cluster_cannot_have_is_a_wrong_setting(
    apache_kafka: Broker, unique: str, table: dict[str, str]
) -> None:
    settings = Settings(
        kafka_bootstrap_servers=apache_kafka.bootstrap, instance=f"test-{unique}", kafka_replication_factor=3
    )
    with pytest.raises(ConfigurationError, match="MODELWATCH_KAFKA_REPLICATION_FACTOR"):
        kafka.create_topics(settings)


def test_a_key_lands_on_the_partition_where_java_would_put_it(kafka_settings: Settings, topic: TopicFactory) -> None:
    name = topic(partitions=7)
    client = kafka.producer(kafka_settings)
    for key in KEYS:
        client.produce(name, b"value", key)
    assert client.flush(DEADLINE) == 0
    landed = {message.key(): message.partition() for message in read(kafka_settings, name, len(KEYS))}
    assert landed == {key: java_partition(key, 7) for key in KEYS}


def test_the_reference_hash_gives_the_values_of_kafkas_own_tests() -> None:
    signed = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    assert {key: murmur2(key) - (1 << 32) for key in signed} == signed


def test_each_message_is_stored_once_and_in_order(kafka_settings: Settings, topic: TopicFactory) -> None:
    name = topic(partitions=1)
    values = [str(number).encode() for number in range(2000)]
    send(kafka_settings, name, values)
    assert [message.value() for message in read(kafka_settings, name, len(values))] == values


def test_headers_come_back_in_order_with_repeats_and_empty_values(
    kafka_settings: Settings, topic: TopicFactory
) -> None:
    name = topic(partitions=1)
    headers = [("content-type", b"image/png"), ("a", b"\x00\xff"), ("a", b""), ("nothing", None), ("Größe", b"1")]
    send(kafka_settings, name, [b"value"], headers=headers, key=b"id")
    (message,) = read(kafka_settings, name, 1)
    assert message.headers() == headers


@pytest.mark.parametrize("target", [REQUESTS.name, DEAD_LETTERS.name])
def test_a_message_of_20_mib_goes_through_unchanged(
    kafka_settings: Settings, table: dict[str, str], target: str
) -> None:
    kafka.create_topics(kafka_settings)
    value = bytes(range(256)) * (20 * MIB // 256)
    send(kafka_settings, table[target], [value, b"next"], key=b"id")
    assert [message.value() for message in read(kafka_settings, table[target], 2)] == [value, b"next"]


@pytest.mark.real_kafka
def test_wrong_credentials_are_a_wrong_setting_and_right_ones_are_let_in(
    apache_libraries: Path, tmp_path: Path, unique: str
) -> None:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_worker='right';"
    properties = {"sasl.enabled.mechanisms": "PLAIN", "listener.name.client.plain.sasl.jaas.config": login}
    server = ApacheKafka(tmp_path / "kafka", apache_libraries, "SASL_PLAINTEXT", properties)
    common = {
        "kafka_bootstrap_servers": server.bootstrap,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "worker",
    }
    server.start()
    try:
        assert kafka.cluster_topics(Settings(**common, kafka_sasl_password="right")) == {}
        with pytest.raises(ConfigurationError, match="do not accept each other") as caught:
            kafka.cluster_topics(Settings(**common, kafka_sasl_password="wrong-one"), timeout=3)
        assert "wrong-one" not in str(caught.value)
    finally:
        server.stop()


@pytest.mark.real_kafka
def test_a_message_over_the_topics_limit_is_a_reported_failure(apache_kafka: Broker, unique: str) -> None:
    settings = Settings(kafka_bootstrap_servers=apache_kafka.bootstrap, instance=f"test-{unique}")
    admin = AdminClient(kafka.client_config(settings))
    new = kafka.NewTopic(f"test.{unique}", 1, 1, config={"max.message.bytes": "1000000"})
    admin.create_topics([new])[new.topic].result(DEADLINE)
    with pytest.raises(TransientError, match="could not be delivered"):
        send(settings, new.topic, [b"x" * 2_000_000])


def test_a_committed_transaction_is_read_and_an_aborted_one_is_not(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    name = topic(partitions=2)
    client = kafka.producer(kafka_settings, transactional_id=unique)
    client.init_transactions(DEADLINE)
    for value, end in ((b"aborted", client.abort_transaction), (b"committed", client.commit_transaction)):
        client.begin_transaction()
        for partition in (0, 1):
            client.produce(name, value, partition=partition)
        # So that the aborted messages are in the log, and not only dropped from the client's queue.
        assert client.flush(DEADLINE) == 0
        end(DEADLINE)
    assert [message.value() for message in read(kafka_settings, name, 2)] == [b"committed"] * 2
    dirty = read(kafka_settings, name, 4, **{"isolation.level": "read_uncommitted"})
    assert sorted(message.value() for message in dirty) == [b"aborted"] * 2 + [b"committed"] * 2


COPY = """
import os, signal, sys
from confluent_kafka import TopicPartition
from runtime import kafka
from runtime.settings import Settings

bootstrap, instance, source, output, end = sys.argv[1:]
settings = Settings(kafka_bootstrap_servers=bootstrap, instance=instance)
reader = kafka.consumer(settings, instance)
reader.subscribe([source])
messages = []
while len(messages) < 10:
    messages += reader.consume(10 - len(messages), 1.0)
writer = kafka.producer(settings, transactional_id=instance)
writer.init_transactions(30)
writer.begin_transaction()
for message in messages:
    writer.produce(output, message.value())
assert writer.flush(30) == 0
writer.send_offsets_to_transaction([TopicPartition(source, 0, 10)], reader.consumer_group_metadata(), 30)
if end == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
writer.commit_transaction(30)
reader.close()
"""
"""A process that copies ten messages in one transaction with the group's offset, or dies just before the commit."""


def copy(settings: Settings, source: str, output: str, end: str) -> int:
    arguments = [settings.kafka_bootstrap_servers, settings.instance, source, output, end]
    return subprocess.run([sys.executable, "-c", COPY, *arguments], timeout=60).returncode


def test_a_groups_offset_moves_with_the_output_or_not_at_all(kafka_settings: Settings, topic: TopicFactory) -> None:
    source, output = topic(partitions=1), topic(partitions=1)
    values = [str(number).encode() for number in range(10)]
    send(kafka_settings, source, values)
    assert copy(kafka_settings, source, output, "crash") == -signal.SIGKILL
    # The next process of that transactional id ends what the dead one left open.
    kafka.producer(kafka_settings, transactional_id=kafka_settings.instance).init_transactions(DEADLINE)
    assert read(kafka_settings, output) == []
    assert committed(kafka_settings, kafka_settings.instance, source) == 0
    assert copy(kafka_settings, source, output, "commit") == 0
    assert [message.value() for message in read(kafka_settings, output, 10)] == values
    assert committed(kafka_settings, kafka_settings.instance, source) == 10


class Member:
    """A static member of a group that writes down what it is given and what is taken from it."""

    def __init__(self, settings: Settings, group: str, topic: str, instance: str) -> None:
        self.events: list[tuple[str, list[int]]] = []
        self.client: Consumer = kafka.consumer(settings.model_copy(update={"instance": instance}), group)
        self.client.subscribe([topic], on_assign=self._note("given"), on_revoke=self._note("taken"))

    def _note(self, event: str) -> Any:
        return lambda _client, parts: self.events.append((event, sorted(part.partition for part in parts)))

    def owned(self) -> list[int]:
        return sorted(part.partition for part in self.client.assignment())


def poll_until(members: list[Member], settled: Any, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not settled():
        assert time.monotonic() < deadline, [member.events for member in members]
        for member in members:
            member.client.poll(0.1)


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Closed at the end of the test."""
    started: list[Member] = []
    yield started
    for member in started:
        member.client.close()


def test_a_static_member_that_restarts_keeps_its_partitions_and_disturbs_no_one(
    kafka_settings: Settings, topic: TopicFactory, unique: str, members: list[Member]
) -> None:
    name = topic(partitions=4)
    one, two = (Member(kafka_settings, unique, name, instance) for instance in ("one", "two"))
    members += [one, two]
    poll_until(members, lambda: len(one.owned()) == 2 and len(two.owned()) == 2)
    before, events = one.owned(), list(two.events)
    one.client.close()
    members[0] = again = Member(kafka_settings, unique, name, "one")
    poll_until(members, lambda: again.owned() != [])
    # A rebalance would reach the other member with its next heartbeat, which is every three seconds.
    quiet_until = time.monotonic() + 4
    poll_until(members, lambda: time.monotonic() > quiet_until)
    assert again.owned() == before
    assert two.events == events


def test_a_second_producer_of_a_transactional_id_fences_the_first(
    kafka_settings: Settings, topic: TopicFactory, unique: str
) -> None:
    name = topic(partitions=1)
    first = kafka.producer(kafka_settings, transactional_id=unique)
    first.init_transactions(DEADLINE)
    first.begin_transaction()
    first.produce(name, b"from the first")
    assert first.flush(DEADLINE) == 0
    second = kafka.producer(kafka_settings, transactional_id=unique)
    second.init_transactions(DEADLINE)
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(DEADLINE)
    assert caught.value.args[0].code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)
    assert read(kafka_settings, name) == []


def test_a_broker_that_is_away_is_said_quickly_with_the_remedy(unique: str) -> None:
    settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}", instance=f"test-{unique}")
    started = time.monotonic()
    with pytest.raises(TransientError, match="KAFKA_BOOTSTRAP_SERVERS"):
        kafka.cluster_topics(settings, timeout=1.0)
    assert time.monotonic() - started < 5
    started = time.monotonic()
    with pytest.raises(TransientError, match="KAFKA_BOOTSTRAP_SERVERS"):
        kafka.create_topics(settings, timeout=1.0)
    assert time.monotonic() - started < 5
