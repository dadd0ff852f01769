"""Kafka clients, without a broker: what configuration they get, and what becomes of what cannot be delivered."""

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from runtime import kafka
from runtime.errors import ConfigurationError, TransientError
from runtime.settings import Settings, read_settings

MOCK_CLUSTER = {"bootstrap.servers": "", "test.mock.num.brokers": 1}
"""librdkafka's own broker, inside the client."""


def test_security_settings_reach_the_client_and_unset_ones_do_not() -> None:
    secure = Settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="worker",
        kafka_sasl_password="secret",
        kafka_ssl_ca_location=Path("/certificates/ca.pem"),
        kafka_ssl_key_password="other secret",
    )
    expected = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "worker",
        "sasl.password": "secret",
        "ssl.ca.location": "/certificates/ca.pem",
        "ssl.key.password": "other secret",
    }
    config = kafka.client_config(secure)
    assert {name: value for name, value in config.items() if name.startswith(("sasl", "ssl", "security"))} == expected
    plain = kafka.client_config(Settings())
    assert [name for name in plain if name.startswith(("sasl", "ssl"))] == []


def test_every_setting_of_the_clients_is_one_that_librdkafka_knows() -> None:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")
    kafka.producer(settings, log_level=0)
    kafka.producer(settings, transactional_id="one", log_level=0)
    kafka.consumer(settings, "group", log_level=0).close()
    kafka.assigned_consumer(settings, log_level=0).close()


def test_an_undelivered_message_is_raised_at_the_next_check() -> None:
    settings, guard = Settings(kafka_bootstrap_servers="127.0.0.1:1"), kafka.DeliveryGuard()
    client = kafka.producer(settings, **{"message.timeout.ms": 100, "linger.ms": 0, "log_level": 0})
    guard.check()
    kafka.produce(client, "topic", on_delivery=guard.on_delivery, value=b"value")
    assert client.flush(10) == 0
    with pytest.raises(TransientError, match="could not be delivered"):
        guard.check()


def test_a_full_queue_is_waited_for_and_nothing_is_dropped() -> None:
    client, guard, delivered = Producer(MOCK_CLUSTER | {"queue.buffering.max.messages": 10}), kafka.DeliveryGuard(), []

    def on_delivery(error: object, message: object) -> None:
        guard.on_delivery(error, message)
        delivered.append(message)

    for number in range(500):
        kafka.produce(client, "topic", on_delivery=on_delivery, value=str(number).encode())
    assert client.flush(10) == 0
    guard.check()
    assert len(delivered) == 500


def test_joined_topics_of_different_sizes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {topic.name: 4 for topic, _ in kafka.topic_configs()} | {"inference.feedback": 8}
    monkeypatch.setattr(kafka, "cluster_topics", lambda *_: sizes)
    with pytest.raises(ConfigurationError, match=r"inference\.requests has 4 partitions; expected 8"):
        kafka.create_topics(Settings())


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        (KafkaError._TRANSPORT, "Receive failed: ssl/tls alert bad certificate: SSL alert number 42", True),
        (KafkaError._TRANSPORT, "Receive failed: tlsv13 alert certificate required: SSL alert number 116", True),
        (KafkaError._TRANSPORT, "Receive failed: tlsv1 alert internal error: SSL alert number 80", False),
        (KafkaError._TRANSPORT, "Disconnected (after 42ms in state UP)", False),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "", True),
        (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down", False),
    ],
)
def test_a_refused_certificate_is_told_from_a_broken_connection(code: int, text: str, refused: bool) -> None:
    assert kafka.refused(KafkaError(code, text)) is refused


@pytest.mark.parametrize("changes", [{"kafka_ssl_ca_location": "no.pem"}, {"kafka_ssl_key_location": "no.key"}])
def test_a_certificate_file_that_is_not_there_is_a_wrong_setting(changes: dict[str, str], tmp_path: Path) -> None:
    paths = {name: tmp_path / value for name, value in changes.items()}
    settings = Settings(kafka_security_protocol="SSL", **paths)
    for make in (kafka.admin, kafka.producer, lambda one: kafka.consumer(one, "group")):
        with pytest.raises(ConfigurationError, match="MODELWATCH_KAFKA_SSL_"):
            make(settings)


def test_sasl_without_its_user_is_named_and_no_secret_is() -> None:
    with pytest.raises(ConfigurationError, match="needs MODELWATCH_KAFKA_SASL_USERNAME as well") as error:
        read_settings(
            Settings,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_password="hush-hush",
        )
    assert "hush" not in str(error.value) and "Value error" not in str(error.value)


def test_why_no_broker_answered_is_one_line_of_a_bounded_length() -> None:
    """Of sixty brokers, each with its reason again and again, it was kilobytes."""
    brokers = ",".join(f"127.0.0.1:{port}" for port in range(1, 60))
    with pytest.raises(
        TransientError, match=r"no broker answered at .*and \d+ more.*KAFKA_BOOTSTRAP_SERVERS"
    ) as caught:
        kafka.cluster_topics(Settings(kafka_bootstrap_servers=brokers), timeout=1.5)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200
