"""k8s/: every overlay builds, every object is valid, and all of it names what the settings, topics and compose name."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from cli.compose_variables import IMAGES
from cli.manifests import PARTITIONS, REPLICAS
from cli.settings_documents import SECTIONS
from runtime.settings import Settings
from runtime.settings_documents import variables
from schemas.acls import PRINCIPALS, SETUP, rights
from schemas.topics import TOPICS
from tests.conftest import missing
from tests.deployment.compose import PROJECT, SERVICES, load_compose
from tests.servers.kafka_artifacts import strimzi_libraries
from tests.servers.maven import MissingServerError

CORE_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.34.0-local-strict"
"""What Kubernetes 1.34 takes, and not a field more."""
OVERLAYS = ("local", "production")
CRDS = PROJECT / "tests" / "deployment" / "crds"
VALIDATED = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
STRIMZI = "kafka.strimzi.io/v1"
UNVALIDATED = {"elasticsearch.k8s.elastic.co/v1", "kibana.k8s.elastic.co/v1"}
"""No package carries their schemas in a form to validate with; see docs/kubernetes.md."""
SECRET = "PASSWORD|TOKEN|API_KEY"
Object = dict[str, Any]


@cache
def build(overlay: str) -> list[Object]:
    if shutil.which("kubectl") is None:
        missing("`kubectl` is not on PATH")
    done = subprocess.run(
        ["kubectl", "kustomize", str(PROJECT / "k8s" / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unknown field" in done.stderr and "components" in done.stderr:
        missing("this `kubectl` has a kustomize from before 4.0, which knows no components")
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def definitions() -> Resource[Any]:
    return Resource.from_contents(json.loads((CORE_SCHEMAS / "_definitions.json").read_text()))


@cache
def validator_of(kind: str, api_version: str) -> Draft202012Validator:
    """The package's own `validate` reads its megabytes of definitions anew for each object."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads((CORE_SCHEMAS / f"{kind.lower()}-{group}.json").read_text())
    return Draft202012Validator(schema, registry=definitions() @ (Resource.from_contents(schema) @ Registry()))


