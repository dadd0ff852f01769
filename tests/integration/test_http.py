"""The worker's HTTP side: Open Inference Protocol V2 and TensorFlow Serving V1, with the reference model."""

import asyncio
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton

from schemas.messages import Outcome
from schemas.payloads.encode import encode_jpeg, encode_json, encode_npy, encode_png, encode_v1, encode_v2
from schemas.topics import MAX_REQUEST_BYTES
from tests.integration.asking import JSON, Response, ask
from tests.integration.conftest import MODEL
from tests.integration.traffic import Traffic, pair_of
from tests.integration.workers import WorkerProcess
from training.datasets import load_split

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True, scope="session")
V2 = f"/v2/models/{MODEL}/infer"
V1 = f"/v1/models/{MODEL}/:predict"
"""As the article writes it."""
QUIET = {"x-modelwatch-record": "false"}
LATE = {"deadline": "2020-01-01T00:00:00Z"}


def outputs(response: Response) -> dict[str, Any]:
    assert response.status == 200, response.json
    return {output["name"]: output for output in response.json["outputs"]}


def assert_error(response: Response, status: int, *words: str) -> None:
    assert (response.status, list(response.json)) == (status, ["error"]), response.json
    assert response.headers["content-type"].startswith(JSON)
    assert all(word in response.json["error"] for word in words), response.json


@pytest.mark.parametrize(
    ("encode", "content_type"),
    [
        pytest.param(lambda image: encode_v2(image[np.newaxis]), JSON, id="v2-base64"),
        pytest.param(lambda image: encode_v2(image[np.newaxis], binary=False), JSON, id="v2-numbers"),
        pytest.param(encode_json, JSON, id="json"),
        pytest.param(encode_png, "image/png", id="png"),
        pytest.param(encode_jpeg, "image/jpeg", id="jpeg"),
        pytest.param(encode_npy, "application/x-npy", id="npy"),
    ],
)
def test_v2_answers_the_truck_in_every_form(
    worker: WorkerProcess, truck: NDArray[np.uint8], encode: Any, content_type: str
) -> None:
    response = ask(worker, V2, encode(truck), content_type, headers=QUIET)
    found = outputs(response)
    assert (response.json["model_name"], response.json["model_version"]) == (MODEL, "1")
    assert (found["probabilities"]["datatype"], found["probabilities"]["shape"]) == ("FP32", [1, 10])
    assert found["probabilities"]["data"][9] > 0.9
    assert sum(found["probabilities"]["data"]) == pytest.approx(1, abs=1e-5)
    assert found["predicted"] == {"name": "predicted", "datatype": "INT64", "shape": [1], "data": [9]}
    assert found["label"] == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["truck"]}


