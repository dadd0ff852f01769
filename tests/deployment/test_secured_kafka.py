"""Apache Kafka with users, TLS and rights: right credentials work end to end, wrong ones end in one clear line."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cli.ask import ask
from runtime.acls import create_acls
from runtime.embedded import EmbeddedServers
from runtime.errors import CONFIGURATION_EXIT, ConfigurationError
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.acls import PRINCIPALS
from schemas.base import utc_now
from schemas.messages import ExplanationRequest, Feedback, Outcome
from schemas.payloads.encode import encode_png
from schemas.topics import FEEDBACK
from tests.deployment.compose import PROJECT, SERVICES
from tests.deployment.secured import STRANGER, SecuredKafka
from tests.faults.agents import MODEL, Store, make_models, reports, wait_for
from tests.integration.traffic import Traffic, pair_of
from tests.integration.workers import WorkerProcess
from tests.servers.certificates import Authority
from tests.servers.messages import send

pytestmark = pytest.mark.real_kafka
SECONDS = 60.0
IMAGES = 20
TOKEN = "a-token-of-sixteen-or-more"
SECRETS = ("the-password-of", "not-the-password", TOKEN)


@pytest.fixture(scope="module")
def kafka(apache_libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    server = SecuredKafka(tmp_path_factory.mktemp("secured"), apache_libraries)
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without networks, so that nothing here loads TensorFlow; its windows are small."""
    window = {"window_size": IMAGES, "max_age_seconds": 3600}
    return make_models(tmp_path_factory.mktemp("models"), [MODEL], window, outliers=None)


def process(
    service: str, variables: dict[str, str], kafka: SecuredKafka, models: Path, folder: Path, name: str = ""
) -> WorkerProcess:
    environment = {"MODELWATCH_STATE_FOLDER": str(folder / "state"), **variables}
    module = SERVICES[service]
    return WorkerProcess(
        kafka.scram, folder, name or f"{service}-0", "modelwatch-inference", models, environment, module
    )


@pytest.fixture
def services(
    kafka: SecuredKafka, models: Path, embedded: EmbeddedServers, tmp_path: Path
) -> Iterator[dict[str, WorkerProcess]]:
    """All services: the worker and the drift agent come with certificates, the others with passwords."""
    principals = {"worker": PRINCIPALS["inference worker"], **PRINCIPALS}
    found: dict[str, WorkerProcess] = {}
    for service in SERVICES:
        variables = (kafka.holder if service in ("worker", "drift") else kafka.user)(principals[service])
        variables |= {"ELASTICSEARCH_URL": embedded.elasticsearch}
        variables |= {"MODELWATCH_HTTP_TOKEN": TOKEN} if service == "worker" else {}
        variables |= (
            {"MODELWATCH_WORKER_URL": found["worker"].url, "MODELWATCH_WORKER_TOKEN": TOKEN}
            if service == "explanations"
            else {}
        )
        found[service] = process(service, variables, kafka, models, tmp_path)
    yield found
    for one in found.values():
        one.kill()


def test_every_service_works_with_its_own_rights_and_no_others(
    services: dict[str, WorkerProcess], kafka: SecuredKafka, embedded: EmbeddedServers, unique: str
) -> None:
    asyncio.run(setup_record_store(Settings(elasticsearch_url=embedded.elasticsearch)))
    for service in services.values():
        service.start()
    for service in services.values():
        service.wait_ready(SECONDS)
    traffic = Traffic(kafka.plain)
    ids = [f"{unique}-{number}" for number in range(IMAGES)]
    for name in ids:
        traffic.send(encode_png(np.zeros((32, 32, 3), np.uint8)), "image/png", name)
    traffic.flush()
    pairs = traffic.pairs(ids, SECONDS)
    assert {pair_of(message).response.outcome for message in pairs.values()} == {Outcome.OK}
    traffic.close()
    truth = Feedback(request_id=ids[0], truth="truck", given_at=utc_now())
    send(kafka.plain, FEEDBACK.name, [truth.model_dump_json().encode()], key=ids[0])
    store = Store(embedded.elasticsearch)
    wait_for(lambda: len(reports(kafka.plain)) == 1, SECONDS, lambda: "no drift report")
    question = ExplanationRequest(request_id=ids[0], asked_by="test", asked_at=utc_now())
    [answer] = ask(kafka.plain, [question], SECONDS, Console(quiet=True))
    assert answer.outcome in ("ok", "no_anchor"), answer.reason
    query = {"query": {"ids": {"values": ids[:1]}}}

    def record() -> set[str]:
        hits = store.call("POST", "modelwatch-inferences-*/_search", query)["hits"]["hits"]
        return {field for hit in hits for field in hit["_source"]}

    wait_for(lambda: {"response", "feedback", "explanation", "drift"} <= record(), SECONDS, lambda: str(record()))
    assert [service.stop() for service in services.values()] == [0] * len(services)


