"""kibana/import.sh against a server that answers as Kibana is documented to; Kibana itself is not here."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KIBANA = Path(__file__).resolve().parents[3] / "kibana"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Server(ThreadingHTTPServer):
    """Says that it is not ready a few times, then takes imports."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.unready = 1
        self.answer = b'{"successCount":1,"success":true}'
        self.posted: list[tuple[str, dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.unready -= 1
        self._reply(503 if self.server.unready >= 0 else 200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posted.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self._reply(200, self.server.answer)

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def import_into(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KIBANA_URL": url, **variables}
    return subprocess.run([str(KIBANA / "import.sh")], capture_output=True, text=True, timeout=30, env=environment)


def test_all_objects_are_imported_once_kibana_is_ready(server: Server) -> None:
    done = import_into(f"http://127.0.0.1:{server.server_port}", KIBANA_API_KEY="a-key")
    assert done.returncode == 0, done.stderr
    [(path, headers, body)] = server.posted
    assert path == "/api/saved_objects/_import?overwrite=true"
    assert headers["kbn-xsrf"] == "true" and headers["authorization"] == "ApiKey a-key"
    assert (KIBANA / "modelwatch.ndjson").read_bytes() in body
    assert "saved objects imported" in done.stdout


def test_a_refusal_is_an_error_with_kibanas_own_words(server: Server) -> None:
    server.answer = b'{"success":false,"errors":[{"error":{"type":"missing_references"}}]}'
    done = import_into(f"http://127.0.0.1:{server.server_port}")
    assert done.returncode == 1 and "missing_references" in done.stderr


def test_a_kibana_that_is_away_is_named(server: Server) -> None:
    done = import_into("http://127.0.0.1:9", KIBANA_WAIT_SECONDS="0")
    assert done.returncode == 1 and "http://127.0.0.1:9" in done.stderr and "KIBANA_URL" in done.stderr
