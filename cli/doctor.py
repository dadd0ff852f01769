"""`modelwatch doctor`: is everything here that the pipeline needs, and if not, what to do."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import urllib3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.settings_documents import SECTIONS
from cli.stack import AGENTS, Ports, named_server, port_is_free
from inference.predictor import load_predictor
from inference.settings import WorkerSettings
from runtime.broker_features import MINUTE_MS, RETENTION, forgets_offsets_early, offset_retention_minutes
from runtime.errors import ConfigurationError, ModelwatchError, TransientError
from runtime.kafka import cluster_topics
from runtime.keras_files import inspect_keras_file
from runtime.model_folder import ModelFolder, default_model, load_model_folder, model_paths
from runtime.settings import Settings, read_settings, unknown_variables
from runtime.spec_file import SPEC_FILE
from runtime.topic_check import topic_problems
from schemas.topics import REQUESTS, TOPICS

NEEDED_GIB = 2.0
MAX_SHOWN = 400
"""Characters of what a server's client said."""


@dataclass(frozen=True)
class Finding:
    """One check: `ok` None means that it is worth knowing but stops nothing."""

    check: str
    ok: bool | None
    found: str
    remedy: str = ""


def run_doctor(load: bool = True) -> bool:
    """Print all findings; True if nothing needed is missing.

    Args:
        load: load each model as the worker does, which takes some seconds.
    """
    console = Console()
    with console.status("Looking"):
        findings = list(_findings(load))
    table = Table("check", "", "found", "what to do", box=None, pad_edge=False)
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]note[/]"}
    for finding in findings:
        remedy = "" if finding.ok else finding.remedy
        table.add_row(Text(finding.check), marks[finding.ok], Text(finding.found), Text(remedy))
    console.print(table)
    return all(finding.ok is not False for finding in findings)


def _findings(load: bool) -> Iterator[Finding]:
    yield _python()
    yield _disk()
    yield _embedded()
    yield from _ports()
    yield from _settings()
    try:
        settings = read_settings(Settings)
    except ConfigurationError:
        return  # which the settings' findings say; nothing can be looked for without them
    yield from _models(settings, load)
    yield from _attempt("broker", _broker, settings, "KAFKA_BOOTSTRAP_SERVERS")
    yield from _attempt("record store", _store, settings, "ELASTICSEARCH_URL")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", (3, 10) <= sys.version_info[:2] <= (3, 11), version, "use Python 3.10 or 3.11")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / (1 << 30)
    return Finding("disk", free > NEEDED_GIB, f"{free:.1f} GiB free", f"free at least {NEEDED_GIB:g} GiB")


def _embedded() -> Finding:
    found = find_spec("noida_db") is not None
    return Finding(
        "embedded servers", found or None, "installed" if found else "not installed", "install the extra `local`"
    )


def _ports() -> Iterator[Finding]:
    ports = Ports()
    named = [("kafka", ports.kafka), ("elasticsearch", ports.elasticsearch), ("worker", ports.worker)]
    named += [("agents", ports.agents + number) for number in range(len(AGENTS))]
    for name, port in named:
        free = port_is_free(port)
        yield Finding(
            f"port {port}", free or None, "free" if free else "in use", f"for `up`, stop its user or give --{name}-port"
        )


def _settings() -> Iterator[Finding]:
    """What any process would end for, and what none of them reads."""
    wrong = dict.fromkeys(said for _, cls in SECTIONS if (said := _refusal(partial(read_settings, cls))))
    for said in wrong:
        yield Finding("settings", False, said, "docs/settings.md lists what each may be")
    for said in unknown_variables(os.environ):
        yield Finding("settings", None, said, "correct its name, or unset it")
    if not wrong:
        yield Finding("settings", True, "every service accepts them")


def _models(settings: Settings, load: bool) -> Iterator[Finding]:
    """Of each folder all that is wrong; a model is loaded only if its files are what they should be."""
    try:
        paths = model_paths(settings.models)
    except ConfigurationError as error:
        yield Finding("models", False, str(error), "set MODELWATCH_MODELS")
        return
    yield from _passed_over(settings.models, paths)
    folders: dict[str, ModelFolder] = {}
    for path in paths:
        try:
            folder = load_model_folder(path)
        except ConfigurationError as error:
            yield Finding(f"model {path.name}", False, str(error), "docs/add-a-model.md")
            continue
        if folder.spec.name in folders:
            twice = f"{folders[folder.spec.name].path} and {path} are both named {folder.spec.name}"
            yield Finding(f"model {path.name}", False, twice, "change `name` in one of their model.yaml")
        folders[folder.spec.name] = folder
        yield from _model(folder, load)
    yield _default_model(settings, folders)


