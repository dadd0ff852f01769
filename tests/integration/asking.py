"""One HTTP request to a worker, and its answer."""

import http.client
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.integration.workers import WorkerProcess

JSON = "application/json"
SECONDS = 120.0


class Response:
    """Status, headers and decoded JSON body of one answer."""

    def __init__(self, status: int, headers: "http.client.HTTPMessage", body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.json: Any = orjson.loads(body)


def ask(
    worker: WorkerProcess,
    path: str,
    body: bytes | None = None,
    content_type: str | None = JSON,
    headers: dict[str, Any] | None = None,
) -> Response:
    """POST `body`, or GET without one."""
    named = dict(headers or {})
    if content_type and body is not None:
        named["content-type"] = content_type
    connection = http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=SECONDS)
    try:
        connection.request("GET" if body is None else "POST", path, body, named)
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()
