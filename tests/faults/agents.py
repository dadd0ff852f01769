"""Agents under test: their models, their processes, and what they leave behind."""

import json
import random
import shutil
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from agents.drift.detectors import load_detectors
from agents.drift.features import entry_of
from agents.drift.partition import PartitionWindows
from agents.drift.reports import report_of
from cli.replay.messages import consumed
from runtime import kafka
from runtime.model_folder import load_model_folder, load_model_folders, write_checksums
from runtime.settings import PROJECT_MODELS, Settings
from schemas.messages import DriftReport
from schemas.topics import DRIFT, FEATURES
from tests.integration.workers import WorkerProcess
from tests.servers.messages import read

MODEL = "cifar10-resnet32"
Metrics = dict[Any, float]


def make_models(
    folder: Path,
    names: Sequence[str],
    window: dict[str, Any],
    detectors: Iterable[str] = ("probabilities",),
    **more: Any,
) -> Path:
    """Copies of the reference model under other names, with these windows and drift detectors, without a classifier.

    Args:
        more: further fields of their specs.
    """
    for name in names:
        target = folder / name
        shutil.copytree(PROJECT_MODELS / MODEL, target)
        (target / "resnet32.keras").unlink()
        spec = yaml.safe_load((target / "model.yaml").read_text())
        spec |= {"name": name, "weights": {"framework": "null"}, "window": window, **more}
        spec["drift"] = {key: value for key, value in spec["drift"].items() if key in detectors}
        (target / "model.yaml").write_text(yaml.safe_dump(spec))
        write_checksums(target)
        load_model_folder(target).verify()
    return folder


class Fleet:
    """Several instances of agents, killed at random, always started again; their counters watched all the while.

    Attributes:
        kills: by instance.
        setbacks: counters that went down although their process had not ended.
    """

    def __init__(self, processes: Sequence[WorkerProcess], seed: int) -> None:
        self.processes = list(processes)
        self.kills: dict[str, int] = defaultdict(int)
        self.setbacks: list[str] = []
        self._chance = random.Random(seed)
        self._stopping = threading.Event()
        self._last: dict[str, tuple[int, Metrics]] = {}
        self._watch = threading.Thread(target=self._look, daemon=True)

    def start(self) -> "Fleet":
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_ready()
        self._watch.start()
        return self

    def kill_one(self) -> None:
        """SIGKILL one at random, and start it again at once."""
        process = self._chance.choice(self.processes)
        process.kill()
        self.kills[process.name] += 1
        process.start()

    def revive(self) -> None:
        """Start those that ended by themselves, as the supervisor would."""
        for process in self.processes:
            if not process.alive:
                process.start()

    def stop(self) -> list[int]:
        """SIGTERM all, once all are up; their exit statuses."""
        for process in self.processes:
            process.wait_ready()
        self._stopping.set()
        if self._watch.ident is not None:
            self._watch.join()
        for process in self.processes:
            process.terminate()
        return [process.wait(10) for process in self.processes]

    def kill(self) -> None:
        """The end of a test that failed."""
        self._stopping.set()
        for process in self.processes:
            process.kill()

    def _look(self) -> None:
        while not self._stopping.wait(0.5):
            for process in self.processes:
                try:
                    pid, now = process.pid, process.metrics()
                except (OSError, RuntimeError):
                    continue
                if process.pid == pid:
                    self._compare(process.name, pid, now)

    def _compare(self, name: str, pid: int, now: Metrics) -> None:
        known, before = self._last.get(name, (pid, {}))
        if known == pid:
            for sample, value in before.items():
                if sample[0].endswith("_total") and now.get(sample, value) < value:
                    self.setbacks.append(f"{name} {sample}: {value} -> {now[sample]}")
        self._last[name] = pid, now


class Store:
    """What is in the record store."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", method=method, data=data, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.loads(response.read() or b"{}")
            return answer

    def count(self, kind: str, field: str) -> int:
        """Records of a kind in which a field is set; 0 while there is no index."""
        self.call("POST", "_refresh")
        body = {"query": {"exists": {"field": field}}}
        return int(self.call("POST", f"modelwatch-{kind}-*/_count?allow_no_indices=true", body)["count"])

    def having(self, names: Iterable[str], field: str) -> set[str]:
        """Those of these requests whose record has a field. A process with a wrong clock dates them wrongly."""
        outer, inner = field.split(".")
        ids = list(names)
        return {
            one["_id"]
            for index in self.call("GET", "modelwatch-inferences-*/_mapping")
            for one in self.call("POST", f"{index}/_mget?_source_includes={field}", {"ids": ids})["docs"]
            if inner in one.get("_source", {}).get(outer, {})
        }

    def all(self, kind: str, fields: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Every record of a kind by id, these fields only."""
        self.call("POST", "_refresh")
        found: dict[str, dict[str, Any]] = {}
        for index in self.call("GET", f"modelwatch-{kind}-*/_mapping"):
            after: list[Any] | None = None
            while True:
                body: dict[str, Any] = {"size": 5000, "_source": list(fields), "sort": [{SORT[kind]: "asc"}]}
                if after is not None:
                    body["search_after"] = after
                hits = self.call("POST", f"{index}/_search", body)["hits"]["hits"]
                for hit in hits:
                    assert hit["_id"] not in found, f"{hit['_id']} is in two indices"
                    found[hit["_id"]] = hit["_source"]
                if len(hits) < 5000:
                    break
                after = hits[-1]["sort"]
        return found


SORT = {"inferences": "request_id", "drift": "window_id"}


def reports(settings: Settings) -> dict[str, DriftReport]:
    """The reports on the topic by window id; those that came twice must say the same."""
    found: dict[str, DriftReport] = {}
    for message in read(settings, DRIFT.name):
        report = DriftReport.model_validate_json(message.value())
        known = found.setdefault(report.window_id, report)
        assert without_time(known) == without_time(report)
    return found


def without_time(report: DriftReport) -> dict[str, Any]:
    return report.model_dump(exclude={"reported_at"})


def undisturbed(settings: Settings, models: Path) -> dict[str, DriftReport]:
    """The windows of a reader that is never killed, over the features as they lie in the log."""
    folders = load_model_folders(models)
    detectors = {name: load_detectors(folder) for name, folder in folders.items()}
    specs = {name: folder.spec.window for name, folder in folders.items()}
    features_id = kafka.topic_ids(kafka.admin(settings), [FEATURES.name]).get(FEATURES.name)
    partitions: dict[int, PartitionWindows] = {}
    found = {}
    log = map(consumed, read(settings, FEATURES.name))
    for message in sorted(log, key=lambda one: (one.partition, one.offset)):
        own = PartitionWindows(message.partition, specs, {}, features_id)
        windows = partitions.setdefault(message.partition, own)
        if message.value is None:
            closed = windows.tick((message.key or b"").decode(), message.offset, message.timestamp)
        else:
            closed = windows.add(*entry_of(message, settings.max_ahead_seconds, time.time()))
        for window in closed:
            model = window.start.model
            report = report_of(window, detectors[model], specs[model].smallest)
            found[report.window_id] = report
    return found


def wait_for(condition: Any, timeout: float, what: str, meanwhile: Any = None) -> None:
    """Poll slowly: the condition asks servers."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what()}"
        if meanwhile is not None:
            meanwhile()
        time.sleep(1)
