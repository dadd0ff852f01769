"""The HTTP server of every process: metrics and health, in a thread and event loop that scoring cannot block."""

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from runtime.bounded_site import BoundedSite, one_line
from runtime.errors import ConfigurationError, FatalError
from runtime.logging import get_logger

log = get_logger(__name__)

SHUTDOWN_SECONDS = 0.5
"""How long `stop` lets requests in hand finish before it cancels them; aiohttp waits as long again for their ends."""
GIVE_UP_SECONDS = 5.0
"""How long `stop` waits for the thread, which only a route that blocks the loop can hold up."""
MAX_BODY_BYTES = 8 << 20
MAX_CONNECTIONS = 1_000
"""More would leave no file descriptors to the process's other clients."""
IDLE_SECONDS = 60.0
"""A connection on which no whole head of a request arrives for so long is closed, however its bytes trickle."""
LINGERING_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that its sender comes to read the answer."""
DEFAULT_MAX_AGE = 60.0

Report = tuple[bool, dict[str, str]]
"""Whether all is well, and the state of each check by name."""


@dataclass(frozen=True, slots=True)
class _Beat:
    at: float
    max_age: float


class Health:
    """What a process says about itself; any thread may write and read it.

    Ready means: may be sent work. Live means: every loop that promised to beat still does; a process that is not
    live wants restarting.

    Args:
        awaited: names that must be reported ready before the process is; without any, the first report decides.
        clock: seconds, monotonic.
    """

    def __init__(self, *awaited: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._ready: dict[str, tuple[bool, str]] = dict.fromkeys(awaited, (False, "starting"))
        self._beats: dict[str, _Beat] = {}

    def ready(self, name: str, ok: bool, detail: str = "") -> None:
        """Report whether the part `name` can do its work now; `detail` says why not."""
        with self._lock:
            self._ready[name] = (ok, detail)

    def beat(self, name: str, max_age: float = DEFAULT_MAX_AGE) -> None:
        """Say that the loop `name` is going round, and will say so again within `max_age` seconds."""
        with self._lock:
            self._beats[name] = _Beat(self._clock(), max_age)

    def forget(self, name: str) -> None:
        """Expect no more beats of the loop `name`: it has ended as it should."""
        with self._lock:
            self._beats.pop(name, None)

    def readiness(self) -> Report:
        """Ready if every part is, and at least one has reported."""
        with self._lock:
            parts = dict(self._ready)
        checks = {name: detail or ("ok" if ok else "not ready") for name, (ok, detail) in parts.items()}
        return bool(parts) and all(ok for ok, _ in parts.values()), checks

    def is_ready(self) -> bool:
        """Whether the process may be sent work."""
        return self.readiness()[0]

    def liveness(self) -> Report:
        """Live unless a loop's last beat is older than it promised."""
        with self._lock:
            beats, now = dict(self._beats), self._clock()
        late = {name: now - beat.at for name, beat in beats.items() if now - beat.at > beat.max_age}
        checks = {
            name: f"last beat {late[name]:.1f} s ago, limit {beat.max_age:g} s" if name in late else "ok"
            for name, beat in beats.items()
        }
        return not late, checks


HEALTH = web.AppKey("health", Health)
REGISTRY = web.AppKey("registry", CollectorRegistry)
RENDERER = web.AppKey("renderer", ThreadPoolExecutor)


def _answer(report: Report, otherwise: str) -> web.Response:
    ok, checks = report
    body = {"status": "ok" if ok else otherwise, "checks": checks}
    return web.json_response(body, status=200 if ok else 503, headers={"Cache-Control": "no-store"})


async def _live(request: web.Request) -> web.Response:
    return _answer(request.app[HEALTH].liveness(), "stuck")


async def _ready(request: web.Request) -> web.Response:
    return _answer(request.app[HEALTH].readiness(), "not ready")


async def _metrics(request: web.Request) -> web.Response:
    """The registry in the format the scraper asks for: Prometheus text, or OpenMetrics."""
    encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
    names = request.query.getall("name[]", [])
    registry: Any = request.app[REGISTRY]
    collector = registry.restricted_registry(names) if names else registry
    body = await asyncio.get_running_loop().run_in_executor(request.app[RENDERER], encode, collector)
    response = web.Response(body=body, headers={"Content-Type": content_type})
    response.enable_compression()
    return response


