"""The commands as a newcomer types them: the demo's verdict, the pipeline up and down, images in and pairs out."""

import base64
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cli.report.page import SECTIONS
from runtime import kafka
from runtime.model_folder import write_checksums
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.topics import EXPLANATION_REQUESTS
from tests.e2e.watched_demo import WatchedDemo, panel_queries
from tests.servers.apache_kafka import ApacheKafka
from views.rules import rules

MODELWATCH = [sys.executable, "-m", "cli.main"]
START_SECONDS = 400
DEMO_CHECKS = {
    "1000 × clean",
    *(f"1000 × {name}" for name in ("gaussian_noise", "motion_blur", "brightness", "pixelate")),
    "the truck is a truck",
    "the truck by HTTP (V2)",
    "the truck by HTTP (V1, as in the article)",
    "the truck's explanation holds",
    "the masked truck's scores rise",
    "small masks pass, large ones are flagged",
    "clean images are flagged about as often as was set",
    "accuracy agrees with the model card",
    "rolling accuracy follows feedback at 90%",
    "rolling accuracy at 90% is that of the stored records",
    "rolling accuracy follows feedback at 40%",
    "rolling accuracy at 40% is that of the stored records",
    "lifetime accuracy is that of the stored records",
    "every request has exactly one pair",
    "every request has exactly one record with its verdict",
    "dead letters are the bad messages sent on purpose",
}
MAY_BE_EMPTY = {
    "modelwatch_drift_topics_made_anew_total": "no topic is made anew",
    "modelwatch_repeated_requests_total": "no id is asked again",
    "modelwatch_surplus_answers_total": "no id has more answers than are kept",
    "modelwatch_unreadable_state_total": "nobody else writes to the join's topics",
    "gpu_memory": "there is no GPU",
    "modelwatch_value_": "the reference model has no breakdown by an attribute",
    "modelwatch_rmse": "the reference model predicts classes",
    "modelwatch_mae": "the reference model predicts classes",
    "explanations_asked": "the outliers agent's policy is off by default",
    "policy_questions": "the reference model has no policy that asks for explanations",
    "feedback_not_compared": "likewise",
    "unscored": "no request expires, and every model has a detector",
}
"""Parts of the names of metrics that the demo need not show, and why."""
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt-get install prometheus)"
)


