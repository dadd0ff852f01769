"""Transactions, and what a crash, a lost answer or a restart may not do, checked against each broker."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from runtime import kafka
from runtime.settings import Settings
from tests.conftest import Broker, TopicFactory
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import DEADLINE, committed, read, send


def test_a_message_whose_acknowledgement_got_lost_is_stored_once(
    broker: Broker, kafka_settings: Settings, topic: TopicFactory
) -> None:
    name = topic(partitions=1)
    client, guard = kafka.producer(kafka_settings, **{"socket.timeout.ms": 500}), kafka.DeliveryGuard()
    kafka.produce(client, name, on_delivery=guard.on_delivery, value=b"before")
    assert client.flush(DEADLINE) == 0
    broker.freeze()
    try:
        # The frozen broker's machine takes the message; the client gives up on the answer, and sends it again.
        kafka.produce(client, name, on_delivery=guard.on_delivery, value=b"retried")
        client.flush(2)
        assert len(client) == 1
    finally:
        broker.thaw()
    assert client.flush(DEADLINE) == 0
    guard.check()
    assert [message.value() for message in read(kafka_settings, name, 2)] == [b"before", b"retried"]


@pytest.mark.real_kafka
def test_a_broker_that_crashes_under_a_producer_loses_nothing_and_keeps_the_order(
    apache_libraries: Path, tmp_path: Path, unique: str
) -> None:
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    server.start()
    try:
        settings = Settings(kafka_bootstrap_servers=server.bootstrap, instance=f"test-{unique}")
        admin = AdminClient(kafka.client_config(settings))
        admin.create_topics([NewTopic("crash", 1, 1)])["crash"].result(DEADLINE)
        client, guard = kafka.producer(settings), kafka.DeliveryGuard()
        values = [str(number).encode() for number in range(20_000)]
        for number, value in enumerate(values):
            kafka.produce(client, "crash", on_delivery=guard.on_delivery, value=value)
            client.poll(0)
            if number == len(values) // 2:
                server.kill()
        server.start()
        assert client.flush(DEADLINE) == 0
        guard.check()
        assert [message.value() for message in read(settings, "crash", len(values))] == values
    finally:
        server.stop()


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
