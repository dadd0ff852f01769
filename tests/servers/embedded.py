"""The embedded broker with the face that the tests know a broker by."""

from runtime.embedded import EmbeddedServers


class EmbeddedBroker:
    """The broker half of `EmbeddedServers`, with the attributes of `ApacheKafka`."""

    name = "embedded"

    def __init__(self, servers: EmbeddedServers) -> None:
        self.servers = servers

    @property
    def bootstrap(self) -> str:
        """What clients connect to, `host:port`."""
        return self.servers.kafka

    def start(self) -> None:
        """Start on the data that `stop` saved."""
        self.servers.start()

    def stop(self) -> None:
        """Save the data and end."""
        self.servers.stop()

    def kill(self) -> None:
        """End at once; the data since `start` is lost, other than a real broker's."""
        self.servers.kill()
