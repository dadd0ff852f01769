"""`up` brings the servers that the environment does not name, and asks nothing of those that it does."""

import socket
from pathlib import Path

import pytest

from cli import stack
from cli.stack import Ports, named_server
from runtime.errors import ConfigurationError

NAMES = ("KAFKA_BOOTSTRAP_SERVERS", "ELASTICSEARCH_URL")


class Servers:
    """In the place of the embedded ones: notes where they were told to listen."""

    def __init__(self, _data: Path, kafka_port: int, elasticsearch_port: int, keep: bool) -> None:
        self.ports = kafka_port, elasticsearch_port
        self.kafka, self.elasticsearch = "embedded:1", "http://embedded:2"

    def start(self) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"MODELWATCH_{name}", raising=False)
    monkeypatch.setattr(stack, "EmbeddedServers", Servers)


@pytest.fixture
def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("prefix", ["", "MODELWATCH_"])
@pytest.mark.parametrize("name", NAMES)
def test_the_port_of_a_server_that_is_named_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, taken: socket.socket, name: str, prefix: str
) -> None:
    monkeypatch.setenv(prefix + name, "theirs:9")
    port = taken.getsockname()[1]
    ports = Ports(kafka=port, elasticsearch=0) if name.startswith("KAFKA") else Ports(kafka=0, elasticsearch=port)
    servers = stack._embedded_servers(ports, Path("nowhere"), keep=False)
    assert isinstance(servers, Servers) and servers.ports == (0, 0)
    variables = stack._variables(servers)  # type: ignore[arg-type]
    assert variables == dict(zip(NAMES, ("embedded:1", "http://embedded:2"), strict=True)) | {name: "theirs:9"}
    taken.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_port_of_a_server_that_is_brought_is_demanded_with_the_remedies(taken: socket.socket, name: str) -> None:
    port = taken.getsockname()[1]
    ports = Ports(kafka=port, elasticsearch=0) if name.startswith("KAFKA") else Ports(kafka=0, elasticsearch=port)
    with pytest.raises(ConfigurationError, match=rf"port {port} is taken.*or set {name} to use the server"):
        stack._embedded_servers(ports, Path("nowhere"), keep=False)
    taken.close()


def test_nothing_is_brought_when_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(f"MODELWATCH_{name}", f"{name}:1")
    assert stack._embedded_servers(Ports(), Path("nowhere"), keep=False) is None
    assert stack._variables(None) == {name: f"{name}:1" for name in NAMES}
    monkeypatch.setenv(NAMES[0], "short:1")
    assert named_server(NAMES[0]) == "short:1"
