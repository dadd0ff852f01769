"""`up` brings the servers that the environment does not name, and asks nothing of those that it does."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import stack
from cli.main import app
from cli.stack import Ports, named_server, running_stack
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


@pytest.mark.parametrize("command", ["up", "top"])
@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_there_is_not_is_refused_by_its_option(command: str, port: str) -> None:
    options = ("kafka", "elasticsearch", "worker", "agents") if command == "up" else ("worker", "agents")
    for option in options:
        done = CliRunner().invoke(app, [command, f"--{option}-port", port])
        assert done.exit_code == 2 and f"'--{option}-port': Input should be" in done.output


def test_a_service_beyond_the_last_port_is_refused_with_the_option() -> None:
    services = stack._services(Ports(worker=0, agents=65535), 1, ("outliers", "drift"), {})
    with pytest.raises(ConfigurationError, match=r"port 65536 would be needed.*--agents-port"):
        list(services)


def start(data: Path) -> None:
    with running_stack(Ports(0, 0, 0, 0), data, 1, lambda *_: None):
        raise AssertionError("it was started")


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/file/x cannot be made: Not a directory"):
        start(tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MODELWATCH_DEFAULT_MODEL", "nosuch", "there are only cifar10-resnet32"),
        ("MODELWATCH_MODELS", "/dev/null", "no model in"),
        ("MODELWATCH_PIPELINE_DEPTH", "many", "MODELWATCH_PIPELINE_DEPTH"),
    ],
)
def test_a_wrong_model_or_setting_of_any_service_ends_up_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    monkeypatch.setattr(Servers, "start", lambda _self: pytest.fail("servers were started"))
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=said):
        start(tmp_path / "data")