def test_wrong_credentials_end_in_one_line_that_says_so_without_a_storm(
    kafka: SecuredKafka, models: Path, tmp_path: Path
) -> None:
    worker, outliers = PRINCIPALS["inference worker"], PRINCIPALS["outliers"]
    other = Authority(tmp_path / "other", "other")
    certificate = {
        "MODELWATCH_KAFKA_SSL_CERTIFICATE_LOCATION": str(other.issue("intruder").certificate),
        "MODELWATCH_KAFKA_SSL_KEY_LOCATION": str(tmp_path / "other" / "intruder.key"),
    }
    wrong = {"MODELWATCH_KAFKA_SASL_PASSWORD": "not-the-password"}
    untrusted = {"MODELWATCH_KAFKA_SSL_CA_LOCATION": str(other.certificate)}
    lost = {"MODELWATCH_KAFKA_SSL_CA_LOCATION": str(tmp_path / "lost.pem")}
    cases = {
        "worker-password": ("worker", kafka.user(worker, **wrong), "do not accept each other"),
        "worker-without": ("worker", kafka.user(worker, MODELWATCH_KAFKA_SASL_PASSWORD=""), "KAFKA_SASL_PASSWORD"),
        "worker-authority": ("worker", kafka.user(worker, **untrusted), "certificate"),
        "worker-lost-file": ("worker", kafka.user(worker, **lost), "MODELWATCH_KAFKA_SSL_"),
        "worker-certificate": ("worker", kafka.holder(worker, **certificate), "do not accept each other"),
        "worker-no-rights": ("worker", kafka.user(STRANGER), "uthoriz"),
        "agent-password": ("outliers", kafka.user(outliers, **wrong), "do not accept each other"),
        "agent-without": ("outliers", kafka.user(outliers, MODELWATCH_KAFKA_SASL_USERNAME=""), "KAFKA_SASL_USERNAME"),
        "agent-authority": ("outliers", kafka.user(outliers, **untrusted), "certificate"),
        "agent-certificate": ("outliers", kafka.holder(outliers, **certificate), "do not accept each other"),
    }
    before = kafka.refusals()
    processes = {
        name: process(service, variables, kafka, models, tmp_path, name)
        for name, (service, variables, _) in cases.items()
    }
    try:
        for one in processes.values():
            one.start()
        for name, one in processes.items():
            status = one.wait(SECONDS)
            assert status == CONFIGURATION_EXIT, f"{name}: {status}\n{one.last_words()}"
            said = one.last_words(1 << 20)
            lines = [line for line in said.splitlines() if not line.startswith("%") and '"info"' not in line]
            # Who is let in, and then has no rights, meets them one by one.
            assert len(lines) <= (5 if name.endswith("rights") else 1), f"{name}:\n{said}"
            assert cases[name][2] in lines[-1], f"{name}:\n{said}"
            assert not any(secret in said for secret in SECRETS), f"{name} shows a secret"
    finally:
        for one in processes.values():
            one.kill()
    # A client tries for a third of a second. On and on, a worker alone made some thirty attempts a second.
    assert kafka.refusals() - before <= 10 * len(cases), "a storm of attempts"


def test_the_doctor_calls_refused_credentials_a_failure_with_its_remedy(kafka: SecuredKafka) -> None:
    """It exited with 0 and said: start one with `modelwatch up`."""
    variables = kafka.user(PRINCIPALS["inference worker"], MODELWATCH_KAFKA_SASL_PASSWORD="not-the-password")
    environment = os.environ | variables | {"KAFKA_BOOTSTRAP_SERVERS": kafka.scram, "COLUMNS": "1000"}
    command = [sys.executable, "-m", "cli.main", "doctor", "--no-load"]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    [row] = [line for line in done.stdout.splitlines() if line.startswith("broker")]
    assert done.returncode == 1 and re.match(r"broker +no ", row), done.stdout + done.stderr
    assert "MODELWATCH_KAFKA_SECURITY_PROTOCOL, _SASL_ and _SSL_" in row and "modelwatch up" not in row
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


def test_rights_are_not_given_where_nobody_may(kafka: SecuredKafka) -> None:
    names = kafka.user(STRANGER)
    settings = Settings(**{name.removeprefix("MODELWATCH_").lower(): value for name, value in names.items()})
    with pytest.raises(ConfigurationError, match="Alter on the cluster"):
        create_acls(settings, "User:{name}")
    with pytest.raises(ConfigurationError, match="--acls"):
        create_acls(settings, "worker")
