"""Three nodes of Apache Kafka on loopback: every partition on each of them, and a leader that may be killed."""

from pathlib import Path

from confluent_kafka.admin import AdminClient

from runtime.embedded import free_ports
from tests.servers.apache_kafka import HOST, ApacheKafka, Node, new_cluster_id
from tests.servers.proxy import TcpProxy

NODES = 3
REPLICATED = {
    "default.replication.factor": str(NODES),
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": str(NODES),
    "transaction.state.log.replication.factor": str(NODES),
    "transaction.state.log.min.isr": "2",
    "replica.lag.time.max.ms": "5000",
}


class KafkaCluster:
    """Clients reach each node through a proxy of its own (`proxies`); tests go past them by `internal`."""

    def __init__(self, folder: Path, libraries: Path) -> None:
        ports = free_ports(3 * NODES, HOST)
        triples = [(ports[3 * index], ports[3 * index + 1], ports[3 * index + 2]) for index in range(NODES)]
        controllers = {index + 1: triple[2] for index, triple in enumerate(triples)}
        cluster_id = new_cluster_id()
        self.proxies = [TcpProxy(triple[0]) for triple in triples]
        self.nodes = [
            ApacheKafka(
                folder / f"node-{number}",
                libraries,
                properties=REPLICATED,
                node=Node(number, triple, controllers, proxy.port, cluster_id),
            )
            for number, (triple, proxy) in enumerate(zip(triples, self.proxies, strict=True), 1)
        ]

    @property
    def bootstrap(self) -> str:
        """What clients connect to: every node's proxy."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def internal(self) -> str:
        """The nodes themselves."""
        return ",".join(node.internal for node in self.nodes)

    def start(self) -> None:
        """Start all side by side: a node answers when a majority is there."""
        for proxy in self.proxies:
            proxy.start()
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait()

    def kill(self) -> None:
        """End all at once."""
        for node in self.nodes:
            node.kill()
        for proxy in self.proxies:
            proxy.stop()

    def leader(self, topic: str, partition: int = 0) -> ApacheKafka:
        """The node that leads a partition now."""
        metadata = AdminClient({"bootstrap.servers": self.internal}).list_topics(topic, timeout=10)
        return self.nodes[metadata.topics[topic].partitions[partition].leader - 1]