def _passed_over(root: Path, models: list[Path]) -> Iterator[Finding]:
    """Sub-folders that are no models, perhaps by a slip: nothing else tells that they are left out."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and path not in models and root not in models and path.name[0] not in "._":
            found = f"{path} holds no {SPEC_FILE}, so it is no model"
            yield Finding(f"folder {path.name}", None, found, "if it is one, docs/add-a-model.md; else ignore this")


def _model(folder: ModelFolder, load: bool) -> Iterator[Finding]:
    check = f"model {folder.spec.name}"
    problems = list(folder.problems(folder.detector_files))
    if folder.spec.weights.framework == "keras":
        problems += filter(None, [_refusal(lambda: inspect_keras_file(folder.file(str(folder.spec.weights.file))))])
    if not problems and load:
        problems += filter(None, [_refusal(lambda: load_predictor(folder, read_settings(WorkerSettings)).warm_up())])
    for problem in problems:
        yield Finding(check, False, problem, "docs/add-a-model.md")
    if not problems:
        yield Finding(check, True, "checksums agree" + (", it loads, and answers its labels" if load else ""))


def _default_model(settings: Settings, folders: dict[str, ModelFolder]) -> Finding:
    if said := _refusal(lambda: default_model(settings.default_model, folders)):
        return Finding("default model", False, said, "set MODELWATCH_DEFAULT_MODEL")
    name = default_model(settings.default_model, folders)
    none = "none: requests that name no model are refused"
    return Finding("default model", name is not None or None, name or none, "set MODELWATCH_DEFAULT_MODEL")


def _refusal(call: Callable[[], object]) -> str:
    """What is wrong with the configuration, or nothing."""
    try:
        call()
    except ConfigurationError as error:
        return str(error)
    return ""


def _attempt(
    check: str, call: Callable[[Settings], Iterator[Finding]], settings: Settings, variable: str
) -> Iterator[Finding]:
    """A server that is not running yet is worth a note, since `up` brings its own; one that was named must answer."""
    named = bool(named_server(variable))
    remedy = (
        f"is {variable} right, and the server up?" if named else f"start one with `modelwatch up`, or set {variable}"
    )
    try:
        yield from call(settings)
    except ConfigurationError as error:  # `up` would be refused, too
        found, _, what_to_do = _short(error).rpartition("; ")
        yield Finding(check, False, found, what_to_do)
    except (urllib3.exceptions.SSLError, OSError) as error:
        yield Finding(check, False, _short(error), "is its authority in MODELWATCH_ELASTICSEARCH_CA_CERTS?")
    except (ModelwatchError, urllib3.exceptions.HTTPError) as error:
        yield Finding(check, False if named else None, _short(error), remedy)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_SHOWN]


def _broker(settings: Settings) -> Iterator[Finding]:
    topics = cluster_topics(settings, timeout=3)
    yield Finding("broker", True, f"{settings.kafka_bootstrap_servers} answers")
    if not any(topic.name in topics for topic in TOPICS):
        yield Finding("topics", False, "none of ours exists", "create them with `modelwatch setup`")
        return
    problems = topic_problems(topics, settings.kafka_partitions)
    for problem in problems:
        yield Finding("topics", False if problem.fatal else None, problem.found_text, problem.remedy)
    if not problems:
        yield Finding("topics", True, "all exist")
    yield from _offsets(settings)


def _offsets(settings: Settings) -> Iterator[Finding]:
    try:
        minutes = offset_retention_minutes(settings)
    except TransientError:
        return  # a user without the right to see the brokers' settings
    if minutes is not None:
        early = forgets_offsets_early(minutes)
        yield Finding(
            "committed offsets",
            None if early else True,
            f"forgotten {minutes} minutes after a group has gone",
            f"set {RETENTION} of the brokers to at least {REQUESTS.retention_ms // MINUTE_MS}",
        )


def _store(settings: Settings) -> Iterator[Finding]:
    key, authority = settings.elasticsearch_api_key, settings.elasticsearch_ca_certs
    pool = urllib3.PoolManager(ca_certs=str(authority) if authority else None)
    headers = {"Authorization": f"ApiKey {key.get_secret_value()}"} if key else {}
    response = pool.request("GET", settings.elasticsearch_url, headers=headers, timeout=3, retries=False)
    found = f"{settings.elasticsearch_url} answers {response.status}"
    yield Finding("record store", response.status < 400, found, "check MODELWATCH_ELASTICSEARCH_API_KEY")
