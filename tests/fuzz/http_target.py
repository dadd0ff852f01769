"""The worker's HTTP side under fuzzing: a real server on a socket, the real batcher, and a model without weights."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from agents.pairs import read_pairs
from inference.batcher import Batcher
from inference.budget import Budget
from inference.http.routes import InferenceRoutes
from inference.predictor import NullPredictor
from runtime.health import Health
from runtime.metrics import WorkerMetrics
from runtime.model_folder import ModelFolder
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.pairs import PairWriter
from schemas.topics import MAX_REQUEST_BYTES, PAIRS
from tests.fuzz.seeds import SPECS

SECONDS = 10.0
FINE = {200, 400, 404, 405, 408, 413, 415, 504}


class CheckedPairs:
    """In the recorder's place, as no broker is here: pairs must be what the agents can read."""

    async def record(self, _part: Any, values: Sequence[bytes], _time: str) -> None:
        """Check them."""
        messages = [SimpleNamespace(topic=PAIRS.name, value=value, timestamp=time.time()) for value in values]
        read, refused = read_pairs(messages, SPECS, time.time(), MAX_AHEAD_SECONDS)
        assert len(read) == len(values), refused


def over_http(data: bytes) -> bool:
    """One HTTP request: a line with method and path, then headers and body as `seeds.unframed` has them."""
    line, _, rest = data.partition(b"\n")
    head, _, body = rest.partition(b"\n\n")
    loop, port = _server()
    lines = [line + b" HTTP/1.1", b"host: a", *(one for one in head.split(b"\n") if one)]
    lines += [b"content-length: %d" % len(body), b"connection: close"]
    answer = loop.run_until_complete(
        asyncio.wait_for(_exchange(port, b"\r\n".join(lines) + b"\r\n\r\n" + body), SECONDS)
    )
    status = int(answer.split(b" ", 2)[1]) if answer else 400  # nothing: the connection was closed as no HTTP
    assert status in FINE, answer[-300:]
    headers, _, content = answer.partition(b"\r\n\r\n")
    if b"application/json" in headers and content and not line.startswith(b"HEAD"):
        assert isinstance(orjson.loads(content), dict | list)
    return status == 200


async def _exchange(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, int]:
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # it logs each request that is no HTTP
    loop = asyncio.new_event_loop()
    return loop, loop.run_until_complete(_serve())


async def _serve() -> int:
    batcher = Batcher(
        {name: NullPredictor(spec) for name, spec in SPECS.items()},
        {name: spec.max_batch for name, spec in SPECS.items()},
        lambda *_: None,
        1024,
    )
    batcher.start()
    folders = {name: ModelFolder(Path(mkdtemp()), spec, "0" * 64) for name, spec in SPECS.items()}
    writers = {name: PairWriter(name, "1", "0" * 64, spec.labels, "none", spec.task) for name, spec in SPECS.items()}
    metrics, health, pool = WorkerMetrics(CollectorRegistry()), Health(), ThreadPoolExecutor(1)
    routes = InferenceRoutes(folders, batcher, writers, CheckedPairs(), metrics, health, pool, Budget(256 << 20))  # type: ignore[arg-type]
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    routes.add_to(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port
