"""docker-compose.yml, .env.example, the Dockerfile and the settings name the same things, and are well formed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.compose_guide import PLACES, guide
from cli.compose_variables import IMAGES, PORTS, PUBLISH
from cli.settings_documents import SECTIONS
from cli.stack import Ports
from runtime.settings import AgentSettings, Settings
from runtime.settings_documents import variables
from schemas.acls import GROUPS
from tests.conftest import missing
from tests.deployment.compose import PROJECT, SERVICES, compose_file, image_environment, load_compose
from tests.servers.kafka_artifacts import KAFKA_VERSION

COMPOSE_GO = PROJECT / "tests" / "deployment" / "compose_go"
CLASSES = {title.split()[0].lower(): cls for title, cls in SECTIONS}
SCRAPED = re.compile(r"names: \[(\w+)\]\n +type: A\n +port: (\d+)")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load_compose()


def settings_of(service: str) -> set[str]:
    """The variables of a service's settings class and of those above it."""
    cls = CLASSES["inference" if service.startswith("worker") else service]
    families = [one for one in cls.__mro__ if issubclass(one, Settings)]
    return {variable.name for one in families for variable in variables(one)}


@pytest.mark.parametrize("service", [*SERVICES, "worker-gpu"])
def test_each_service_names_exactly_the_variables_of_its_settings(compose: dict[str, Any], service: str) -> None:
    assert set(compose["services"][service]["environment"]) == settings_of(service)


def test_set_up_and_seed_name_the_common_variables(compose: dict[str, Any]) -> None:
    common = {variable.name for variable in variables(Settings)}
    for service in ("setup", "seed"):
        assert set(compose["services"][service]["environment"]) == common
    assert issubclass(CLASSES["drift"], AgentSettings)


def test_the_values_given_are_valid_settings(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for service in SERVICES:
        cls = CLASSES["inference" if service == "worker" else service]
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("MODELWATCH_", "KAFKA_", "ELASTICSEARCH_"))]:
                patch.delenv(name)
            environment = compose["services"][service]["environment"]
            for name, value in environment.items():
                if value is not None:
                    patch.setenv(name, value)
            settings = cls()
        assert (settings.host, settings.port, settings.instance) == ("0.0.0.0", 8080, service)


def test_every_image_and_published_port_is_the_one_of_env_example(compose: dict[str, Any]) -> None:
    text = compose_file()
    example = (PROJECT / ".env.example").read_text()
    used = dict(re.findall(r"image: \$\{(\w+):-([^}]+)\}", text))
    assert used == {name: image for name, (image, _) in IMAGES.items()}
    assert all(f"#{name}={image}" in example for name, image in used.items())
    ports = {
        name.removeprefix(PUBLISH): int(port)
        for name, port in re.findall(r"\$\{(MODELWATCH_PUBLISH_\w+):-(\d+)\}", text)
    }
    assert ports == PORTS
    assert all(f"#{PUBLISH}{service}={port}" in example for service, port in ports.items())
    assert all(":" in image and not image.endswith(":latest") for image in used.values())
    assert used["MODELWATCH_KAFKA_IMAGE"].endswith(f":{KAFKA_VERSION}"), "tests run another Kafka than compose does"


def test_only_the_loopback_address_is_published_and_there_is_no_password(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), f"{name} publishes {published}"
    given = {
        variable: value
        for service in compose["services"].values()
        for variable, value in service.get("environment", {}).items()
        if re.search("PASSWORD|TOKEN|SECRET|API_KEY", variable) and value
    }
    assert given == {}