def of(objects: list[Object], kind: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def workloads(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Name, pod and container of each workload of ours."""
    for one in objects:
        if one["kind"] in ("StatefulSet", "Job") and one["metadata"].get("labels", {}).get("app.kubernetes.io/name"):
            template = one["spec"]["template"]
            [container] = template["spec"]["containers"]
            yield one["metadata"]["labels"]["app.kubernetes.io/component"], template, container


def settings_class(service: str) -> type[Settings]:
    classes = {title.split()[0].lower(): cls for title, cls in SECTIONS}
    return classes["every" if service == "setup" else "inference" if service == "worker" else service]


def names_of(cls: type[Settings]) -> set[str]:
    return {variable.name for one in cls.__mro__ if issubclass(one, Settings) for variable in variables(one)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_core_object_is_valid(overlay: str) -> None:
    checked = 0
    for one in build(overlay):
        if one["apiVersion"] in {STRIMZI} | VALIDATED | UNVALIDATED:
            continue
        problems = [error.message for error in validator_of(one["kind"], one["apiVersion"]).iter_errors(one)]
        assert not problems, f"{one['kind']} {one['metadata']['name']}: {problems}"
        checked += 1
    assert checked >= 20


def test_the_validation_sees_a_field_that_does_not_exist() -> None:
    worker = json.loads(json.dumps(of(build("local"), "StatefulSet")["worker"]))
    worker["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    [problem] = validator_of("StatefulSet", "apps/v1").iter_errors(worker)
    assert "livenesProbe" in problem.message


@pytest.mark.real_kafka
def test_strimzis_objects_have_no_field_that_its_classes_do_not_know(tmp_path: Path) -> None:
    try:
        jars = strimzi_libraries()
    except MissingServerError as reason:
        missing(str(reason))
    objects = [one for one in build("production") if one["apiVersion"] == STRIMZI]
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.yaml"
    right.write_text(yaml.safe_dump_all(objects))
    wrong.write_text(right.read_text().replace("replicas:", "replica:"))
    check = ["java", "-cp", f"{jars}/*", str(Path(__file__).with_name("StrimziCheck.java"))]
    done, failed = (
        subprocess.run([*check, str(file)], capture_output=True, text=True, timeout=120) for file in (right, wrong)
    )
    assert done.returncode == 0 and f"{len(objects)} objects, 0 unknown" in done.stdout, done.stdout + done.stderr
    assert failed.returncode == 1 and "KafkaTopic/inference.requests.Spec [replica]" in failed.stdout


def test_operators_objects_are_valid_by_the_schemas_that_they_publish() -> None:
    ours = [one for one in build("production") if one["apiVersion"] in VALIDATED]
    assert {one["kind"] for one in ours} >= {"ScaledObject", "TriggerAuthentication", "ServiceMonitor"}
    if shutil.which("npm") is None:
        missing("`npm` is not on PATH")
    if not (CRDS / "node_modules").exists():
        install = ["npm", "ci", "--silent", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=CRDS, check=True, capture_output=True, timeout=200)
    wrong = json.loads(json.dumps(next(one for one in ours if one["kind"] == "ScaledObject")))
    del wrong["spec"]["triggers"][0]["metadata"]
    done = [
        subprocess.run(
            ["node", "validate.mjs"], cwd=CRDS, input=json.dumps(some), capture_output=True, text=True, timeout=60
        )
        for some in (ours, [wrong])
    ]
    assert done[0].returncode == 0, done[0].stdout + done[0].stderr
    assert done[1].returncode == 1 and "metadata" in done[1].stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_of_its_service_and_has_a_valid_value(overlay: str) -> None:
    objects = build(overlay)
    [config] = [
        one for one in of(objects, "ConfigMap").values() if one["metadata"]["name"].startswith("modelwatch-settings")
    ]
    seen = set()
    for service, _, container in workloads(objects):
        seen.add(service)
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        cls = settings_class(service)
        own = {one["name"]: one.get("value") for one in container.get("env", [])}
        secret = {name: "from-a-secret-of-the-cluster" for name in own if re.search(SECRET, name)}
        assert own.keys() | config["data"].keys() <= names_of(cls), service
        given = {
            name.removeprefix("MODELWATCH_").lower(): value
            for name, value in (config["data"] | own | secret).items()
            if value
        }
        cls(**given)
        literal = {name for name, value in own.items() if value and re.search(SECRET, name)}
        assert not literal, f"{service} has a secret in its manifest: {literal}"
    assert seen == {*SERVICES, "setup"}


def test_production_sets_the_security_of_every_service() -> None:
    for service, _, container in workloads(build("production")):
        sources = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container["env"]}
        assert sources["MODELWATCH_KAFKA_SASL_PASSWORD"] == {"name": f"modelwatch-{service}", "key": "password"}
        key = "modelwatch-elasticsearch-setup" if service == "setup" else "modelwatch-elasticsearch"
        assert sources["MODELWATCH_ELASTICSEARCH_API_KEY"] == {"name": key, "key": "api-key"}
        paths = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/etc/modelwatch/kafka", "/etc/modelwatch/elasticsearch"} <= paths


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_ports_and_images_are_those_of_compose(overlay: str) -> None:
    objects, compose = build(overlay), load_compose()["services"]
    for service, _, container in workloads(objects):
        if service == "setup":
            assert container["args"][:2] == compose["setup"]["command"][:2]
            continue
        assert container["args"] == compose[service]["command"]
        assert container["ports"] == [
            {"name": "http", "containerPort": int(compose[service]["environment"]["MODELWATCH_PORT"])}
        ]
        gpu = overlay == "production" and service == "worker"
        assert container["image"] == IMAGES["MODELWATCH_GPU_IMAGE" if gpu else "MODELWATCH_IMAGE"][0]
    if overlay == "local":
        servers = {
            name: one["spec"]["template"]["spec"]["containers"][0] for name, one in of(objects, "StatefulSet").items()
        }
        assert servers["kafka"]["image"] == IMAGES["MODELWATCH_KAFKA_IMAGE"][0]
        assert servers["elasticsearch"]["image"] == IMAGES["MODELWATCH_ELASTICSEARCH_IMAGE"][0]
    else:
        version = IMAGES["MODELWATCH_ELASTICSEARCH_IMAGE"][0].split(":")[1]
        assert {of(objects, kind)["modelwatch"]["spec"]["version"] for kind in ("Elasticsearch", "Kibana")} == {version}
        assert (
            of(objects, "Kafka")["modelwatch"]["spec"]["kafka"]["version"]
            == IMAGES["MODELWATCH_KAFKA_IMAGE"][0].split(":")[1]
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_pass_the_restricted_standard_and_are_probed_spread_and_bounded(overlay: str) -> None:
    for service, template, container in workloads(build(overlay)):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"} <= container["resources"]["limits"].keys()
        if service == "setup":
            continue
        for probe, path in (("startup", "live"), ("readiness", "ready"), ("liveness", "live")):
            assert container[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{path}"
        assert pod["terminationGracePeriodSeconds"] >= 25 and len(pod["topologySpreadConstraints"]) == 2
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "modelwatch"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_select_pods_of_ours(overlay: str) -> None:
    objects = build(overlay)
    labels = [template["metadata"]["labels"] for _, template, _ in workloads(objects)]
    budgets = [one["spec"]["selector"]["matchLabels"] for one in of(objects, "PodDisruptionBudget").values()]
    services = [
        one["spec"]["selector"] for one in of(objects, "Service").values() if "app" not in one["spec"]["selector"]
    ]
    policies = [one["spec"]["podSelector"]["matchLabels"] for one in of(objects, "NetworkPolicy").values()]
    for selector in [*budgets, *services, *policies]:
        assert any(selector.items() <= own.items() for own in labels), selector
    assert {one["app.kubernetes.io/component"] for one in budgets} == set(SERVICES)
    deny = of(objects, "NetworkPolicy")["modelwatch-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in deny and "egress" not in deny
    assert all(deny["podSelector"]["matchLabels"].items() <= own.items() for own in labels)


def test_only_one_autoscaler_is_at_each_service() -> None:
    local, production = build("local"), build("production")
    assert not of(local, "HorizontalPodAutoscaler") and not of(production, "HorizontalPodAutoscaler")
    targets = [one["spec"]["scaleTargetRef"]["name"] for one in of(production, "ScaledObject").values()]
    assert sorted(targets) == sorted(SERVICES)
    base = yaml.safe_load_all((PROJECT / "k8s" / "base" / "worker.yaml").read_text())
    assert "HorizontalPodAutoscaler" in {one["kind"] for one in base}


def test_a_group_that_has_not_committed_has_its_lag_from_the_beginning_on() -> None:
    """KEDA's defaults are of another kind: a group starts at the end, and brokers speak the protocol of Kafka 1.0."""
    triggers = [
        trigger["metadata"]
        for one in of(build("production"), "ScaledObject").values()
        for trigger in one["spec"]["triggers"]
        if trigger["type"] == "kafka"
    ]
    assert len(triggers) == len(SERVICES)
    for metadata in triggers:
        assert metadata["offsetResetPolicy"] == "earliest"
        assert tuple(map(int, metadata["version"].split("."))) >= (2, 1, 0), "KIP-896"
        # A replica more than partitions has nothing to do; one that is stuck is to be seen.
        for name in ("allowIdleConsumers", "scaleToZeroOnInvalidOffset", "excludePersistentLag"):
            assert metadata[name] == "false"


def test_other_settings_make_another_set_up_job_and_the_same_ones_the_same(tmp_path: Path) -> None:
    """A Job cannot be changed: applied again under its name with other settings, it would be refused."""

    def name_with(partitions: int) -> str:
        folder = tmp_path / "k8s"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PROJECT / "k8s", folder)
        settings = folder / "base" / "settings.env"
        settings.write_text(settings.read_text().replace("PARTITIONS=4", f"PARTITIONS={partitions}"))
        [job] = of(build(str(folder / "overlays" / "local")), "Job").values()
        build.cache_clear()
        return str(job["metadata"]["name"])

    assert name_with(4) == name_with(4) != name_with(8)


def test_the_pods_that_the_documents_wait_for_are_those_that_become_ready() -> None:
    """The set-up Job's pod completes, and is never ready."""
    [selector] = re.findall(r"wait --for=condition=Ready pod -l (\S+)", (PROJECT / "docs/kubernetes.md").read_text())
    wanted = [re.fullmatch(r"([^!=]+)(!?=)(.+)", part) for part in selector.split(",")]
    chosen = [
        name
        for name, template, _ in workloads(build("local"))
        if all(part and (template["metadata"]["labels"].get(part[1]) == part[3]) == (part[2] == "=") for part in wanted)
    ]
    assert sorted(chosen) == sorted(SERVICES)


def test_topics_users_and_their_counts_are_those_of_the_tables() -> None:
    objects = build("production")
    topics = of(objects, "KafkaTopic")
    assert set(topics) == {topic.name for topic in TOPICS}
    [config] = [one["data"] for name, one in of(objects, "ConfigMap").items() if name.startswith("modelwatch-settings")]
    assert (config["MODELWATCH_KAFKA_PARTITIONS"], config["MODELWATCH_KAFKA_REPLICATION_FACTOR"]) == (
        str(PARTITIONS),
        str(REPLICAS),
    )
    assert {(one["spec"]["partitions"], one["spec"]["replicas"]) for one in topics.values()} == {(PARTITIONS, REPLICAS)}
    users = of(objects, "KafkaUser")
    assert set(users) == {SETUP, *PRINCIPALS.values()}
    assert sum(len(one["spec"]["authorization"]["acls"]) for one in users.values()) == len(list(rights()))


def test_rules_and_dashboards_are_those_of_compose() -> None:
    objects = build("production")
    rules = {file.stem: yaml.safe_load(file.read_text()) for file in (PROJECT / "prometheus" / "rules").glob("*.yml")}
    found = {name.removeprefix("modelwatch-"): one["spec"] for name, one in of(objects, "PrometheusRule").items()}
    assert found == rules and rules
    dashboards = sorted(path.name for path in (PROJECT / "grafana" / "dashboards").glob("*.json"))
    maps = [
        one for one in of(objects, "ConfigMap").values() if one["metadata"].get("labels", {}).get("grafana_dashboard")
    ]
    assert sorted(name for one in maps for name in one["data"]) == dashboards and dashboards


def test_promtool_takes_the_rules_as_they_are_in_the_cluster(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        missing("`promtool` is not on PATH (Debian's package prometheus)")
    files = []
    for name, one in of(build("production"), "PrometheusRule").items():
        files.append(tmp_path / f"{name}.yml")
        files[-1].write_text(yaml.safe_dump(one["spec"]))
    done = subprocess.run(["promtool", "check", "rules", *map(str, files)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
