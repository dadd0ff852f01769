"""The worker as a process, with the reference model: messages in, pairs out."""

import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import jsonschema
import numpy as np
import orjson
import pytest
from confluent_kafka import Message
from numpy.typing import NDArray

from schemas.headers import parse_time
from schemas.messages import Outcome
from schemas.payloads.encode import FORMATS, encode_json, encode_npy, encode_png
from schemas.topics import REQUESTS
from tests.conftest import Broker
from tests.integration.conftest import MODEL
from tests.integration.traffic import Traffic, key_of, pair_of
from tests.integration.workers import PROJECT, WorkerProcess
from tests.servers.messages import committed
from training.datasets import load_split

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECONDS = 30.0
PARTITIONS = 4


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def murmur2(data: bytes) -> int:
    """The hash of Kafka's Java client (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned number."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    found = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        found = (found * multiplier & mask) ^ word
    if whole < len(data):
        found = (found ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    found = (found ^ found >> 13) * multiplier & mask
    return found ^ found >> 15


def assert_truck(message: Message) -> None:
    response = pair_of(message).response
    assert (response.outcome, response.label, response.predicted) == (Outcome.OK, "truck", 9)
    assert response.confidence is not None
    assert response.confidence > 0.9


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_payload_format_of_the_truck_gives_one_pair_labelled_truck(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str, name: str
) -> None:
    before = time.time()
    traffic.send(FORMATS[name].encode(truck), FORMATS[name].content_type, unique, attribute_site="north")
    traffic.flush()
    message = traffic.pairs([unique])[unique]
    assert_truck(message)
    pair = pair_of(message)
    assert (pair.request.request_id, pair.request.model) == (unique, "cifar10-resnet32")
    assert pair.request.attributes == {"site": "north"}
    assert before - 1 < pair.request.sent_at.timestamp() <= pair.response.answered_at.timestamp() <= time.time()
    if name != "jpeg":
        pixels = np.frombuffer(pair.request.image.data, pair.request.image.dtype.value).reshape(32, 32, 3)
        scale = 255 if pixels.dtype == np.float32 else 1
        assert np.array_equal((pixels * scale).round(), truck)
    schema = orjson.loads((PROJECT / "schemas/generated/InferencePair.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(orjson.loads(message.value()))


def test_a_pair_carries_the_headers_of_a_cloud_event_and_the_callers_trace(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    traffic.send(encode_png(truck), "image/png", unique, traceparent=TRACEPARENT, model="cifar10-resnet32")
    traffic.flush()
    message = traffic.pairs([unique])[unique]
    headers = dict(message.headers())
    assert len(headers) == len(message.headers())
    answered_at = parse_time(headers.pop("ce_time").decode())
    assert answered_at == pytest.approx(pair_of(message).response.answered_at.timestamp(), abs=1e-3)
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": unique.encode(),
        "ce_type": b"modelwatch.inference.pair.v1",
        "ce_source": b"/modelwatch/inference",
        "content-type": b"application/json",
        "model": b"cifar10-resnet32",
        "traceparent": TRACEPARENT.encode(),
    }


def test_a_pair_says_what_answered_and_where_the_time_went(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    traffic.send(encode_png(truck), "image/png", unique)
    traffic.flush()
    response = pair_of(traffic.pairs([unique])[unique]).response
    listed = (PROJECT / "models/cifar10-resnet32/checksums.txt").read_text()
    assert f"{response.weights_sha256}  resnet32.keras" in listed
    assert (response.model, response.model_version) == ("cifar10-resnet32", "1")
    assert response.batch_size == 1
    assert 0 < response.timings.compute < SECONDS
    assert 0 <= response.timings.batch < SECONDS
    assert 0 <= response.timings.queue < SECONDS
    assert response.probabilities is not None
    assert sum(response.probabilities) == pytest.approx(1, abs=1e-5)


def test_requests_and_pairs_of_one_id_are_on_the_partition_that_java_clients_choose(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    ids = [f"{unique}-{number}" for number in range(12)] + [f"{unique}-ü", f"{unique}-☃-long-id"]
    for request_id in ids:
        traffic.send(encode_npy(truck), "application/x-npy", request_id)
    traffic.flush()
    pairs = traffic.pairs(ids)
    found = {request_id: message.partition() for request_id, message in pairs.items()}
    assert found == {request_id: (murmur2(request_id.encode()) & 0x7FFFFFFF) % PARTITIONS for request_id in ids}
    assert len(set(found.values())) > 1


def test_a_message_of_several_images_gives_one_pair_each_with_a_numbered_id(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    images, labels = load_split("test", progress=False)
    batch = np.concatenate([truck[np.newaxis], images[:19]])
    traffic.send(encode_npy(batch), "application/x-npy", unique, traceparent=TRACEPARENT)
    traffic.flush()
    pairs = traffic.pairs(f"{unique}-{number}" for number in range(20))
    assert_truck(pairs[f"{unique}-0"])
    right = 0
    for number in range(20):
        pair = pair_of(pairs[f"{unique}-{number}"])
        assert pair.request.image.data == batch[number].tobytes()
        assert dict(pairs[f"{unique}-{number}"].headers())["traceparent"] == TRACEPARENT.encode()
        right += number > 0 and pair.response.predicted == labels[number - 1]
    assert right >= 15


def test_the_largest_message_of_64_images_is_answered_and_one_more_image_is_refused(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    traffic.send(encode_npy(np.stack([truck] * 64)), "application/x-npy", f"{unique}-64")
    traffic.send(encode_npy(np.stack([truck] * 65)), "application/x-npy", f"{unique}-65")
    traffic.flush()
    assert len(traffic.pairs(f"{unique}-64-{number}" for number in range(64))) == 64
    letter = traffic.dead_letters([f"{unique}-65"])[f"{unique}-65"]
    assert dict(letter.headers())["reason"] == b"too_many_images"


def test_a_request_without_an_id_is_given_one_that_ascends_with_time(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    for _ in range(3):
        traffic.send(encode_png(truck), "image/png", attribute_tag=unique)
    traffic.flush()
    pairs = traffic.tagged(unique, 3)
    ids = [uuid.UUID(pair.request.request_id) for pair in pairs]
    assert len(set(ids)) == 3
    for given, pair in zip(ids, pairs, strict=True):
        assert given.version == 7
        assert (given.int >> 80) / 1000 == pytest.approx(pair.response.answered_at.timestamp(), abs=SECONDS)
        assert pair.request.request_id in traffic.pairs([pair.request.request_id])


def test_a_request_whose_deadline_passed_is_answered_expired_and_not_computed(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    computed = worker.metric("modelwatch_batch_size_sum")
    expired = worker.metric("modelwatch_requests_total", outcome="expired", transport="kafka")
    late = datetime(2020, 1, 1, tzinfo=timezone.utc)
    traffic.send(encode_png(truck), "image/png", f"{unique}-header", deadline=late.isoformat())
    body = orjson.loads(encode_json(truck)) | {"deadline": late.timestamp()}
    traffic.send(orjson.dumps(body), "application/json", f"{unique}-body")
    traffic.flush()
    for message in traffic.pairs([f"{unique}-header", f"{unique}-body"]).values():
        pair = pair_of(message)
        assert pair.response.outcome is Outcome.EXPIRED
        assert pair.request.deadline == late
        assert (pair.response.probabilities, pair.response.label, pair.response.batch_size) == (None, None, 0)
        assert pair.request.image.data == truck.tobytes()
    wait_until(
        lambda: worker.metric("modelwatch_requests_total", outcome="expired", transport="kafka") == expired + 2,
        "two more are counted as expired",
    )
    assert worker.metric("modelwatch_batch_size_sum") == computed
    traffic.send(encode_png(truck), "image/png", f"{unique}-soon", deadline="2999-01-01T00:00:00Z")
    traffic.flush()
    assert_truck(traffic.pairs([f"{unique}-soon"])[f"{unique}-soon"])


def test_the_metrics_tell_what_happened(
    worker: WorkerProcess, traffic: Traffic, truck: NDArray[np.uint8], unique: str
) -> None:
    def figures() -> dict[str, float]:
        return {
            "ok": worker.metric("modelwatch_requests_total", model=MODEL, outcome="ok", transport="kafka"),
            "refused": worker.metric("modelwatch_requests_total", outcome="refused", transport="kafka"),
            "unreadable": worker.metric("modelwatch_dead_letters_total", stage="inference", reason="unreadable_image"),
            "unknown": worker.metric("modelwatch_dead_letters_total", stage="inference", reason="unknown_model"),
            "computed": worker.metric("modelwatch_batch_size_sum", model=MODEL),
            "latencies": worker.metric("modelwatch_request_latency_seconds_count", model=MODEL, transport="kafka"),
            "queued": worker.metric("modelwatch_queue_seconds_count", model=MODEL),
        }

    before, batches = figures(), worker.metric("modelwatch_inference_seconds_count", model=MODEL)
    transactions = worker.metric("modelwatch_transactions_total", outcome="committed")
    for number in range(300):
        traffic.send(encode_npy(truck), "application/x-npy", f"{unique}-{number}")
    for number in range(3):
        traffic.send(b"\x89PNG\r\n\x1a\nno picture", "image/png", f"{unique}-bad-{number}")
    traffic.send(encode_png(truck), "image/png", f"{unique}-unknown", model="nobody")
    traffic.flush()
    traffic.pairs(f"{unique}-{number}" for number in range(300))
    expected = {"ok": 300, "refused": 4, "unreadable": 3, "unknown": 1}
    expected |= dict.fromkeys(["computed", "latencies", "queued"], 300)
    wait_until(
        lambda: {name: value - before[name] for name, value in figures().items()} == expected, f"{expected} counted"
    )
    computed_in = worker.metric("modelwatch_inference_seconds_count", model=MODEL) - batches
    assert 300 / 128 <= computed_in < 100
    assert 1 <= worker.metric("modelwatch_transactions_total", outcome="committed") - transactions <= 300
    assert worker.metric("modelwatch_transactions_total", outcome="aborted") == 0
    assert worker.metric("modelwatch_pipeline_restarts_total") == 0
    assert worker.metric("modelwatch_model_info", model=MODEL, version="1") == 1
    wait_until(lambda: lags(worker) == dict.fromkeys("0123", 0.0), "no partition has a lag")


def lags(worker: WorkerProcess) -> dict[str, float]:
    return {
        dict(labels)["partition"]: value
        for (name, labels), value in worker.metrics().items()
        if name == "modelwatch_consumer_lag" and ("topic", REQUESTS.name) in labels
    }


def test_a_refused_message_is_in_the_dead_letters_whole_and_says_why(
    worker: WorkerProcess, traffic: Traffic, unique: str
) -> None:
    traffic.send(b"\x89PNG\r\n\x1a\nno picture", "image/png", unique, traceparent=TRACEPARENT)
    traffic.flush()
    letter = traffic.dead_letters([unique])[unique]
    headers = dict(letter.headers())
    assert letter.value() == b"\x89PNG\r\n\x1a\nno picture"
    assert (headers["content-type"], headers["traceparent"]) == (b"image/png", TRACEPARENT.encode())
    assert (headers["topic"], headers["stage"], headers["reason"]) == (
        REQUESTS.name.encode(),
        b"inference",
        b"unreadable_image",
    )
    assert headers["partition"].isdigit()
    assert headers["offset"].isdigit()
    assert not [message for message in traffic.seen["inference.pairs"] if key_of(message) == unique]


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt-get install kcat)")
def test_kcat_alone_is_enough_to_ask(
    worker: WorkerProcess, traffic: Traffic, broker: Broker, truck: NDArray[np.uint8], unique: str, tmp_path: Path
) -> None:
    picture = tmp_path / "truck.png"
    picture.write_bytes(encode_png(truck))
    command = ["kcat", "-P", "-b", broker.bootstrap, "-t", REQUESTS.name, "-k", unique, "-H", "content-type=image/png"]
    subprocess.run([*command, str(picture)], check=True, timeout=20)
    assert_truck(traffic.pairs([unique])[unique])


def test_a_worker_told_to_stop_in_the_middle_of_a_stream_loses_and_repeats_nothing(
    worker: WorkerProcess,
    traffic: Traffic,
    broker: Broker,
    truck: NDArray[np.uint8],
    unique: str,
    null_models: Path,
    tmp_path: Path,
) -> None:
    ids = [f"{unique}-{number}" for number in range(2_000)]
    for request_id in ids:
        traffic.send(encode_npy(truck), "application/x-npy", request_id)
    traffic.flush()
    traffic.pairs(ids[:1])
    began = time.monotonic()
    worker.terminate()
    assert worker.wait(10) == 0, worker.last_words()
    assert time.monotonic() - began < 10
    answered = sum(key_of(message).startswith(unique) for message in traffic.seen["inference.pairs"])
    assert answered < len(ids), "all were answered before the worker was told to stop: nothing was shown"
    second = WorkerProcess(broker.bootstrap, tmp_path, worker.name, worker.group, null_models).start()
    try:
        pairs = traffic.pairs(ids)
        assert second.wait_ready().stop() == 0, second.last_words()
    finally:
        second.kill()
    versions = [pair_of(message).response.device for message in pairs.values()]
    assert 0 < versions.count("none") < len(ids), "both workers answered some"
    assert committed(traffic.settings, worker.group, REQUESTS.name, PARTITIONS) == traffic.end_of(REQUESTS.name)
