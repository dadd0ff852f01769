"""The embedded broker and record store: two real servers in one child process, for trying out and for tests.

The program comes with the optional extra `local`. It keeps everything in memory, and writes all of it to its data
folder every few seconds in which something changed, and when it ends.
"""

import contextlib
import ctypes
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runtime.errors import ConfigurationError, FatalError
from runtime.logging import get_logger

log = get_logger(__name__)

LOG_FILE = "embedded.log"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
"""Saving takes about 5 s for each 100 MB of messages."""
POLL_SECONDS = 0.05
PORTS = range(10_240, 32_768)
"""Below the ports that Linux gives to outgoing connections: a client that keeps trying a port of its own machine
from among those may end up connected to itself, and then no server can bind it again."""
SAVE_FILES = ("kafka.tmp", "elasticsearch.tmp")
"""In the data folder: what the program writes its data to before it renames the file."""
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when the thread that started it ends."""


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Distinct TCP ports that nothing on this machine listens on now."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind((host, random.choice(PORTS)))  # noqa: S311 - no secret
                ports.append(listener.getsockname()[1])
        return ports


def _require_free(host: str, port: int) -> None:
    with socket.socket() as listener:
        # As servers do: connections of a server that has just ended do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise FatalError(
                f"port {port} of {host} is taken ({error.strerror}), so the embedded servers cannot start there; "
                "stop what listens on it or choose another port"
            ) from error


def dying_with_parent(sent: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` by which a child gets a signal when the thread that started it ends, however; None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(sent))

    return ask


def program() -> Path:
    """The embedded servers' program.

    The program itself and not its Python wrapper, which passes no signal on.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = importlib.util.find_spec("noida_db")
    path = Path(found.origin).with_name("noida-db") if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigurationError(
            "the embedded broker and store (Python package noida-db) are not installed; install the extra `local` "
            "(pip install 'modelwatch[local]'), or name real servers in KAFKA_BOOTSTRAP_SERVERS and ELASTICSEARCH_URL"
        )
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return path


def command(data_dir: Path, kafka_port: int, elasticsearch_port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line that runs both servers in the foreground until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: the program is not installed.
    """
    ports = ["--kafka-port", str(kafka_port), "--elasticsearch-port", str(elasticsearch_port), "--host", host]
    return [str(program()), "start", "--only", "kafka,elasticsearch", "--data-dir", str(data_dir), *ports]


def _store_answers(host: str, port: int, timeout: float) -> bool:
    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _broker_answers(host: str, port: int, timeout: float) -> bool:
    try:
        # Knocking first: librdkafka would log every refused connection.
        socket.create_connection((host, port), timeout).close()
        metadata = AdminClient({"bootstrap.servers": f"{host}:{port}"}).list_topics(timeout=timeout)
    except (OSError, KafkaException):
        return False
    return bool(metadata.brokers)


def ready(kafka_port: int, elasticsearch_port: int, host: str = "127.0.0.1", timeout: float = 2.0) -> bool:
    """Whether the broker answers a metadata request and the store a request for its version, each within `timeout`."""
    return _store_answers(host, elasticsearch_port, timeout) and _broker_answers(host, kafka_port, timeout)


class EmbeddedServers:
    """A broker and a record store in a child process, and the gate before the broker; they end with this process.

    Start it from a thread that lives as long as the servers shall, best the main one: Linux ends the child with the
    thread that started it.

    Args:
        data_dir: made if missing; holds the data of an earlier run, and the log.
        kafka_port: 0: any free one; kept over `stop` and `start`.
        elasticsearch_port: likewise.
        keep: save the data. Under load that takes a whole core, and the more the more there is: each time it is
            written anew, all of it.
    """

    def __init__(
        self,
        data_dir: Path,
        kafka_port: int = 0,
        elasticsearch_port: int = 0,
        host: str = "127.0.0.1",
        keep: bool = True,
    ) -> None:
        kafka_free, elasticsearch_free, self._broker_port = free_ports(3, host)
        self._keep = keep
        self.data_dir = data_dir
        self.host = host
        self.kafka_port = kafka_port or kafka_free
        self.elasticsearch_port = elasticsearch_port or elasticsearch_free
        self._child: subprocess.Popen[bytes] | None = None
        self._gate: subprocess.Popen[bytes] | None = None

    @property
    def kafka(self) -> str:
        """The broker, `host:port`."""
        return f"{self.host}:{self.kafka_port}"

    @property
    def elasticsearch(self) -> str:
        """The record store's URL."""
        return f"http://{self.host}:{self.elasticsearch_port}"

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start both, and return when they answer.

        Raises:
            ConfigurationError: the program is not installed.
            FatalError: a port is taken, or the program ended or did not answer within `timeout` seconds.
        """
        if self._child is not None:
            raise FatalError(f"the embedded servers at {self.kafka} are already started; stop them first")
        for port in (self.kafka_port, self.elasticsearch_port):
            # The program itself would run on without the service, and another server might answer in its place.
            _require_free(self.host, port)
        arguments = command(self.data_dir, self._broker_port, self.elasticsearch_port, self.host)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._prepare_saving()
        self._child = self._run(arguments)
        gate = [sys.executable, "-m", "runtime.embedded_gate", self.host, self.kafka_port, self._broker_port]
        self._gate = self._run([str(argument) for argument in gate])
        self._wait_until_ready(self._child, time.monotonic() + timeout)
        log.info("embedded servers started", kafka=self.kafka, elasticsearch=self.elasticsearch)

    def _prepare_saving(self) -> None:
        """Unless data is to be kept, put a pipe that nobody reads where the program saves.

        There is no option against saving. Its thread for that opens the pipe, holding nothing that others need, and
        waits for a reader for ever.
        """
        for name in SAVE_FILES:
            path = self.data_dir / name
            path.unlink(missing_ok=True)
            if not self._keep and hasattr(os, "mkfifo"):
                os.mkfifo(path)

    def _run(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.data_dir / LOG_FILE).open("ab") as output:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal must not stop the servers before the processes that still write to them.
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGTERM if self._keep else signal.SIGKILL),
            )

    def _wait_until_ready(self, child: subprocess.Popen[bytes], deadline: float) -> None:
        while child.poll() is None and time.monotonic() < deadline:
            if ready(self.kafka_port, self.elasticsearch_port, self.host):
                return
            time.sleep(POLL_SECONDS)
        status = child.poll()
        self.kill()
        happened = "did not answer in time" if status is None else f"ended with status {status}"
        raise FatalError(
            f"the embedded servers at {self.kafka} and {self.elasticsearch} {happened}; "
            f"see their log, {self.data_dir / LOG_FILE}"
        )

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End the servers. They save their data first, if it is to be kept and takes no more than `timeout` seconds."""
        if self._child is None or not self._keep:
            self.kill()
            return
        self._child.terminate()
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            log.error("embedded servers killed while saving; their data is lost", data_dir=str(self.data_dir))
        self.kill()

    def kill(self) -> None:
        """End the servers at once. What they have not saved is lost."""
        for child in (self._gate, self._child):
            if child is not None:
                child.kill()
                child.wait()
        self._gate = self._child = None

    def __enter__(self) -> "EmbeddedServers":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