def test_the_stock_client_asks_in_binary_and_its_truck_is_recorded(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    client = triton.InferenceServerClient(urlsplit(worker.url).netloc)
    image = triton.InferInput("image", [1, *truck.shape], "UINT8")
    image.set_data_from_numpy(truck[np.newaxis])
    result = client.infer(MODEL, [image], request_id=unique, headers={"traceparent": "00-1"})
    client.close()
    assert result.as_numpy("label").tolist() == [b"truck"]
    pair = pair_of(traffic.pairs([unique])[unique])
    assert pair.request.image.data == truck.tobytes()
    assert pair.response.probabilities == tuple(result.as_numpy("probabilities")[0].tolist())


def test_v1_answers_the_articles_request_at_the_articles_address(
    worker: WorkerProcess, truck: NDArray[np.uint8]
) -> None:
    body = orjson.dumps({"instances": [(truck / 255.0).tolist()]})
    for path in (V1, f"/v1/models/{MODEL}:predict"):
        response = ask(worker, path, body)
        assert response.status == 200, response.json
        assert list(response.json) == ["predictions"]
        (probabilities,) = response.json["predictions"]
        assert len(probabilities) == 10
        assert probabilities[9] > 0.9


def test_a_request_of_several_images_is_answered_in_order_and_recorded_one_pair_each(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    others = load_split("test", progress=False)[0][:3]
    found = outputs(ask(worker, V2, encode_v2(np.concatenate([others, truck[np.newaxis]]), unique)))
    assert found["probabilities"]["shape"] == [4, 10]
    assert found["label"]["data"][3] == "truck"
    pairs = traffic.pairs(f"{unique}-{number}" for number in range(4))
    rows = np.array(found["probabilities"]["data"]).reshape(4, 10)
    for number in range(4):
        assert pair_of(pairs[f"{unique}-{number}"]).response.probabilities == tuple(rows[number])


def test_an_id_given_is_the_answers_and_the_pairs_and_one_not_given_is_made(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    assert ask(worker, V2, encode_v2(truck[np.newaxis], unique)).json["id"] == unique
    made = ask(worker, V2, encode_png(truck), "image/png").json["id"]
    pairs = traffic.pairs([unique, made])
    assert pair_of(pairs[unique]).request.image.data == truck.tobytes()
    assert pair_of(pairs[made]).request.request_id == made


def test_headers_mean_the_same_as_on_kafka(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    named = {"ce_id": unique, "Attribute-Site": "north", "traceparent": trace}
    response = ask(worker, V2, encode_png(truck), "image/png", named)
    assert response.json["id"] == unique
    message = traffic.pairs([unique])[unique]
    assert dict(message.headers())["traceparent"] == trace.encode()
    assert {name.lower(): value for name, value in pair_of(message).request.attributes.items()} == {"site": "north"}


def test_every_answer_is_recorded_once_unless_the_caller_says_no(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    bodies = {V2: encode_v2(truck[np.newaxis]), V1: encode_v1(truck)}
    for path, body in bodies.items():
        named = {"ce-id": f"{unique}{path}"}
        assert ask(worker, path, body, JSON, named | QUIET).status == 200
        quiet = orjson.dumps(orjson.loads(body) | {"parameters": {"record": False}})
        for content_type in (JSON, "application/json; charset=utf-8", None):
            assert ask(worker, path, quiet, content_type, named).status == 200
        # An id's pairs are in order on one partition: this one shows that none of the others is still to come.
        aloud = orjson.dumps(orjson.loads(body) | {"parameters": {"record": True}})
        assert ask(worker, path, aloud, JSON, named).status == 200
    assert len(traffic.pairs(f"{unique}{path}" for path in bodies)) == 2


def test_metadata_and_health_are_those_of_the_protocol(worker: WorkerProcess) -> None:
    metadata = ask(worker, f"/v2/models/{MODEL}").json
    assert (metadata["name"], metadata["versions"]) == (MODEL, ["1"])
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert metadata["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    assert ask(worker, "/v2").json["name"] == "modelwatch"
    assert ask(worker, "/v2/health/live").json == {"live": True}
    for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        assert ask(worker, path).json == {"ready": True}


def test_what_cannot_be_answered_is_refused_with_a_status_and_the_reason(
    worker: WorkerProcess, truck: NDArray[np.uint8]
) -> None:
    good = encode_png(truck)
    assert_error(ask(worker, "/v2/models/nobody/infer", good, "image/png"), 404, "unknown_model", "nobody", MODEL)
    assert_error(ask(worker, "/v1/models/nobody:predict", encode_v1(truck)), 404, "unknown_model")
    assert_error(ask(worker, "/v2/models/nobody"), 404, "nobody")
    assert_error(ask(worker, "/v2/models/nobody/ready"), 404, "nobody")
    assert_error(ask(worker, V2, good, "text/plain"), 415, "unknown_content_type", "text/plain")
    assert_error(ask(worker, V2, good[:100], "image/png"), 400, "unreadable_image")
    assert_error(ask(worker, V2, b'{"inputs": ['), 400, "invalid_json")
    assert_error(ask(worker, V2, b"{}"), 400, "missing_field")
    assert_error(ask(worker, V2, b""), 400, "empty_value")
    assert_error(ask(worker, V1, b'{"instances": [[[[NaN]]]]}'), 400, "not_finite")
    assert_error(ask(worker, V1, encode_v1(np.zeros((16, 16, 3), np.uint8))), 400, "wrong_shape")
    assert_error(ask(worker, V2, good, "image/png", {"deadline": "tomorrow"}), 400, "invalid_header", "tomorrow")
    assert_error(ask(worker, V2, good, "image/png", LATE), 504, "deadline")
    assert_error(ask(worker, V2, b" " * (MAX_REQUEST_BYTES + 1)), 413, "oversize", str(MAX_REQUEST_BYTES))
    assert_error(ask(worker, "/v2/models"), 404, "/v2/models")
    assert_error(ask(worker, V2), 405, "GET")
    assert_error(ask(worker, V2, good, "image/png", {"deadline": b"\xff\xfe"}), 400)


@pytest.mark.parametrize(("encoding", "status"), [("br", 415), ("gzip", 400), ("deflate", 400)])
def test_a_body_that_is_not_in_its_encoding_is_a_callers_mistake_and_no_traceback_of_ours(
    worker: WorkerProcess, encoding: str, status: int
) -> None:
    written = len(worker.log.read_bytes())
    body = b"no such encoding " * 20_000
    assert_error(ask(worker, V2, body, headers={"content-encoding": encoding}), status, encoding)
    assert ask(worker, "/v2/health/ready").status == 200
    said = worker.log.read_bytes()[written:].decode()
    assert "Traceback" not in said and "Unhandled" not in said, said


def test_a_late_request_is_recorded_as_expired(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    assert_error(ask(worker, V2, encode_png(truck), "image/png", LATE | {"ce_id": unique}), 504)
    assert pair_of(traffic.pairs([unique])[unique]).response.outcome is Outcome.EXPIRED


def test_outcomes_are_counted_by_image(worker: WorkerProcess, truck: NDArray[np.uint8]) -> None:
    def counts() -> dict[str, float]:
        outcomes = ("ok", "refused", "expired", "error")
        return {name: worker.metric("modelwatch_requests_total", transport="http", outcome=name) for name in outcomes}

    before = counts()
    ask(worker, V2, encode_v2(np.stack([truck] * 3)), headers=QUIET)
    ask(worker, V2, encode_png(truck), "image/png", LATE | QUIET)
    ask(worker, V2, b"", "image/png")
    ask(worker, "/v2/models/nobody/infer", b"x", "image/png")
    after = {name: value - before[name] for name, value in counts().items()}
    assert after == {"ok": 3, "refused": 2, "expired": 1, "error": 0}


async def post_all(worker: WorkerProcess, bodies: list[bytes]) -> list[tuple[int, dict[str, str], Any]]:
    """All at once; status, headers and body of each answer, in order."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(worker.url, connector=connector) as session:

        async def post(body: bytes) -> tuple[int, dict[str, str], Any]:
            async with session.post(V2, data=body, headers={"content-type": JSON}) as response:
                return response.status, dict(response.headers), await response.json()

        return list(await asyncio.gather(*map(post, bodies)))


def test_more_than_may_wait_is_told_to_come_again_and_everything_else_is_answered(
    worker: WorkerProcess, truck: NDArray[np.uint8], unique: str
) -> None:
    bodies = [encode_v2(np.stack([truck] * 64), f"{unique}-{number}") for number in range(24)]
    answers = asyncio.run(post_all(worker, bodies))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}, statuses
    for status, headers, body in answers:
        if status == 503:
            assert headers["Retry-After"] == "1"
            assert "at most 512" in body["error"]
    assert asyncio.run(post_all(worker, bodies[:1]))[0][0] == 200


def test_concurrent_callers_and_kafkas_traffic_share_batches_and_each_gets_its_own_answer(
    worker: WorkerProcess, traffic: Traffic, unique: str
) -> None:
    images = load_split("test", progress=False)[0][:200]
    computed, batches = (worker.metric(f"modelwatch_batch_size_{part}") for part in ("sum", "count"))
    for number, image in enumerate(images):
        traffic.send(encode_npy(image), "application/x-npy", f"{unique}-kafka-{number}")
    traffic.flush()
    bodies = [encode_v2(image[np.newaxis], f"{unique}-http-{number}") for number, image in enumerate(images)]
    answers = asyncio.run(post_all(worker, bodies))
    assert [status for status, _, _ in answers] == [200] * 200
    pairs = traffic.pairs(f"{unique}-{way}-{number}" for way in ("http", "kafka") for number in range(200))
    for number, (_, _, body) in enumerate(answers):
        assert body["id"] == f"{unique}-http-{number}"
        by_http = pair_of(pairs[f"{unique}-http-{number}"]).response.probabilities
        by_kafka = pair_of(pairs[f"{unique}-kafka-{number}"]).response.probabilities
        assert by_http == tuple(body["outputs"][0]["data"])
        assert by_http == pytest.approx(by_kafka, abs=1e-4)
    assert worker.metric("modelwatch_batch_size_sum") - computed == 400
    assert worker.metric("modelwatch_batch_size_count") - batches < 200
    shared = [pair_of(pairs[f"{unique}-http-{number}"]).response.batch_size for number in range(200)]
    assert max(shared) > 1


def test_health_and_metrics_answer_quickly_while_images_are_computed(
    worker: WorkerProcess, traffic: Traffic, unique: str
) -> None:
    images = load_split("test", progress=False)[0][:1000]
    ids = [f"{unique}-{number}" for number in range(1000)]
    for request_id, image in zip(ids, images, strict=True):
        traffic.send(encode_npy(image), "application/x-npy", request_id)
    traffic.flush()
    seconds = []
    for _ in range(20):
        for path in ("/health/live", "/health/ready", "/v2/health/ready"):
            began = time.perf_counter()
            assert ask(worker, path).status == 200
            seconds.append(time.perf_counter() - began)
    done = worker.metric("modelwatch_batch_size_sum")
    traffic.pairs(ids)
    assert worker.metric("modelwatch_batch_size_sum") > done, "nothing was computed any more while health was asked"
    assert statistics.median(seconds) < 0.1
