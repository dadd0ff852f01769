"""The embedded broker with the face that the tests know a broker by."""

import psutil

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

    def freeze(self) -> None:
        """Let the broker do nothing, while its connections stay open and take in what is sent."""
        self._program().suspend()

    def thaw(self) -> None:
        """End `freeze`."""
        self._program().resume()

    def _program(self) -> psutil.Process:
        return next(child for child in psutil.Process().children() if str(self.servers.data_dir) in child.cmdline())
