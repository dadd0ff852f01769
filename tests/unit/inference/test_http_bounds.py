"""What HTTP callers may take of the worker: bytes, time and connections; and what each is told beyond."""

import asyncio
import contextlib
import gzip
import http.client
import json
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
from aiohttp.log import server_logger
from prometheus_client import CollectorRegistry

from runtime.health import HttpServer
from schemas.payloads.encode import encode_npy, encode_v1, encode_v2
from schemas.topics import MAX_REQUEST_BYTES
from tests.serving import SHAPE, Served, serving

IMAGE = np.full((1, *SHAPE), 204, np.uint8)
V2, V1 = "/v2/models/pets/infer", "/v1/models/pets:predict"
JSON = {"content-type": "application/json"}
SECONDS = 120.0


class Answer:
    """Status, headers and JSON of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.json: Any = json.loads(response.read())


def post(served: Served, path: str, body: Any, headers: dict[str, str] = JSON) -> Answer:
    connection = http.client.HTTPConnection(served.address, timeout=SECONDS)
    try:
        connection.request("POST", path, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def begin(served: Served, path: str, length: int, sent: bytes = b"", **headers: str) -> http.client.HTTPConnection:
    """A request whose body has not arrived yet."""
    connection = http.client.HTTPConnection(served.address, timeout=SECONDS)
    connection.putrequest("POST", path)
    for name, value in {"content-type": "application/json", "content-length": str(length), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(sent)
    return connection


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bomb(algorithm: str) -> bytes:
    """512 MiB of spaces, packed."""
    packer = zlib.compressobj(1, wbits=31 if algorithm == "gzip" else 15)
    return b"".join([packer.compress(b" " * (1 << 20)) for _ in range(512)]) + packer.flush()


@pytest.mark.parametrize(("path", "algorithm"), [(V2, "gzip"), (V1, "deflate")])
def test_a_bomb_is_refused_and_unpacked_only_to_the_limit(path: str, algorithm: str) -> None:
    packed = bomb(algorithm)
    with serving() as served:
        assert post(served, V2, encode_v2(IMAGE)).status == 200
        before = psutil.Process().memory_info().rss
        answer = post(served, path, packed, {"content-encoding": algorithm})
        grown = psutil.Process().memory_info().rss - before
    assert (answer.status, str(MAX_REQUEST_BYTES) in answer.json["error"]) == (413, True)
    assert grown < 3 * MAX_REQUEST_BYTES, f"{grown >> 20} MiB"


@pytest.mark.parametrize(("path", "body"), [(V2, encode_v2(IMAGE)), (V1, encode_v1(IMAGE))])
def test_a_packed_body_is_read_in_either_protocol(path: str, body: bytes) -> None:
    with serving() as served:
        for headers, packed in (
            ({"content-encoding": "gzip"}, gzip.compress(body)),
            ({"content-encoding": "deflate"}, zlib.compress(body)),
            ({"content-encoding": "identity"}, body),
        ):
            assert post(served, path, packed, JSON | headers).status == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status", "word"),
    [
        ("gzip", b"no gzip at all", 400, "gzip"),
        ("gzip", gzip.compress(encode_v2(IMAGE))[:-20], 400, ""),
        ("compress", encode_v2(IMAGE), 415, "gzip, deflate"),
        ("gzip, gzip", encode_v2(IMAGE), 415, "gzip, deflate"),
    ],
    ids=["no gzip", "cut off", "unknown", "twice"],
)
def test_a_body_that_cannot_be_unpacked_is_the_callers_mistake(
    encoding: str, body: bytes, status: int, word: str
) -> None:
    with serving() as served:
        connection = http.client.HTTPConnection(served.address, timeout=SECONDS)
        connection.request("POST", V2, body, JSON | {"content-encoding": encoding})
        response = connection.getresponse()
        assert response.status == status
        assert word in response.read().decode()
        connection.close()


def test_bodies_that_wait_share_a_bound_in_bytes_and_one_beyond_is_told_to_come_again() -> None:
    large = b" " * (1 << 20)
    with serving(budget_bytes=10 << 20) as served:
        waiting = [begin(served, V2, len(large) + 1, large) for _ in range(9)]
        until(lambda: served.budget.taken >= 9 << 20)
        with ThreadPoolExecutor(4) as callers:
            statuses = list(callers.map(lambda _: post(served, V2, large * 3), range(4)))
        assert [answer.status for answer in statuses] == [503] * 4
        assert {answer.headers["Retry-After"] for answer in statuses} == {"1"}
        for one in waiting:
            one.send(b" ")
            assert one.getresponse().status == 400  # spaces are no JSON, but they were read to the end
            one.close()
        assert post(served, V2, encode_v2(IMAGE)).status == 200
        assert served.budget.taken == 0
        assert served.count("pets", "refused") == 13


def test_of_many_large_bodies_that_arrive_together_as_many_are_read_as_fit() -> None:
    length = 1 << 20
    with serving(budget_bytes=8 * length) as served:
        together = [begin(served, V2, length) for _ in range(24)]
        for _ in range(8):
            for one in together:
                with contextlib.suppress(OSError):  # a refused one may be closed already
                    one.send(b" " * (length // 8))
        until(lambda: served.count("pets", "refused") == 24)
        statuses = []
        for one in together:
            statuses.append(one.getresponse().status)
            one.close()
        assert statuses.count(400) >= 8, "spaces are no JSON, but these were read to the end"
        assert set(statuses) == {400, 503}
        assert served.budget.taken == 0


def test_a_body_that_trickles_is_given_up_and_nothing_is_kept_of_it() -> None:
    with serving(timeout=0.5) as served:
        connection = begin(served, V2, 1000, b"{")
        answer = Answer(connection.getresponse())
        connection.close()
        assert (answer.status, "did not arrive" in answer.json["error"]) == (408, True)
        assert answer.headers["Connection"] == "close"
        until(lambda: served.budget.taken == 0)


def test_a_computation_that_is_stuck_is_answered_with_504_and_what_waits_behind_it_is_never_computed() -> None:
    with serving(timeout=0.5) as served:
        model = served.models["pets"]
        model.gate.clear()
        with ThreadPoolExecutor(5) as callers:
            first = callers.submit(post, served, V2, encode_v2(IMAGE))
            assert model.entered.wait(SECONDS)
            rest = [callers.submit(post, served, path, body) for path, body in [(V2, encode_v2(IMAGE))] * 4]
            answers = [one.result() for one in (first, *rest)]
        assert [answer.status for answer in answers] == [504] * 5
        assert all("0.5 s" in answer.json["error"] for answer in answers)
        assert served.count("pets", "expired") == 5
        assert served.recorder.request_ids == []
        model.gate.set()
        assert post(served, V2, encode_v2(IMAGE)).status == 200
        assert model.batches == 2, "the one that was stuck, and the last"


def test_an_overflowing_line_keeps_nothing_of_the_request_that_overflowed_it() -> None:
    with serving() as served:
        model = served.models["pets"]
        model.gate.clear()
        full = encode_v2(np.repeat(IMAGE, 64, axis=0))
        with ThreadPoolExecutor(9) as callers:
            asked = [callers.submit(post, served, V2, full) for _ in range(9)]
            until(lambda: served.count("pets", "refused") == 64 or any(one.done() for one in asked))
            model.gate.set()
            statuses = sorted(one.result().status for one in asked)
        assert statuses.count(200) in (8, 9)
        assert set(statuses) <= {200, 503}
        assert len(served.recorder.request_ids) == 64 * statuses.count(200)


def test_an_image_without_a_finite_answer_is_named_and_its_neighbours_in_the_batch_are_answered() -> None:
    black = np.zeros_like(IMAGE)
    with serving() as served:
        model = served.models["pets"]
        model.gate.clear()
        with ThreadPoolExecutor(4) as callers:
            first = callers.submit(post, served, V2, encode_v2(IMAGE))
            assert model.entered.wait(SECONDS)
            bodies = [encode_v2(np.concatenate([IMAGE, black])), encode_v2(IMAGE)]
            rest = [callers.submit(post, served, V2, body) for body in bodies]
            model.gate.set()
            answers = [one.result() for one in (first, *rest)]
        assert [answer.status for answer in answers] == [200, 422, 200]
        assert "about 1 image(s): " in answers[1].json["error"]
        assert "-1; look at" in answers[1].json["error"]
        assert len(served.recorder.request_ids) == 2
        assert (served.count("pets", "ok"), served.count("pets", "refused")) == (2, 1)


def test_a_connection_without_a_whole_head_is_closed_however_its_bytes_trickle() -> None:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), idle_seconds=0.5)
    port = server.start()
    try:
        slow = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        slow.sendall(b"GET /health/live HTTP/1.1\r\n")
        closed = threading.Event()

        def trickle() -> None:
            while not closed.is_set():
                try:
                    slow.sendall(b"x-more: 1\r\n")
                except OSError:
                    return
                time.sleep(0.1)

        sender = threading.Thread(target=trickle)
        sender.start()
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""
        closed.set()
        sender.join()
        slow.close()
    finally:
        server.stop()


def test_connections_beyond_the_most_are_told_so_and_the_others_are_served() -> None:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), max_connections=2)
    port = server.start()
    try:
        kept = [http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS) for _ in range(2)]
        for one in kept:
            one.request("GET", "/health/live")
            one.getresponse().read()
        beyond = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        beyond.request("GET", "/health/live")
        answer = Answer(beyond.getresponse())
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert "too many connections" in answer.json["error"]
        kept[0].request("GET", "/health/live")
        assert kept[0].getresponse().status == 200
        for one in (beyond, *kept):
            one.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"content-length: +4\r\n",
        b"content-length : 4\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"x-long: " + b"a" * 9000 + b"\r\n",
        b"".join(b"x-%d: 1\r\n" % number for number in range(2000)),
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused_and_the_connection_closed(head: bytes) -> None:
    with serving() as served, socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as connection:
        hidden = b"POST /v2/models/pets/infer HTTP/1.1\r\nhost: a\r\n\r\n"
        connection.sendall(b"POST /v2/models/pets/infer HTTP/1.1\r\nhost: a\r\n" + head + b"\r\nabcd" + hidden)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer[:200]
        assert answer.count(b"\r\nContent-Length: ") == 1
        assert served.models["pets"].batches == 0


def test_a_request_that_is_no_http_leaves_one_line_in_the_log_and_no_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"disabled": False, "propagate": True}.items():  # other tests of this process set up logging
        monkeypatch.setattr(server_logger, name, value)
    caplog.set_level(logging.WARNING, server_logger.name)
    with serving() as served, socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 400")
        until(lambda: any("no HTTP" in record.getMessage() for record in caplog.records))
    assert not any(record.exc_info for record in caplog.records)


def test_a_stop_answers_what_is_in_hand_and_tells_everybody_else_to_ask_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inference.http.routes.GRACE_SECONDS", 0.0)
    with serving() as served:
        body = encode_npy(IMAGE[0])
        kept = http.client.HTTPConnection(served.address, timeout=SECONDS)
        kept.request("GET", "/v2/health/ready")
        assert kept.getresponse().read() == b'{"ready":true}'
        named = {"content-type": "application/x-npy"}
        in_hand = [begin(served, V2, len(body), body[:50], **named, **{"ce-id": f"id-{n}"}) for n in range(16)]
        until(lambda: served.budget.taken == 16 * len(body))
        served.routes.close()
        for connection in (kept, http.client.HTTPConnection(served.address, timeout=SECONDS)):
            connection.request("POST", V2, body, named)
            answer = Answer(connection.getresponse())
            assert (answer.status, answer.headers["Connection"], answer.headers["Retry-After"]) == (503, "close", "1")
            connection.close()
        for one in in_hand:
            one.send(body[50:])
            answer = Answer(one.getresponse())
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            one.close()
        asyncio.run_coroutine_threadsafe(served.routes.drain(), served.server.loop).result(SECONDS)
        assert sorted(served.recorder.request_ids) == sorted(f"id-{number}" for number in range(16))


def test_what_is_still_unanswered_when_the_stop_must_end_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.http.routes.DRAIN_SECONDS", 0.2)
    monkeypatch.setattr("inference.http.routes.GRACE_SECONDS", 0.0)
    with serving() as served:
        served.models["pets"].gate.clear()
        with ThreadPoolExecutor(4) as callers:
            asked = [callers.submit(post, served, V2, encode_v2(IMAGE)) for _ in range(4)]
            assert served.models["pets"].entered.wait(SECONDS)
            slow = begin(served, V2, 100, b"{")
            until(lambda: served.budget.taken > 1)
            served.routes.close()
            asyncio.run_coroutine_threadsafe(served.routes.drain(), served.server.loop).result(SECONDS)
            answers = [one.result() for one in asked] + [Answer(slow.getresponse())]
            slow.close()
        assert [answer.status for answer in answers] == [503] * 5
        assert all("ask again" in answer.json["error"] for answer in answers)
