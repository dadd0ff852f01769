"""The compose stack without Docker: each service's command and environment, on Apache Kafka as compose configures it.

Replaced are hosts, ports and paths only, and Elasticsearch by the embedded store.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cli.ask import ask
from runtime.embedded import EmbeddedServers, free_ports
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.messages import ExplanationRequest, Feedback, Outcome
from schemas.payloads.encode import encode_png
from schemas.topics import FEEDBACK, TOPICS
from tests.deployment.compose import PROJECT, SERVICES, load_compose
from tests.deployment.containers import HEALTH_CHECK, Container
from tests.faults.agents import Store, wait_for
from tests.integration.traffic import Traffic, pair_of
from tests.servers.apache_kafka import ApacheKafka
from tests.servers.messages import send
from training.datasets import TRUCK_INDEX, load_split

READY_SECONDS = 120.0
STOP_SECONDS = 15.0
"""The stop_grace_period of compose."""
COUNTED = {
    "worker": ("modelwatch_requests_total", {"outcome": "ok", "transport": "kafka"}),
    "outliers": ("modelwatch_scored_total", {}),
    "drift": ("modelwatch_featured_total", {}),
    "confusion": ("modelwatch_feedback_total", {"outcome": "joined"}),
    "explanations": ("modelwatch_explanations_total", {"outcome": "ok"}),
}
"""What one image, its truth and one question about it leave in each service's metrics: exactly one."""


def broker_properties(environment: dict[str, str]) -> dict[str, str]:
    """What the image of Apache Kafka makes of KAFKA_ variables: its names in lower case, `_` for `.`."""
    own = {
        name: value for name, value in environment.items() if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
    }
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in own.items()}


@pytest.fixture
def broker(apache_libraries: Path, tmp_path: Path) -> Iterator[ApacheKafka]:
    server = ApacheKafka(tmp_path / "kafka", apache_libraries)
    ports = {"29093": server.controller_port, "19092": server.internal_port, "9092": server.port}
    properties = broker_properties(load_compose()["services"]["kafka"]["environment"])
    for name, value in properties.items():
        placed = value.replace("/var/lib/kafka/data", str(tmp_path / "kafka" / "data"))
        placed = re.sub(
            r"(//|@)(kafka|127\.0\.0\.1)?:(29093|19092|9092)\b", lambda at: f"{at[1]}127.0.0.1:{ports[at[3]]}", placed
        )
        properties[name] = placed
    server.replace_properties(properties)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def containers(broker: ApacheKafka, embedded: EmbeddedServers, tmp_path: Path) -> Iterator[dict[str, Container]]:
    names = ["setup", *SERVICES]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    places = {
        "kafka:19092": f"127.0.0.1:{broker.internal_port}",
        "http://elasticsearch:9200": embedded.elasticsearch,
        "worker:8080": f"127.0.0.1:{ports['worker']}",
        "0.0.0.0": "127.0.0.1",
        "/app/models": str(PROJECT / "models"),
        "/var/lib/modelwatch": str(tmp_path / "modelwatch"),
    }
    services: dict[str, Any] = load_compose()["services"]
    found = {name: Container(name, services[name], places, ports[name], tmp_path) for name in names}
    yield found
    for container in found.values():
        container.kill()


@pytest.mark.real_kafka
def test_one_image_goes_through_the_stack_as_compose_would_start_it(
    containers: dict[str, Container], broker: ApacheKafka, embedded: EmbeddedServers, unique: str
) -> None:
    assert f'CMD ["python", "{HEALTH_CHECK[0]}", "{HEALTH_CHECK[1]}"]' in (PROJECT / "Dockerfile").read_text()
    setup, services = containers["setup"].start(), [containers[name] for name in SERVICES]
    assert setup.wait(60) == 0, setup.last_words()
    assert all(topic.name in setup.last_words() for topic in TOPICS)
    for service in services:
        service.start()
    for service in services:
        service.wait_healthy(READY_SECONDS)

    # As somebody outside the containers, at the published listener.
    settings = Settings(kafka_bootstrap_servers=broker.bootstrap, elasticsearch_url=embedded.elasticsearch)
    traffic = Traffic(settings)
    truck = np.array(load_split("train", progress=False)[0][TRUCK_INDEX])
    traffic.send(encode_png(truck), "image/png", unique)
    traffic.flush()
    response = pair_of(traffic.pairs([unique], READY_SECONDS)[unique]).response
    assert (response.outcome, response.label) == (Outcome.OK, "truck")
    traffic.close()
    truth = Feedback(request_id=unique, truth="truck", given_at=utc_now())
    send(settings, FEEDBACK.name, [truth.model_dump_json().encode()], key=unique)
    question = ExplanationRequest(request_id=unique, asked_by="test", asked_at=utc_now())
    [answer] = ask(settings, [question], 60, Console(quiet=True))
    assert answer.outcome == "ok" and answer.anchor, answer.reason

    store = Store(embedded.elasticsearch)

    def record() -> dict[str, Any]:
        found = store.call("POST", "modelwatch-inferences-*/_search", {"query": {"ids": {"values": [unique]}}})
        return next((hit["_source"] for hit in found["hits"]["hits"]), {})

    parts = {"request", "response", "outlier", "feedback", "explanation"}
    wait_for(lambda: parts <= record().keys(), 60, lambda: f"record has {sorted(record())}")

    def counted() -> dict[str, float]:
        return {name: containers[name].metric(metric, **labels) for name, (metric, labels) in COUNTED.items()}

    wait_for(lambda: set(counted().values()) == {1.0}, 30, lambda: str(counted()))
    # TensorFlow, which the others load, writes lines of its own.
    assert all(json.loads(line)["level"] for line in containers["confusion"].log.read_text().splitlines())
    assert [service.stop(STOP_SECONDS) for service in services] == [0] * len(services)