def run(*arguments: str, timeout: float = 400, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(
        [*MODELWATCH, *arguments], capture_output=True, text=True, timeout=timeout, env=variables, check=False
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedDemo]:
    """One run of the demo for all tests about it, watched by a real Prometheus where that is installed."""
    watched = WatchedDemo(tmp_path_factory.mktemp("demo"), timeout=840)
    try:
        watched.run()
        yield watched
    finally:
        if watched.prometheus is not None:
            watched.prometheus.kill()


def test_the_demo_holds_and_says_so(demo: WatchedDemo) -> None:
    assert demo.status == 0, demo.output
    assert str(demo.report / "report.html") in demo.output.splitlines()[-1]
    report = json.loads((demo.report / "report.json").read_text())
    assert all(set(check) == {"name", "expected", "observed", "ok"} and check["ok"] for check in report["checks"])
    assert {check["name"] for check in report["checks"]} == DEMO_CHECKS
    counts = report["counts"]
    assert counts["pairs"] == counts["records"] == counts["sent"] == 6011
    assert counts["dead_letters"] == counts["bad_sent"] > 0
    assert report["seconds"]["total"] > 0


def test_the_demos_page_has_all_sections_and_every_check(demo: WatchedDemo) -> None:
    page = (demo.report / "report.html").read_text()
    text = html.unescape(page)
    assert all(f'<section id="{anchor}"' in page and title in page for anchor, title in SECTIONS)
    assert all(name in text for name in DEMO_CHECKS) and f"All {len(DEMO_CHECKS)} checks hold" in text
    assert "did not come to" not in page and "6,011" in page and len(page) < 4_000_000


@needs_prometheus
def test_every_query_of_panels_and_rules_is_valid_and_has_data_after_the_demo(demo: WatchedDemo) -> None:
    pages = [json.loads(file.read_text()) for file in sorted(Path("grafana/dashboards").glob("*.json"))]
    asked = panel_queries(pages)
    asked += [(rule["record"], rule["expr"]) for rule in rules() if "record" in rule]
    empty = {expression: where for where, expression in asked if not demo.ever(expression)}
    without_reason = {
        expression: where for expression, where in empty.items() if not any(name in expression for name in MAY_BE_EMPTY)
    }
    assert len(asked) > 100
    assert not without_reason, "\n".join(f"{where}: {expression}" for expression, where in without_reason.items())
    for rule in rules():
        demo.ever(rule["expr"])  # raises if Prometheus refuses it; an alert's own has a value only while it fires


@needs_prometheus
def test_alerts_fire_in_the_phases_of_the_demo_that_they_are_about_and_not_in_the_clean_one(demo: WatchedDemo) -> None:
    strangeness = {"ModelwatchDriftDetected", "ModelwatchDriftPersists", "ModelwatchOutlierRateHigh"}
    accuracy = {"ModelwatchAccuracyLow", "ModelwatchEstimatedAccuracyLow"}
    clean, corrupted = demo.moment("Streaming"), demo.moment("gaussian_noise")
    right, wrong = demo.moment("feedback at 90%"), demo.moment("feedback at 40%")
    end = demo.moment("images answered in")
    assert demo.firing(clean, corrupted) & (strangeness | accuracy) == set()
    assert demo.firing(corrupted, right) >= strangeness
    assert "ModelwatchAccuracyLow" not in demo.firing(corrupted, wrong)
    assert "ModelwatchAccuracyLow" in demo.firing(wrong, end)
    assert "ModelwatchDeadLetters" in demo.firing(clean, corrupted)  # the bad messages that it sends on purpose
    assert not {"ModelwatchRecordsRejected", "ModelwatchRebalanceStorm"} & demo.firing(clean, end)


@pytest.mark.slow
def test_the_demo_fails_and_names_the_check_when_a_detector_is_wrong(tmp_path: Path) -> None:
    models = tmp_path / "models" / "cifar10-resnet32"
    models.mkdir(parents=True)
    shutil.copytree("models/cifar10-resnet32", models, dirs_exist_ok=True)
    spec = yaml.safe_load((models / "model.yaml").read_text())
    spec["outliers"]["threshold"] = 1.0
    spec["drift"] = {}  # its windows take most of the demo's time
    (models / "model.yaml").write_text(yaml.safe_dump(spec))
    write_checksums(models)
    done = run(
        "demo", "--images", "100", "--output", str(tmp_path / "out"), timeout=840, MODELWATCH_MODELS=str(models.parent)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    broken = "small masks pass, large ones are flagged"
    assert f"1 failed: {broken}" in done.stdout
    assert [check["name"] for check in report["checks"] if not check["ok"]] == [broken]
    assert re.search(rf"1 of \d+ checks fail.*<li>{broken}</li>", (tmp_path / "out" / "report.html").read_text(), re.S)


APACHE = pytest.param("apache", marks=[pytest.mark.real_kafka, pytest.mark.slow])


@pytest.fixture(scope="module", params=["embedded", APACHE])
def up_servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `up` finds in its environment: nothing, so that it starts a broker; or an Apache Kafka."""
    if request.param == "embedded":
        yield {}
        return
    server = ApacheKafka(tmp_path_factory.mktemp("broker") / "kafka", request.getfixturevalue("apache_libraries"))
    server.start()
    yield {"KAFKA_BOOTSTRAP_SERVERS": server.bootstrap}
    server.kill()


@pytest.fixture(scope="module")
def up_data(up_servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `up`."""
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def pipeline(up_data: Path, up_servers: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`modelwatch up` on free ports: the process, and its broker's address."""
    log = up_data / "up.log"
    ports = ["--kafka-port", "0", "--elasticsearch-port", "0", "--worker-port", "0", "--agents-port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*MODELWATCH, "up", *ports, "--data", str(up_data / "servers")],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **up_servers},
        )
    deadline = time.monotonic() + START_SECONDS
    while "modelwatch is up" not in log.read_text() or not (found := re.search(r"Kafka +(\S+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield process, found[1]
    process.kill()
    process.wait()


@pytest.fixture
def urls(pipeline: tuple[subprocess.Popen[str], str], up_data: Path) -> dict[str, str]:
    """Where each agent serves its metrics, as `modelwatch up` said."""
    log = (up_data / "up.log").read_text()
    return dict(re.findall(r"^ +(outliers|drift|confusion|explanations) +(http\S+)", log, re.MULTILINE))


def test_produced_images_are_shown_as_pairs(pipeline: tuple[subprocess.Popen[str], str]) -> None:
    server = {"KAFKA_BOOTSTRAP_SERVERS": pipeline[1]}
    sent = run("produce", "truck", "--count", "3", "--prefix", "e2e", "--bad", "2", **server)
    assert sent.returncode == 0, sent.stderr
    assert "Sent 3 images and 2 bad messages" in sent.stdout and "e2e-" in sent.stdout
    deadline = time.monotonic() + 30
    while True:
        shown = run("pairs", "--no-follow", "--json", **server)
        pairs = [json.loads(line) for line in shown.stdout.splitlines()]
        ours = [pair for pair in pairs if pair["request"]["request_id"].startswith("e2e-truck")]
        if len(ours) >= 3 or time.monotonic() > deadline:
            break
    assert len(ours) == 3, shown.stdout + shown.stderr
    assert {pair["response"]["label"] for pair in ours} == {"truck"}


@pytest.mark.slow
def test_an_answer_is_explained_by_its_id(pipeline: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    server = {"KAFKA_BOOTSTRAP_SERVERS": pipeline[1]}
    assert run("produce", "truck", "--count", "1", "--prefix", "why", **server).returncode == 0
    name = "why-truck-00000-00000"
    done = run("explain", name, "--json", "--output", str(tmp_path), "--timeout", "60", **server)
    assert done.returncode == 0, done.stdout + done.stderr
    [answer] = json.loads(done.stdout)
    assert (answer["outcome"], answer["label"]) == ("ok", "truck") and answer["precision"] >= 0.95 and answer["anchor"]
    assert Path(answer["overlay"]).read_bytes().startswith(b"\x89PNG")
    other = run("explain", "nobody", "--output", str(tmp_path), **server)
    assert other.returncode == 1 and "no pair of id nobody" in other.stdout


@pytest.mark.slow
def test_two_hundred_questions_at_once_leave_the_other_agents_alone(
    pipeline: tuple[subprocess.Popen[str], str], urls: dict[str, str]
) -> None:
    server = {"KAFKA_BOOTSTRAP_SERVERS": pipeline[1]}
    producer = kafka.producer(Settings(kafka_bootstrap_servers=pipeline[1]))
    image = {"dtype": "uint8", "shape": (32, 32, 3), "data": base64.b64encode(bytes(3072)).decode()}
    for number in range(200):
        question = {"request_id": f"storm-{number}", "image": image, "asked_at": utc_now().isoformat()}
        kafka.produce(producer, EXPLANATION_REQUESTS.name, value=json.dumps(question), key=question["request_id"])
    assert producer.flush(10) == 0
    before = {name: metrics_of(urls[name]) for name in urls}
    assert run("produce", "cifar10", "--count", "200", "--prefix", "storm", **server).returncode == 0
    answered = "modelwatch_explanations_total"
    deadline = time.monotonic() + 600
    while True:
        seen = {name: metrics_of(urls[name]) for name in urls}
        scored = seen["outliers"]["modelwatch_scored_total"] - before["outliers"].get("modelwatch_scored_total", 0)
        lags = [seen[name].get("modelwatch_consumer_lag", 0) for name in ("outliers", "drift", "confusion")]
        answers = seen["explanations"][answered] - before["explanations"].get(answered, 0)
        if scored >= 200 and not any(lags) and answers == 200:
            break
        assert time.monotonic() < deadline, (scored, lags, answers)
        time.sleep(0.5)
    assert {name: seen[name]["process_start_time_seconds"] for name in urls} == {
        name: before[name]["process_start_time_seconds"] for name in urls
    }


def metrics_of(url: str) -> dict[str, float]:
    """Sums of all samples of one name."""
    sums: dict[str, float] = defaultdict(float)
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        for family in text_string_to_metric_families(response.read().decode()):
            for sample in family.samples:
                sums[sample.name] += sample.value
    return dict(sums)


def test_every_corruption_and_the_mask_can_be_produced(pipeline: tuple[subprocess.Popen[str], str]) -> None:
    server = {"KAFKA_BOOTSTRAP_SERVERS": pipeline[1]}
    for options in (["--corruption", "gaussian_noise", "--severity", "2"], ["--mask", "8"], ["--format", "v2"]):
        sent = run("produce", "--count", "5", *options, **server)
        assert sent.returncode == 0 and "Sent 5 images" in sent.stdout, sent.stderr


def test_top_finds_the_processes_and_shows_their_figures(
    pipeline: tuple[subprocess.Popen[str], str], up_data: Path
) -> None:
    done = run("top", "--once", "--interval", "0.5", "--data", str(up_data / "servers"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 processes ready" in done.stdout, done.stdout
    assert re.search(r"answers +\d.*/s, [1-9]\d* in all", done.stdout), done.stdout
    assert re.search(r"kafka p50 p95 p99 +[\d,]+  [\d,]+  [\d,]+ ms", done.stdout), done.stdout
    assert "inference: unreadable_image" in done.stdout and "open window" in done.stdout


@pytest.mark.slow
def test_the_seed_tells_the_whole_story(pipeline: tuple[subprocess.Popen[str], str]) -> None:
    sent = run("seed", "--images", "10", "--rate", "1000", KAFKA_BOOTSTRAP_SERVERS=pipeline[1])
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "calls 90% of the answers right" in sent.stdout and "calls 40% of the answers right" in sent.stdout
    assert sent.stdout.count("Sending") == 16 and "Done." in sent.stdout


def test_the_doctor_finds_a_running_pipeline_healthy(
    pipeline: tuple[subprocess.Popen[str], str], up_data: Path
) -> None:
    [store] = re.findall(r"Elasticsearch +(http\S+)", (up_data / "up.log").read_text())  # not whoever has port 9200
    done = run("doctor", KAFKA_BOOTSTRAP_SERVERS=pipeline[1], ELASTICSEARCH_URL=store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"topics +ok +all exist", done.stdout) and "checksums agree" in done.stdout


def test_ctrl_c_stops_everything_cleanly(pipeline: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = pipeline
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_missing_broker_is_one_line_not_a_traceback() -> None:
    said = {
        ("produce", "nothing-here"): "no broker answered",
        ("setup",): "KAFKA_BOOTSTRAP_SERVERS",
        ("pairs",): "no broker answered",
    }
    with ThreadPoolExecutor(len(said)) as threads:  # each waits ten seconds for its broker
        ends = threads.map(lambda arguments: run(*arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"), said)
    for done, text in zip(ends, said.values(), strict=True):
        assert done.returncode == 1
        assert text in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = run("setup", MODELWATCH_KAFKA_PARTITIONS="many")
    assert done.returncode == 78
    assert "MODELWATCH_KAFKA_PARTITIONS" in done.stderr and "many" in done.stderr


def test_a_time_that_cannot_be_read_is_named() -> None:
    done = run("replay", "--from", "yesterday")
    assert done.returncode == 78
    assert "--from" in done.stderr and "yesterday" in done.stderr and "Traceback" not in done.stderr


def test_a_mask_that_is_larger_than_the_picture_is_refused_with_what_it_may_be() -> None:
    done = run("produce", "truck", "--mask", "50")
    assert done.returncode == 2
    assert "31" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_of_older_models_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("replay", "--older-models", str(tmp_path / "nowhere"))
    assert done.returncode == 78
    assert "--older-models" in done.stderr and "nowhere" in done.stderr