class HttpServer:
    """Serves `/metrics`, `/health/live`, `/health/ready` and the routes given, until stopped.

    Args:
        host, port: where to listen; port 0 takes any free one.
        registry: whose metrics `/metrics` shows.
        routes: adds further routes to the application; called once, in the server's own thread.
        max_body: largest request body in bytes; a larger one is answered with status 413.
        health: what the health endpoints show; its own, empty, by default.
        tls: with it, the server speaks HTTPS only.
        max_connections: open at once; a caller beyond is answered with status 503 and closed.
        idle_seconds: after which a connection without a request is closed.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        routes: Callable[[web.Application], None] | None = None,
        max_body: int = MAX_BODY_BYTES,
        health: Health | None = None,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.health = health or Health()
        self._host, self._port, self._registry = host, port, registry
        self._routes, self._max_body, self._tls = routes, max_body, tls
        self._max_connections, self._idle_seconds = max_connections, idle_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end = asyncio.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's event loop, for `asyncio.run_coroutine_threadsafe`.

        Raises:
            FatalError: the server is not running.
        """
        if self._loop is None:
            raise FatalError("the HTTP server has no event loop before start() or after stop(); call start() first")
        return self._loop

    def start(self) -> int:
        """Listen, and return the port once connections are accepted.

        Raises:
            ConfigurationError: the address cannot be bound, most often because the port is taken.
            FatalError: it is running already.
        """
        if self._loop is not None:
            raise FatalError("the HTTP server is running already; stop() it before another start()")
        self._loop, self._end = asyncio.new_event_loop(), asyncio.Event()
        bound: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(self._loop, bound), name="http", daemon=True)
        self._thread.start()
        try:
            port = bound.result()
        except BaseException:
            self._join()
            raise
        log.info("listening", host=self._host, port=port)
        return port

    def stop(self) -> None:
        """Stop listening, let requests in hand finish for `SHUTDOWN_SECONDS`, and end the thread. May be repeated."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._end.set)
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join(GIVE_UP_SECONDS)
            if self._thread.is_alive():
                log.error("http server does not end: a route blocks its loop", seconds=GIVE_UP_SECONDS)
        self._thread = self._loop = None

    def _run(self, loop: asyncio.AbstractEventLoop, bound: Future[int]) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(bound))
        except BaseException as error:
            if bound.done():
                raise
            bound.set_exception(error)
        finally:
            loop.run_until_complete(_cancel_the_rest())
            loop.close()

    async def _serve(self, bound: "Future[int]") -> None:
        renderer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        logging.getLogger("aiohttp.server").addFilter(one_line)
        runner = web.AppRunner(
            self._application(renderer),
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            keepalive_timeout=self._idle_seconds,
            lingering_time=LINGERING_SECONDS,
        )
        try:
            await runner.setup()
            bound.set_result(await self._listen(runner))
            await self._end.wait()
        finally:
            await runner.cleanup()
            renderer.shutdown(wait=False)

    def _application(self, renderer: ThreadPoolExecutor) -> web.Application:
        app = web.Application(client_max_size=self._max_body)
        app[HEALTH], app[REGISTRY], app[RENDERER] = self.health, self._registry, renderer
        app.router.add_get("/metrics", _metrics)
        app.router.add_get("/health/live", _live)
        app.router.add_get("/health/ready", _ready)
        if self._routes is not None:
            self._routes(app)
        return app

    async def _listen(self, runner: web.AppRunner) -> int:
        try:
            await BoundedSite(runner, self._host, self._port, self._tls, self._max_connections).start()
        except OSError as error:
            raise ConfigurationError(
                f"the HTTP server cannot listen on {self._host}:{self._port} ({error.strerror or error}); "
                "choose another port with MODELWATCH_PORT (0 takes any free one) or address with MODELWATCH_HOST, "
                "or end the process that holds it"
            ) from error
        port: int = runner.addresses[0][1]
        return port


async def _cancel_the_rest() -> None:
    """Cancel what routes left running in the loop, and wait for it."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
