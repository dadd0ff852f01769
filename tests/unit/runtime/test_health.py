"""The HTTP server of every process, asked over real connections."""

import asyncio
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from runtime.errors import ConfigurationError, FatalError
from runtime.health import Health, HttpServer

HOST = "127.0.0.1"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Running:
    """A started server, and the answers it gives."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.server = HttpServer(HOST, 0, self.registry, **options)
        self.port = self.server.start()

    def get(self, path: str, timeout: float = 10, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def health(self, path: str) -> tuple[int, Any]:
        status, _, body = self.get(f"/health/{path}")
        return status, json.loads(body)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def running(clock: Clock) -> Iterator[Running]:
    server = Running(health=Health("kafka", clock=clock), max_body=1024)
    yield server
    server.server.stop()


def test_a_process_is_not_ready_until_every_awaited_part_is(running: Running) -> None:
    assert running.health("ready") == (503, {"status": "not ready", "checks": {"kafka": "starting"}})
    running.server.health.ready("kafka", True)
    running.server.health.ready("model", False, "weights are being read")
    assert running.health("ready") == (
        503,
        {"status": "not ready", "checks": {"kafka": "ok", "model": "weights are being read"}},
    )
    running.server.health.ready("model", True)
    assert running.health("ready") == (200, {"status": "ok", "checks": {"kafka": "ok", "model": "ok"}})


def test_a_process_that_has_reported_nothing_is_live_but_not_ready() -> None:
    health = Health()
    assert health.readiness() == (False, {})
    assert health.liveness() == (True, {})


def test_a_loop_that_stops_beating_is_named_and_the_process_is_not_live(running: Running, clock: Clock) -> None:
    running.server.health.beat("consume", max_age=5)
    running.server.health.beat("flush", max_age=60)
    clock.now += 5
    assert running.health("live") == (200, {"status": "ok", "checks": {"consume": "ok", "flush": "ok"}})
    clock.now += 1
    assert running.health("live") == (
        503,
        {"status": "stuck", "checks": {"consume": "last beat 6.0 s ago, limit 5 s", "flush": "ok"}},
    )
    running.server.health.beat("consume", max_age=5)
    assert running.health("live")[0] == 200


def test_a_loop_that_ended_as_it_should_is_not_missed(clock: Clock) -> None:
    health = Health(clock=clock)
    health.beat("warm-up", max_age=1)
    clock.now += 2
    assert not health.liveness()[0]
    health.forget("warm-up")
    assert health.liveness() == (True, {})


def test_metrics_are_served_in_the_format_the_scraper_asks_for(running: Running) -> None:
    Counter("modelwatch_tests", "Tests", registry=running.registry).inc(3)
    Counter("modelwatch_others", "Others", registry=running.registry).inc(4)
    status, headers, body = running.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert [sample.value for sample in families["modelwatch_tests"].samples if sample.name.endswith("_total")] == [3]

    _, headers, body = running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")

    _, _, body = running.get("/metrics?name[]=modelwatch_others_total")
    assert b"modelwatch_others_total 4.0" in body
    assert b"modelwatch_tests" not in body


def test_metrics_are_compressed_for_a_scraper_that_asks(running: Running) -> None:
    _, headers, body = running.get("/metrics", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert body.startswith(b"\x1f\x8b")


def test_a_slow_collector_does_not_hold_up_health(running: Running) -> None:
    class Slow(Collector):
        entered, leave = threading.Event(), threading.Event()

        def describe(self) -> list[Any]:
            return []

        def collect(self) -> Iterator[Any]:
            self.entered.set()
            self.leave.wait(10)
            return iter(())

    slow = Slow()
    running.registry.register(slow)
    scrape = threading.Thread(target=running.get, args=("/metrics",))
    scrape.start()
    assert slow.entered.wait(5)
    assert running.health("live")[0] == 200
    assert scrape.is_alive()
    slow.leave.set()
    scrape.join(5)
    assert not scrape.is_alive()


def test_health_answers_while_the_main_thread_computes(running: Running) -> None:
    answers: list[int] = []
    asker = threading.Thread(target=lambda: answers.append(running.health("live")[0]))
    asker.start()
    deadline = time.monotonic() + 10
    number = 0
    while not answers and time.monotonic() < deadline:
        number += sum(range(1000))  # never waits, never yields of itself
    asker.join(1)
    assert answers == [200]


def test_health_answers_while_the_main_thread_is_blocked_in_a_call(running: Running) -> None:
    answered = threading.Event()
    asker = threading.Thread(target=lambda: (running.health("live"), answered.set()))
    asker.start()
    asker.join(10)  # holds this thread without going round any loop
    assert answered.is_set()


def test_a_process_adds_its_own_routes_and_schedules_work_in_the_loop() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    running = Running(routes=lambda app: app.router.add_post("/echo", echo) and None, max_body=16)
    try:
        request = urllib.request.Request(f"http://{HOST}:{running.port}/echo", data=b"truck")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read() == b"truck"
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "done"), running.server.loop)
        assert future.result(5) == "done"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{HOST}:{running.port}/echo", data=b"x" * 17, timeout=10)
        assert refused.value.code == 413
    finally:
        running.server.stop()


def test_an_unknown_path_is_not_found(running: Running) -> None:
    assert running.get("/nothing")[0] == 404


def test_a_taken_port_is_a_configuration_error_that_names_it_and_the_setting(running: Running) -> None:
    other = HttpServer(HOST, running.port, CollectorRegistry())
    with pytest.raises(ConfigurationError, match=rf"{HOST}:{running.port}.*in use.*MODELWATCH_PORT"):
        other.start()
    other.stop()
    assert running.health("live")[0] == 200


def test_an_address_of_another_machine_is_a_configuration_error() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): no interface of ours has it.
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:0.*MODELWATCH_HOST"):
        HttpServer("192.0.2.1", 0, CollectorRegistry()).start()


def test_an_error_while_adding_routes_reaches_the_caller_of_start() -> None:
    def routes(app: web.Application) -> None:
        raise ValueError("no such model")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no such model"):
        HttpServer(HOST, 0, CollectorRegistry(), routes).start()
    assert threading.active_count() == before


def test_it_stops_within_two_seconds_with_an_idle_connection_open(running: Running) -> None:
    connection = http.client.HTTPConnection(HOST, running.port, timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().read()
    assert connection.sock is not None  # kept alive
    began = time.monotonic()
    running.server.stop()
    assert time.monotonic() - began < 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, running.port), timeout=1)
    connection.close()


def test_it_stops_within_two_seconds_while_a_request_never_ends() -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def endless(request: web.Request) -> web.Response:
        entered.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return web.Response()

    running = Running(routes=lambda app: app.router.add_get("/endless", endless) and None)
    connection = http.client.HTTPConnection(HOST, running.port, timeout=10)
    connection.request("GET", "/endless")
    assert entered.wait(5)
    began = time.monotonic()
    running.server.stop()
    assert time.monotonic() - began < 2
    assert cancelled.is_set()
    connection.close()


def test_a_request_in_hand_is_answered_before_it_stops() -> None:
    entered = threading.Event()

    async def brief(request: web.Request) -> web.Response:
        entered.set()
        await asyncio.sleep(0.2)
        return web.Response(text="answered")

    running = Running(routes=lambda app: app.router.add_get("/brief", brief) and None)
    connection = http.client.HTTPConnection(HOST, running.port, timeout=10)
    connection.request("GET", "/brief")
    assert entered.wait(5)
    running.server.stop()
    assert connection.getresponse().read() == b"answered"
    connection.close()


def test_it_can_be_stopped_twice_started_again_and_has_a_loop_only_while_running() -> None:
    server = HttpServer(HOST, 0, CollectorRegistry())
    with pytest.raises(FatalError, match="start"):
        _ = server.loop
    server.start()
    with pytest.raises(FatalError, match="already"):
        server.start()
    server.stop()
    server.stop()
    with pytest.raises(FatalError, match="start"):
        _ = server.loop
    assert server.start() > 0
    server.stop()
