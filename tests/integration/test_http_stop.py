"""How a worker ends while it is asked by HTTP: readiness first, then an answer to everybody, then the end."""

import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from cli.supervisor import answers
from schemas.payloads.encode import encode_npy
from tests.conftest import Broker
from tests.integration.asking import ask
from tests.integration.conftest import MODEL
from tests.integration.traffic import Traffic
from tests.integration.workers import WorkerProcess

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True, scope="session")
V2 = f"/v2/models/{MODEL}/infer"
NPY = {"content-type": "application/x-npy"}
SECONDS = 120.0
STOP_SECONDS = 10.0
"""How long a worker may take to end."""
CALLERS = 8
IN_HAND = 16


@pytest.fixture
def asked(broker: Broker, traffic: Traffic, null_models: Path, tmp_path: Path, unique: str) -> Iterator[WorkerProcess]:
    """A ready worker whose model answers at once: what is slow in these tests are the callers."""
    process = WorkerProcess(broker.bootstrap, tmp_path, unique, unique, null_models)
    traffic.skip(unique)
    yield process.start().wait_ready()
    process.kill()


def connect(worker: WorkerProcess) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=SECONDS)


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, str | None, Any]:
    """Status, header `connection` and JSON."""
    response = connection.getresponse()
    return response.status, response.headers["connection"], orjson.loads(response.read())


def test_every_request_in_hand_at_a_stop_is_answered_and_recorded_and_later_ones_are_told_to_ask_elsewhere(
    asked: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    body, ids = encode_npy(truck), [f"{unique}-{number}" for number in range(IN_HAND)]
    kept = connect(asked)
    kept.request("POST", V2, body, NPY | {"x-modelwatch-record": "false"})
    assert answer_of(kept)[0] == 200
    in_hand = []
    for request_id in ids:
        connection = connect(asked)
        connection.putrequest("POST", V2)
        for name, value in (NPY | {"ce-id": request_id, "content-length": str(len(body))}).items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[:100])
        in_hand.append(connection)
    for _ in range(3):
        assert ask(asked, "/v2").status == 200  # by then the worker has read what was sent before it
    asked.terminate()
    until(lambda: not answers(f"{asked.url}/health/ready"))
    assert answers(f"{asked.url}/health/live")
    for connection in (kept, connect(asked)):
        connection.request("POST", V2, body, NPY)
        status, closing, refusal = answer_of(connection)
        assert (status, closing, "ask again" in refusal["error"]) == (503, "close", True)
    for connection in in_hand:
        connection.send(body[100:])
    found = [answer_of(connection) for connection in in_hand]
    assert [(status, closing) for status, closing, _ in found] == [(200, "close")] * IN_HAND
    assert [answer["id"] for _, _, answer in found] == ids
    assert asked.wait(STOP_SECONDS) == 0, asked.last_words()
    assert len(traffic.pairs(ids)) == IN_HAND
    assert "Traceback" not in asked.last_words(1 << 20)


def test_callers_that_ask_without_pause_get_an_answer_to_every_question_until_they_are_told_to_go(
    asked: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    def ask_until_told(caller: int) -> list[str]:
        """Ids of the answered questions; whatever is not an answer is raised."""
        connection, answered = connect(asked), []
        while True:
            request_id = f"{unique}-{caller}-{len(answered)}"
            connection.request("POST", V2, encode_npy(truck), NPY | {"ce-id": request_id})
            status, closing, answer = answer_of(connection)
            if status == 503:
                assert closing == "close", answer
                return answered
            assert status == 200, answer
            answered.append(request_id)
            if closing == "close":
                connection = connect(asked)

    with ThreadPoolExecutor(CALLERS) as callers:
        futures = [callers.submit(ask_until_told, number) for number in range(CALLERS)]
        until(lambda: asked.metric("modelwatch_requests_total", transport="http", outcome="ok") > 20 * CALLERS)
        asked.terminate()
        answered = [request_id for future in futures for request_id in future.result(SECONDS)]
    assert asked.wait(STOP_SECONDS) == 0, asked.last_words()
    assert len(traffic.pairs(answered)) == len(answered)
