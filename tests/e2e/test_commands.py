"""The commands as a newcomer types them: the demo's verdict, the pipeline up and down, images in and pairs out."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cli.report.page import SECTIONS
from runtime.model_folder import write_checksums

MODELWATCH = [sys.executable, "-m", "cli.main"]
START_SECONDS = 120
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


def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(
        [*MODELWATCH, *arguments], capture_output=True, text=True, timeout=timeout, env=variables, check=False
    )


def test_the_demo_holds_and_says_so(tmp_path: Path) -> None:
    done = run("demo", "--output", str(tmp_path), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path / "report.html") in done.stdout.splitlines()[-1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(set(check) == {"name", "expected", "observed", "ok"} and check["ok"] for check in report["checks"])
    assert {check["name"] for check in report["checks"]} == DEMO_CHECKS
    counts = report["counts"]
    assert counts["pairs"] == counts["records"] == counts["sent"] == 6011
    assert counts["dead_letters"] == counts["bad_sent"] > 0
    assert report["seconds"]["total"] > 0
    html = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{anchor}"' in html and title in html for anchor, title in SECTIONS)
    assert "did not come to" not in html and "6,011" in html and len(html) < 4_000_000
    assert all(
        name in html for name in DEMO_CHECKS - {"the truck's explanation holds", "the masked truck's scores rise"}
    )


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
        "demo", "--images", "100", "--output", str(tmp_path / "out"), timeout=240, MODELWATCH_MODELS=str(models.parent)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    broken = "small masks pass, large ones are flagged"
    assert f"1 failed: {broken}" in done.stdout
    assert [check["name"] for check in report["checks"] if not check["ok"]] == [broken]
    assert re.search(rf"1 of \d+ checks fail.*<li>{broken}</li>", (tmp_path / "out" / "report.html").read_text(), re.S)


@pytest.fixture(scope="module")
def up_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `up`."""
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def pipeline(up_data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`modelwatch up` on free ports: the process, and its broker's address."""
    log = up_data / "up.log"
    ports = ["--kafka-port", "0", "--elasticsearch-port", "0", "--worker-port", "0", "--agents-port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*MODELWATCH, "up", *ports, "--data", str(up_data / "servers")],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while "modelwatch is up" not in log.read_text() or not (found := re.search(r"Kafka +(\S+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield process, found[1]
    process.kill()
    process.wait()


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


def test_the_doctor_finds_a_running_pipeline_healthy(pipeline: tuple[subprocess.Popen[str], str]) -> None:
    done = run("doctor", KAFKA_BOOTSTRAP_SERVERS=pipeline[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all topics exist" in done.stdout and "checksums agree" in done.stdout


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
