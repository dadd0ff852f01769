"""What this project needs of a broker, checked against each one."""

import time
from dataclasses import replace

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from inference import positions
from runtime import kafka
from runtime.broker_features import forgets_offsets_early, offset_retention_minutes
from runtime.embedded import free_ports
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings
from schemas.topics import DEAD_LETTERS, MIB, PAIRS, REQUESTS, TOPICS, topic_configs
from tests.conftest import Broker, TopicFactory
from tests.servers.messages import DEADLINE, read, send

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
    assert f"topic {table[REQUESTS.name]} has 3 partitions; expected 4" in str(caught.value)


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
def test_a_message_over_the_topics_limit_is_a_reported_failure(apache_kafka: Broker, unique: str) -> None:
    settings = Settings(kafka_bootstrap_servers=apache_kafka.bootstrap, instance=f"test-{unique}")
    admin = AdminClient(kafka.client_config(settings))
    new = NewTopic(f"test.{unique}", 1, 1, config={"max.message.bytes": "1000000"})
    admin.create_topics([new])[new.topic].result(DEADLINE)
    with pytest.raises(TransientError, match="could not be delivered"):
        send(settings, new.topic, [b"x" * 2_000_000])


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


@pytest.mark.real_kafka
def test_a_topic_that_is_made_anew_under_its_old_name_has_another_id(apache_kafka: Broker, unique: str) -> None:
    settings = Settings(kafka_bootstrap_servers=apache_kafka.bootstrap)
    admin, deadline = kafka.admin(settings), time.monotonic() + DEADLINE

    def id_of(other: str = "") -> str:
        """Once it is known that it is another one: brokers hear of creations and deletions a moment later."""
        while True:
            try:
                found = kafka.topic_ids(admin, [unique])[unique]
            except TransientError:
                found = other
            if found != other:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.1)

    admin.create_topics([NewTopic(unique, 1, 1)])[unique].result(30)
    first = id_of()
    admin.delete_topics([unique])[unique].result(30)
    while True:
        try:
            admin.create_topics([NewTopic(unique, 1, 1)])[unique].result(30)
            break
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    second = id_of(first)
    assert kafka.topic_ids(admin, [unique]) == {unique: second}


def test_the_brokers_say_how_long_they_remember_offsets_or_nothing(broker: Broker, kafka_settings: Settings) -> None:
    assert offset_retention_minutes(kafka_settings) == (10_080 if broker.name == "apache" else None)
    assert [forgets_offsets_early(minutes) for minutes in (10_080, 10_079)] == [False, True]


def test_a_topic_that_is_made_anew_is_another_one_where_topics_have_ids(
    broker: Broker, kafka_settings: Settings, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in (topic(), topic()):
        monkeypatch.setattr(positions, "REQUESTS", replace(REQUESTS, name=name))
        found.append(positions.Positions(kafka_settings, "group")._identity(DEADLINE))
    if broker.name == "apache":
        assert found[0][0] == found[1][0] != ""
        assert found[0][1] != found[1][1]
    else:
        assert [topic for _, topic in found] == ["", ""]
