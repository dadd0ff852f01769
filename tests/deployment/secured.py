"""Apache Kafka as production has it: users, TLS, and for each service the rights of our table and no others."""

from pathlib import Path

from runtime.acls import create_acls
from runtime.kafka import create_topics
from runtime.settings import Settings
from schemas.acls import PRINCIPALS, SETUP
from tests.servers.apache_kafka import HOST, ApacheKafka
from tests.servers.certificates import Authority

PASSWORD = "the-password-of-{name}"
STRANGER = "modelwatch-stranger"
"""Has a password, and no rights."""


class SecuredKafka:
    """A broker with a listener for SCRAM over TLS, and one for certificates.

    Attributes:
        scram, mutual: what clients connect to.
        authority: signed the broker's certificate, and signs those of clients.
    """

    def __init__(self, folder: Path, libraries: Path) -> None:
        self.authority = Authority(folder / "certificates")
        broker = self.authority.issue("broker")
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The broker itself, and tests at its plain listener.
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(broker.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "listener.name.mutual.ssl.client.auth": "required",
        }
        users = [*PRINCIPALS.values(), SETUP, STRANGER]
        scram = [f"SCRAM-SHA-512=[name={name},password={PASSWORD.format(name=name)}]" for name in users]
        arguments = [part for one in scram for part in ("--add-scram", one)]
        self._server = ApacheKafka(folder / "kafka", libraries, "SASL_SSL", properties, arguments)
        self.scram = self._server.bootstrap
        self.mutual = self._server.add_listener("MUTUAL", "SSL")
        self.plain = Settings(kafka_bootstrap_servers=f"{HOST}:{self._server.internal_port}", instance="tests")

    def start(self) -> "SecuredKafka":
        """Start, with topics and everybody's rights."""
        self._server.start()
        create_topics(self.plain)
        for principal in ("User:{name}", "User:CN={name}"):
            create_acls(self.plain, principal)
        return self

    def stop(self) -> None:
        self._server.kill()

    def refusals(self) -> int:
        """Connections that the broker refused so far."""
        log = (self._server.logs / "kafka.log").read_text(errors="replace")
        return log.count("Failed authentication with")

    def user(self, name: str, **changes: str) -> dict[str, str]:
        """The variables of a service that comes with a password."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.scram,
            "MODELWATCH_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "MODELWATCH_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "MODELWATCH_KAFKA_SASL_USERNAME": name,
            "MODELWATCH_KAFKA_SASL_PASSWORD": PASSWORD.format(name=name),
            "MODELWATCH_KAFKA_SSL_CA_LOCATION": str(self.authority.certificate),
        } | changes

    def holder(self, name: str, **changes: str) -> dict[str, str]:
        """The variables of a service that comes with a certificate."""
        own = self.authority.issue(name)
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.mutual,
            "MODELWATCH_KAFKA_SECURITY_PROTOCOL": "SSL",
            "MODELWATCH_KAFKA_SSL_CA_LOCATION": str(self.authority.certificate),
            "MODELWATCH_KAFKA_SSL_CERTIFICATE_LOCATION": str(own.certificate),
            "MODELWATCH_KAFKA_SSL_KEY_LOCATION": str(own.key),
        } | changes
