"""Apache Kafka on this machine: nodes in KRaft mode that are broker and controller, started in seconds."""

import base64
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runtime.embedded import free_ports
from schemas.topics import MAX_MESSAGE_BYTES, MIB
from tests.servers.server_process import START_SECONDS, ServerProcess

HOST = "127.0.0.1"
JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
"""A small heap and the quick compiler only: a test's broker lives for minutes."""

LOGGING = """status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{{1}} %m%n
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


def new_cluster_id() -> str:
    """As the storage tool's `random-uuid` makes them."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


@dataclass(frozen=True)
class Node:
    """A node's place in its cluster.

    Attributes:
        number: its id.
        ports: of its listeners CLIENT, INTERNAL and CONTROLLER.
        controllers: controller port of every node of the cluster, by id.
        advertised: port by which clients reach the listener CLIENT, if another, e.g. a proxy's.
    """

    number: int
    ports: tuple[int, int, int]
    controllers: Mapping[int, int]
    advertised: int | None = None
    cluster_id: str = field(default_factory=new_cluster_id)

    @classmethod
    def alone(cls) -> "Node":
        """The only one."""
        client, internal, controller = free_ports(3, HOST)
        return cls(1, (client, internal, controller), {1: controller})


class ApacheKafka(ServerProcess):
    """A broker that can be stopped, killed and started again on its data and its ports.

    Clients use the listener CLIENT. The broker's own traffic and the readiness check use listeners of their own, so
    that `security_protocol`, `properties` and `format_arguments` can put TLS or SASL on CLIENT alone: say
    `security_protocol="SASL_PLAINTEXT"` with `listener.name.client.scram-sha-256.sasl.jaas.config`, and
    `--add-scram` among the format's arguments.

    Args:
        folder: for configuration, data and logs; its own.
        libraries: the folder of jars, see `kafka_libraries`.
        security_protocol: of the listener CLIENT.
        properties: broker properties on top of, or instead of, ours.
        format_arguments: further arguments of the storage tool's `format`.
        node: its place in a cluster; alone by default.
        jvm: options of Java.
    """

    name = "apache"
    title = "Apache Kafka"

    def __init__(
        self,
        folder: Path,
        libraries: Path,
        security_protocol: str = "PLAINTEXT",
        properties: Mapping[str, str] | None = None,
        format_arguments: Sequence[str] = (),
        node: Node | None = None,
        jvm: Sequence[str] = JVM,
    ) -> None:
        super().__init__(folder)
        self._jvm = jvm
        self.node = node or Node.alone()
        self._client_port, self.internal_port, self.controller_port = self.node.ports
        self.port = self.node.advertised or self._client_port
        self._libraries = libraries
        self._security_protocol = security_protocol
        self._properties = dict(properties or {})
        self._format_arguments = list(format_arguments)
        self._ours = self._defaults()

    @property
    def bootstrap(self) -> str:
        """What clients connect to, `host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def internal(self) -> str:
        """A way in of its own for tests, past whatever is before the listener CLIENT."""
        return f"{HOST}:{self.internal_port}"

    def add_listener(self, name: str, security_protocol: str) -> str:
        """Listen at one more place, from the next start on; returns what clients connect to there."""
        place = f"{HOST}:{free_ports(1, HOST)[0]}"
        for listeners in ("listeners", "advertised.listeners"):
            self._ours[listeners] += f",{name}://{place}"
        self._ours["listener.security.protocol.map"] += f",{name}:{security_protocol}"
        return place

    def replace_properties(self, properties: Mapping[str, str]) -> None:
        """Start with these broker properties and none of ours; their listeners must be at our three ports."""
        self._properties = dict(properties)
        self._ours = {}

    @property
    def _configuration(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, main: str, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile=file:{self.folder / 'log4j2.properties'}"
        return ["java", *self._jvm, "-cp", f"{self._libraries}/*", logging, main, *arguments]

    def _command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self._configuration))

    def _prepare(self) -> None:
        self.logs.mkdir(parents=True)
        (self.folder / "log4j2.properties").write_text(LOGGING.format(file=self.logs / "kafka.log"))
        lines = [f"{name}={value}\n" for name, value in (self._ours | self._properties).items()]
        self._configuration.write_text("".join(lines))
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={self.node.cluster_id}"]
        tool.append(f"--config={self._configuration}")
        done = subprocess.run(
            self._java(*tool, *self._format_arguments), capture_output=True, text=True, timeout=START_SECONDS
        )
        if done.returncode != 0:
            raise RuntimeError(f"Apache Kafka's storage could not be formatted: {done.stdout}{done.stderr}")

    def _defaults(self) -> dict[str, str]:
        protocols = f"CLIENT:{self._security_protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
        internal = f"INTERNAL://{self.internal}"
        voters = [f"{number}@{HOST}:{port}" for number, port in self.node.controllers.items()]
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node.number),
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"CLIENT://{HOST}:{self._client_port},{internal},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"CLIENT://{self.bootstrap},{internal}",
            "listener.security.protocol.map": protocols,
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # A broker started again after a crash waits until its former self is given up.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # Each topic sets its own max.message.bytes; these must only not be in its way.
            "socket.request.max.bytes": str(4 * MAX_MESSAGE_BYTES),
            "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES + 2 * MIB),
        }

    def _answers(self) -> bool:
        try:
            for port in (self._client_port, self.internal_port):
                socket.create_connection((HOST, port), 1).close()
            metadata = AdminClient({"bootstrap.servers": self.internal}).list_topics(timeout=2)
        except (OSError, KafkaException):
            return False
        return self.node.number in metadata.brokers
