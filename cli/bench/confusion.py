"""Throughput of the confusion agent, and the size of the join's state, which a setting bounds."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import psutil
import pybase64
from rich.console import Console

from agents.confusion.entries import PAIRS_LANE, Entry, PairHalf, Truth
from agents.confusion.fold import Fold
from agents.confusion.partition import Limits, PartitionJoin
from agents.confusion.store import RocksStore
from cli.bench.agents import LOGS, counted, default_folder, machine, steady_rate, suspended, write_pairs
from cli.log_output import LogFiles
from cli.stack import Ports, Stack, running_stack
from runtime import kafka
from runtime.model_folder import ModelFolder
from runtime.settings import Settings
from schemas.base import utc_now
from schemas.identity import labels_id
from schemas.topics import FEEDBACK
from training.datasets import load_split

IMAGES = 2_000
BATCH = 500
SAMPLES = 10


def run_bench_confusion(pairs: int, ids: int, max_entries: int, console: Console) -> dict[str, Any]:
    """The agent on a backlog of pairs, then of feedback about each; then the state alone."""
    folder = default_folder()
    pairs_rate, feedback_rate = _agent_rates(folder, pairs)
    console.print(f"agent: {pairs_rate:,.0f} pairs/s, {feedback_rate:,.0f} feedback/s", highlight=False)
    state = _state(folder, ids, max_entries, console) if ids else {}
    return {
        **machine(),
        "pairs_per_s": round(pairs_rate, 1),
        "feedback_per_s": round(feedback_rate, 1),
        **state,
    }


def _agent_rates(folder: ModelFolder, pairs: int) -> tuple[float, float]:
    shutil.rmtree(LOGS, ignore_errors=True)
    images = load_split("test", progress=False)[0][:IMAGES]
    with TemporaryDirectory() as scratch:
        environment = {"MODELWATCH_STATE_FOLDER": f"{scratch}/state"}
        with running_stack(
            Ports(0, 0, 0, 0), Path(scratch), 0, LogFiles(LOGS), environment=environment, agents=("confusion",)
        ) as stack:
            with suspended(stack):
                write_pairs(stack.settings, folder, images, pairs)
            first = steady_rate(lambda: _counted(stack, "modelwatch_joined_pairs_total"), pairs)
            with suspended(stack):
                _write_feedback(stack.settings, pairs, len(folder.spec.labels))
            return first, steady_rate(lambda: _counted(stack, "modelwatch_feedback_total"), pairs)


def _counted(stack: Stack, counter: str) -> float:
    return counted(stack.urls["confusion"], counter)


def _write_feedback(settings: Settings, count: int, classes: int) -> None:
    client, guard, given_at = kafka.producer(settings), kafka.DeliveryGuard(), utc_now().isoformat()
    for number in range(count):
        name = f"bench-{number}"
        value = orjson.dumps({"request_id": name, "truth_index": number % classes, "given_at": given_at})
        kafka.produce(client, FEEDBACK.name, guard.on_delivery, value=value, key=name)
        client.poll(0)
    client.flush(60)
    guard.check()


def _state(folder: ModelFolder, ids: int, max_entries: int, console: Console) -> dict[str, Any]:
    """Pairs, and the truth about each a batch later, through one partition's state; memory and disk all the while."""
    spec = folder.spec
    process, samples = psutil.Process(), []
    limits = Limits(30.0, 86_400.0, max_entries, 30.0, 600.0)
    vectors = np.random.default_rng(0).dirichlet(np.ones(len(spec.labels)), BATCH).astype("<f4")
    texts = [pybase64.b64encode_as_string(vector.tobytes()) for vector in vectors]
    answers = vectors.argmax(1).tolist()
    with TemporaryDirectory() as scratch:
        store = RocksStore(Path(scratch) / "state")
        join = PartitionJoin(store, Fold(0), {spec.name: spec}, limits)
        began, memory = time.perf_counter(), process.memory_info().rss
        for start in range(0, ids, BATCH):
            now = time.time()
            parts = [
                (f"bench-{start + place}", Entry((_half(start + place, spec, now, answers[place], texts[place]),)))
                for place in range(BATCH)
            ]
            truths = [
                (name, Entry((), (Truth(now, start + place, 0, place % len(spec.labels)),), now, now + 30))
                for place, (name, _) in enumerate(parts)
            ]
            join.apply(parts)
            join.apply(truths)
            join.expire(now)
            if (start // BATCH) % max(1, ids // BATCH // SAMPLES) == 0:
                samples.append((start, join.entries, process.memory_info().rss - memory, store.disk_bytes()))
                console.print(f"{start:,} of {ids:,} requests, {join.entries:,} held", highlight=False)
        seconds = time.perf_counter() - began
        total = join.totals[spec.name, spec.version]
        report = {
            "state_ids": ids,
            "state_max_entries": max_entries,
            "state_entries": join.entries,
            "state_labelled": total["labelled"],
            "joins_per_s": round(ids / seconds, 1),
            "state_bytes_per_entry": round(store.disk_bytes() / max(1, join.entries), 1),
            "state_disk_bytes": store.disk_bytes(),
            "state_disk_bytes_highest": max(sample[3] for sample in samples),
            "state_memory_bytes_highest": max(sample[2] for sample in samples),
            "state_samples": [dict(zip(("ids", "entries", "memory", "disk"), one, strict=True)) for one in samples],
        }
        store.close()
    return report


def _half(offset: int, spec: Any, now: float, predicted: int, text: str) -> PairHalf:
    labels = labels_id(spec.classes)
    return PairHalf(PAIRS_LANE, offset, spec.name, spec.version, now, now, predicted, text, labels=labels)
