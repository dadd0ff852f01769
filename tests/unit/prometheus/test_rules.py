"""Prometheus' own tools on our files; and what they cannot know: names in the registry, runbooks in the docs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stack import AGENTS
from tests.servers.prometheus import quickened
from views.registry import metric_facts, names_in
from views.rules import recorded, rules

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "prometheus"
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, cwd=PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", *map(str, sorted((FOLDER / "rules").glob("*.yml"))))


@pytest.mark.parametrize("place", ["local", "compose", "k8s"])
def test_promtool_accepts_the_configuration(place: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "rules", tmp_path / "rules")
    configuration = yaml.safe_load((FOLDER / f"prometheus.{place}.yml").read_text())
    for job in configuration["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)  # Debian's build has no Kubernetes in it
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_every_service_is_scraped_in_compose_under_the_name_that_rules_know() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.compose.yml").read_text())
    jobs = {
        job["job_name"]: [*job["dns_sd_configs"][0]["names"], job["dns_sd_configs"][0]["port"]]
        for job in configuration["scrape_configs"]
    }
    assert jobs == {f"modelwatch-{name}": [name, 8080] for name in ("worker", *AGENTS)}


def test_every_alert_fires_and_is_silent_as_it_should() -> None:
    promtool("test", "rules", str(FOLDER / "tests" / "alerts.test.yml"))


def test_every_alert_is_tested_on_both_sides() -> None:
    tests = yaml.safe_load((FOLDER / "tests" / "alerts.test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fires = {check["alertname"] for check in checks if check.get("exp_alerts")}
    silent = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    # Of an alert that fires for one series of a test, the others of it are the silent side.
    several = {check["alertname"] for test in tests for check in test["alert_rule_test"] if len(_models(test)) > 1}
    names = {alert["alert"] for alert in ALERTS}
    assert fires == names and silent | several >= names


def _models(test: dict[str, Any]) -> set[str]:
    return {found for one in test["input_series"] for found in re.findall(r'model="(\w+)"', one["series"])}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    page, anchor = notes["runbook_url"].split("#")
    sections = re.findall(r"^### (\w+)$", (PROJECT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower() and alert["alert"] in sections


def test_every_section_of_the_runbook_has_its_alert() -> None:
    sections = re.findall(r"^### (\w+)$", (PROJECT / "docs" / "operate.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(alert["alert"] for alert in ALERTS)


def test_rules_ask_for_metrics_that_exist() -> None:
    known = {series for fact in metric_facts() for series in fact.series} | set(recorded())
    asked = set().union(*(names_in(rule["expr"]) for rule in rules()))
    assert asked - known == set()


def test_the_bucket_of_the_latency_objective_exists() -> None:
    from runtime.metrics import LATENCY_BUCKETS

    bounds = set(re.findall(r'le="([0-9.]+)"', (FOLDER / "rules" / "latency.yml").read_text()))
    assert bounds and {float(bound) for bound in bounds} <= set(LATENCY_BUCKETS)
    assert all(bound == str(float(bound)) for bound in bounds)  # as the client library writes them


def test_alertmanager_names_only_alerts_that_exist_and_no_secret() -> None:
    configuration = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    text = str(configuration)
    named = set(re.findall(r'alertname="(\w+)"', text))
    assert named and named <= {alert["alert"] for alert in ALERTS}
    receivers = {receiver["name"] for receiver in configuration["receivers"]}
    assert {configuration["route"]["receiver"], *(route["receiver"] for route in configuration["route"]["routes"])} == (
        receivers
    )
    assert all(set(receiver) == {"name"} for receiver in configuration["receivers"])


@pytest.mark.parametrize(
    ("expression", "quick"),
    [
        ('rate(x_total{le="1.0"}[5m]) / 2', 'rate(x_total{le="1.0"}[5000ms]) / 2'),
        ("x offset 1h > 1000 and model:x:ratio_rate10m", "x offset 60000ms > 1000 and model:x:ratio_rate10m"),
        ("2m", "2000ms"),
    ],
)
def test_time_that_runs_faster_shortens_durations_and_nothing_else(expression: str, quick: str) -> None:
    assert quickened(expression, 60) == quick