def test_our_containers_are_locked_down_and_limited(compose: dict[str, Any]) -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert "\nUSER 10001:10001\n" in dockerfile and 'ENTRYPOINT ["tini", "--"]' in dockerfile
    for name in [*SERVICES, "worker-gpu", "setup", "seed", "guide"]:
        service = compose["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    for name, service in compose["services"].items():
        if service.get("restart"):
            assert service["deploy"]["resources"]["limits"]["memory"], name
            assert name in SERVICES or name == "worker-gpu" or service["healthcheck"]["test"], name


def test_each_service_runs_its_module_where_its_image_can_write(compose: dict[str, Any]) -> None:
    image = image_environment()
    for name, module in SERVICES.items():
        service = compose["services"][name]
        assert service["command"] == ["python", "-m", module]
        assert service["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
        assert "./models:/app/models:ro" in service["volumes"]
    state = compose["services"]["confusion"]["environment"]["MODELWATCH_STATE_FOLDER"]
    assert (
        state == image["MODELWATCH_STATE_FOLDER"]
        and f"confusion:{state}" in compose["services"]["confusion"]["volumes"]
    )
    assert f"cache:{image['MODELWATCH_CACHE']}" in compose["services"]["seed"]["volumes"]
    assert image["MODELWATCH_HOST"] == "0.0.0.0"


def test_prometheus_scrapes_the_services_at_their_port(compose: dict[str, Any]) -> None:
    mounts = dict(one.split(":")[:2] for one in compose["services"]["prometheus"]["volumes"])
    config = (
        PROJECT / next(source for source, target in mounts.items() if target.endswith("prometheus.yml"))
    ).read_text()
    scraped = {name: int(port) for name, port in SCRAPED.findall(config)}
    assert {name: port for name, port in scraped.items() if name in SERVICES} == dict.fromkeys(SERVICES, 8080)
    assert scraped["alertmanager"] == 9093


def test_grafana_and_kibana_are_given_what_their_files_ask_for(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    sources = (PROJECT / "grafana" / "provisioning" / "datasources" / "modelwatch.yml").read_text()
    assert set(re.findall(r"\$(\w+)", sources)) <= grafana["environment"].keys()
    folder = re.search(
        r"path: (\S+)", (PROJECT / "grafana" / "provisioning" / "dashboards" / "modelwatch.yml").read_text()
    )
    assert folder and f"./grafana/dashboards:{folder[1]}:ro" in grafana["volumes"]
    importer, script = compose["services"]["kibana-import"], (PROJECT / "kibana" / "import.sh").read_text()
    assert importer["entrypoint"] == ["sh", "/import/import.sh"] and importer["volumes"] == ["./kibana:/import:ro"]
    assert set(importer["environment"]) <= set(re.findall(r"\$\{(KIBANA_\w+):-", script))


def test_every_file_that_is_mounted_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for source in [one.split(":")[0] for one in service.get("volumes", [])]:
            assert not source.startswith(".") or (PROJECT / source).exists(), f"{name} mounts {source}"


def test_the_image_holds_what_the_services_import(compose: dict[str, Any]) -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {"schemas", "runtime", "inference", "agents", "training", "cli"}
    assert packages | {"elasticsearch", "models"} <= copied <= allowed
    locks = {"requirements.lock", "requirements-image.lock", "pyproject.toml", "README.md"}
    assert allowed == copied | locks


def test_the_images_lock_has_the_same_tensorflow() -> None:
    lock, image = ((PROJECT / name).read_text() for name in ("requirements.lock", "requirements-image.lock"))
    version = re.findall(r"^tensorflow==([\d.]+)", lock, re.MULTILINE)
    assert re.findall(r"^tensorflow-cpu==([\d.]+)", image, re.MULTILINE) == version
    blocks = re.findall(
        r"^[a-z][\w-]+==[\d.]+ [^\n]*\n(?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n)+", image, re.MULTILINE
    )
    assert "".join(blocks) == image, "a line without a version and hashes"


def test_the_guide_names_published_ports(monkeypatch: pytest.MonkeyPatch, compose: dict[str, Any]) -> None:
    monkeypatch.setenv(f"{PUBLISH}GRAFANA", "3333")
    text = guide()
    assert "http://127.0.0.1:3333" in text and "127.0.0.1:9092" in text
    assert {f"{PUBLISH}{service}" for service, _, _ in PLACES.values()} == set(
        compose["services"]["guide"]["environment"]
    )


def test_groups_of_the_table_of_rights_are_those_of_the_settings() -> None:
    fields = {"inference worker": "group"} | {name: f"{name}_group" for name in SERVICES if name != "worker"}
    classes = {"inference worker": CLASSES["inference"], **CLASSES}
    assert {name: classes[name].model_fields[field].default for name, field in fields.items()} == GROUPS


def test_the_file_is_one_that_docker_compose_loads(compose: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("go") is None:
        missing("`go` is not on PATH, which builds the loader of Docker Compose")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MODELWATCH_", "COMPOSE_"))}
    done = subprocess.run(
        ["go", "run", ".", str(PROJECT / "docker-compose.yml")],
        cwd=COMPOSE_GO,
        env=clean | {"GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    loaded: Mapping[str, Any] = json.loads(done.stdout)["services"]
    assert set(loaded) == set(compose["services"])
    for name, service in compose["services"].items():
        found, written = loaded[name].get("environment") or {}, service.get("environment", {})
        texts = {key: None if value is None else str(value) for key, value in written.items()}
        assert {key: value or None for key, value in found.items()} == texts, name
        assert loaded[name].get("command") == service.get("command"), name
        assert loaded[name]["image"] == service["image"]


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), "Dockerfile"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ports_are_those_of_make_up() -> None:
    ports = Ports()
    named = (PORTS["KAFKA"], PORTS["ELASTICSEARCH"], PORTS["WORKER"], PORTS["OUTLIERS"])
    assert (ports.kafka, ports.elasticsearch, ports.worker, ports.agents) == named


def test_no_health_check_asks_a_proxy(compose: dict[str, Any]) -> None:
    """Docker gives containers the proxies of its own configuration, and none of them knows a container's localhost."""
    asked = 0
    for name, service in compose["services"].items():
        said = " ".join(service.get("healthcheck", {}).get("test", []))
        if "http://" in said:
            assert "curl --noproxy '*'" in said or "http_proxy= wget" in said, name
            asked += 1
    assert asked >= 5
