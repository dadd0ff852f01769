"""What `modelwatch setup` asks of a record store with lifecycle management, and of one without."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runtime.record_indices import setup_record_store
from runtime.settings import Settings


class Store(ThreadingHTTPServer):
    """Acknowledges everything and keeps it; `lifecycle` is the status of the answer to a policy."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lifecycle = 200
        self.put: dict[str, Any] = {}


class Handler(BaseHTTPRequestHandler):
    server: Store

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.put[self.path.split("?")[0]] = json.loads(body)
        self._answer(self.server.lifecycle if "_ilm" in self.path else 200, b'{"acknowledged":true}')

    def do_GET(self) -> None:
        self._answer(200, b"{}")  # no indices yet

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/vnd.elasticsearch+json;compatible-with=9")
        self.send_header("x-elastic-product", "Elasticsearch")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        yield store
        store.shutdown()


def set_up(store: Store, days: int) -> str:
    settings = Settings(elasticsearch_url=f"http://127.0.0.1:{store.server_port}", record_retention_days=days)
    return ", ".join(asyncio.run(setup_record_store(settings)))


def test_records_live_as_long_as_the_setting_says(store: Store) -> None:
    assert "policy modelwatch-retention (90 days)" in set_up(store, 90)
    policy = store.put["/_ilm/policy/modelwatch-retention"]["policy"]
    assert policy["phases"]["delete"] == {"min_age": "90d", "actions": {"delete": {}}}
    for kind in ("inferences", "drift", "performance"):
        template = store.put[f"/_index_template/modelwatch-{kind}"]["template"]
        assert template["settings"]["index.lifecycle.name"] == "modelwatch-retention"


@pytest.mark.parametrize("status", [400, 404, 405, 410])
def test_a_store_without_lifecycle_management_is_told_and_gets_its_templates(store: Store, status: int) -> None:
    store.lifecycle = status
    assert "old records are not deleted" in set_up(store, 30)
    assert store.put["/_index_template/modelwatch-drift"]["template"]["settings"] == {}
