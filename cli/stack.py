"""What `up` and `demo` run: servers (embedded unless the environment names others) and our services."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from cli.settings_documents import SECTIONS
from cli.supervisor import Service, Supervisor
from cli.targets import write_targets
from runtime.embedded import EmbeddedServers, free_ports
from runtime.errors import ConfigurationError, TransientError
from runtime.kafka import create_topics
from runtime.model_folder import default_model, load_model_folders
from runtime.record_indices import setup_record_store
from runtime.settings import Settings, read_settings

READY_SECONDS = 180.0
MAX_PORT = 65535
KAFKA, STORE = "KAFKA_BOOTSTRAP_SERVERS", "ELASTICSEARCH_URL"
PORT_OPTIONS = {KAFKA: "--kafka-port", STORE: "--elasticsearch-port"}
AGENTS = ("outliers", "drift", "confusion", "explanations")
"""Of `python -m agents.<name>`."""


@dataclass(frozen=True)
class Stack:
    """A running pipeline.

    Attributes:
        environment: variables that any further process or client needs to use it.
        urls: what to look at, by name.
    """

    settings: Settings
    supervisor: Supervisor
    environment: dict[str, str]
    urls: dict[str, str]


@dataclass(frozen=True)
class Ports:
    """Where to listen; 0 takes any free port."""

    kafka: int = 9092
    elasticsearch: int = 9200
    worker: int = 8080
    agents: int = 8090


def named_server(variable: str) -> str:
    """The address that the environment gives in a variable, or in the one with our prefix; empty if in neither."""
    return os.environ.get(variable) or os.environ.get(f"MODELWATCH_{variable}") or ""


def port_is_free(port: int) -> bool:
    """Whether `port` of the loopback address can be bound."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def running_stack(
    ports: Ports,
    data: Path,
    workers: int,
    write: Callable[[str, str], None],
    stopping: threading.Event | None = None,
    environment: dict[str, str] | None = None,
    keep_data: bool = False,
    agents: Sequence[str] = AGENTS,
) -> Iterator[Stack]:
    """Start servers, topics and services; yield when all are ready; stop all in the right order at the end.

    Args:
        write: takes the lines of each service's log.
        environment: further variables for the services.
        data: folder of the embedded servers' files and of `targets.json`, which says where the services are.
        agents: which to run.
        keep_data: let the embedded servers save their data, which takes seconds for each 100 MB.

    Raises:
        ConfigurationError: a setting or a model is wrong, a port is taken, the data folder cannot be made, or the
            embedded servers are not installed.
        FatalError: a service did not become ready.
        TransientError: the brokers named by the environment do not answer.
    """
    _check_configuration()  # a wrong one ends this before anything is started
    _make(data)
    embedded = _embedded_servers(ports, data, keep_data)
    try:
        variables = _variables(embedded) | (environment or {})
        settings = read_settings(Settings, **_overrides(variables))
        _create_topics(settings)
        _set_record_store_up(settings)
        services = list(_services(ports, workers, agents, variables))
        urls = {service.name: service.url for service in services}
        write_targets(data, urls)
        supervisor = Supervisor(services, write)
        try:
            supervisor.start()
            supervisor.wait_ready(READY_SECONDS, stopping)
            yield Stack(settings, supervisor, variables, urls)
        finally:
            supervisor.stop()
    finally:
        if embedded is not None:
            embedded.stop()


def _check_configuration() -> None:
    """What any of the services would end for, as far as it can be told without loading a model."""
    for _, settings_class in SECTIONS:
        read_settings(settings_class)
    settings = read_settings(Settings)
    default_model(settings.default_model, load_model_folders(settings.models))


def _make(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {data} cannot be made: {error.strerror}; give another one") from error


def _embedded_servers(ports: Ports, data: Path, keep: bool) -> EmbeddedServers | None:
    """The program runs both; of the one that the environment names another for, nobody asks where it listens."""
    wanted = {
        name: 0 if named_server(name) else port for name, port in ((KAFKA, ports.kafka), (STORE, ports.elasticsearch))
    }
    if all(map(named_server, wanted)):
        return None
    for name, port in wanted.items():
        if port and not port_is_free(port):
            raise ConfigurationError(
                f"port {port} is taken; stop what uses it, give another with {PORT_OPTIONS[name]} (0: any free one), "
                f"or set {name} to use the server that runs there"
            )
    servers = EmbeddedServers(data, kafka_port=wanted[KAFKA], elasticsearch_port=wanted[STORE], keep=keep)
    servers.start()
    return servers


def _variables(embedded: EmbeddedServers | None) -> dict[str, str]:
    """Where the servers are: the environment wins over the embedded ones, each by itself."""
    brought = {} if embedded is None else {KAFKA: embedded.kafka, STORE: embedded.elasticsearch}
    return {name: named_server(name) or brought[name] for name in (KAFKA, STORE)}


def _overrides(variables: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("MODELWATCH_").lower(): value for name, value in variables.items()}


def _services(ports: Ports, workers: int, agents: Sequence[str], variables: dict[str, str]) -> Iterator[Service]:
    urls = []
    for index in range(workers):
        port = _port(ports.worker, index, "--worker-port")
        environment = variables | {
            "MODELWATCH_INSTANCE": f"worker-{index}",
            "MODELWATCH_PORT": str(port),
            "MODELWATCH_HOST": "127.0.0.1",
        }
        urls.append(f"http://127.0.0.1:{port}")
        yield Service(f"worker-{index}", ["-m", "inference"], urls[-1], environment)
    asked = {"MODELWATCH_WORKER_URL": ",".join(urls)} if urls else {}
    for index, name in enumerate(agents):
        port = _port(ports.agents, index, "--agents-port")
        own = {"MODELWATCH_INSTANCE": f"{name}-0", "MODELWATCH_PORT": str(port), "MODELWATCH_HOST": "127.0.0.1"}
        environment = asked | variables | own
        yield Service(name, ["-m", f"agents.{name}"], f"http://127.0.0.1:{port}", environment)


def _port(first: int, index: int, option: str) -> int:
    """The port of the service with this index, the first of which has `first`; 0: any."""
    if not first:
        return free_ports(1)[0]
    port = first + index
    if port > MAX_PORT:
        raise ConfigurationError(f"port {port} would be needed, and {MAX_PORT} is the last; give a lower {option}")
    if not port_is_free(port):
        raise ConfigurationError(f"port {port} is taken; stop what uses it or give another with {option}")
    return port


@retry(retry=retry_if_exception_type(TransientError), stop=stop_after_delay(30), wait=wait_fixed(0.5), reraise=True)
def _create_topics(settings: Settings) -> None:
    create_topics(settings)


@retry(retry=retry_if_exception_type(TransientError), stop=stop_after_delay(30), wait=wait_fixed(0.5), reraise=True)
def _set_record_store_up(settings: Settings) -> None:
    asyncio.run(setup_record_store(settings))
