"""A proxy that the environment names does not stand between our own processes: there, it would call them all dead."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.supervisor import answers
from cli.top.scrape import Scraper
from runtime.elasticsearch_sink import client_from_settings
from runtime.probe import probe
from runtime.settings import Settings

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
DEAD = "http://127.0.0.1:9"


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("x-elastic-product", "Elasticsearch")
        self.end_headers()
        self.wfile.write(b"# TYPE modelwatch_up gauge\nmodelwatch_up 1\n" if self.path == "/metrics" else b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A healthy process of ours, and an environment whose proxies are dead."""
    for name in PROXIES:
        monkeypatch.setenv(name, DEAD)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_the_supervisor_finds_a_healthy_process(server: ThreadingHTTPServer) -> None:
    assert answers(f"http://127.0.0.1:{server.server_port}/health/ready")


def test_the_containers_health_check_finds_it(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_PORT", str(server.server_port))
    assert probe("ready") == ""


def test_top_reads_its_figures(server: ThreadingHTTPServer) -> None:
    with Scraper({"worker": f"http://127.0.0.1:{server.server_port}"}) as scraper:
        scrape = scraper.read()["worker"]
    assert scrape.ready and scrape.note == ""


def test_the_record_stores_client_reaches_it(server: ThreadingHTTPServer) -> None:
    async def ask() -> str:
        client = client_from_settings(Settings(elasticsearch_url=f"http://127.0.0.1:{server.server_port}"))
        try:
            return str(await client.info())
        finally:
            await client.close()

    assert asyncio.run(ask()) == "{}"
