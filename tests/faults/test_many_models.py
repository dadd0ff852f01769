"""Fifty models share the partitions at different rates: each gets windows of its own pairs, full or by age."""

import asyncio
import copy
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from agents.drift.detectors import DriftDetector, load_detectors
from cli.replay.windows import audit_windows
from runtime import kafka
from runtime.embedded import EmbeddedServers
from runtime.model_folder import load_model_folders
from runtime.record_indices import setup_record_store
from runtime.settings import Settings
from schemas.topics import FEATURES
from tests.faults.agents import Fleet, Store, make_models, reports, undisturbed, wait_for, without_time
from tests.faults.pair_feed import PairFeed
from tests.integration.workers import WorkerProcess
from tests.servers.apache_kafka import ApacheKafka

MODELS = 50
PAIRS, RATE = 3_000, 300.0
WINDOW, MAX_AGE = 40, 5.0


@pytest.mark.slow
@pytest.mark.real_kafka
@pytest.mark.timeout(900)
def test_fifty_models_get_their_own_windows_and_slow_ones_close_by_age(
    own_kafka: ApacheKafka, own_settings: Settings, tmp_path: Path
) -> None:
    names = [f"model-{number:02d}" for number in range(MODELS)]
    window = {"window_size": WINDOW, "max_age_seconds": MAX_AGE}
    models = make_models(tmp_path / "models", names, window)
    with EmbeddedServers(tmp_path / "store") as store:
        settings = own_settings.model_copy(update={"elasticsearch_url": store.elasticsearch, "models": models})
        asyncio.run(setup_record_store(settings))
        process = WorkerProcess(
            own_kafka.bootstrap,
            tmp_path,
            "drift-0",
            models=models,
            environment={"ELASTICSEARCH_URL": store.elasticsearch},
            module="agents.drift",
        )
        fleet = Fleet([process], seed=0)
        try:
            fleet.start()
            weights = {name: 1 + (number % 5) ** 2 for number, name in enumerate(names)}
            feed = PairFeed(settings, "pair", PAIRS, RATE, weights).start().join()

            def counted() -> int:
                return sum(report.size for report in reports(settings).values())

            wait_for(lambda: counted() == PAIRS, 120, lambda: f"{counted()} of {PAIRS} pairs are in windows")
            assert fleet.stop() == [0]
        finally:
            fleet.kill()
        found = reports(settings)
        assert Store(store.elasticsearch).all("drift", ["size"]).keys() == found.keys()
        expected = undisturbed(settings, models)
        assert {name: without_time(one) for name, one in found.items()} == {
            name: without_time(one) for name, one in expected.items()
        }
        closed = Counter(report.closed_by for report in found.values())
        assert closed["full"] and closed["age"] >= MODELS, closed
        for report in found.values():
            assert {feed.models[name] for name in report.request_ids or ()} == {report.model}
            assert (report.size == WINDOW) == (report.closed_by == "full")
        _audit(settings, models)
        store.kill()


def _audit(settings: Settings, models: Path) -> None:
    """`modelwatch replay` finds the same windows, each with its p-values; what is gone is said, and no difference."""
    folders = load_model_folders(models)
    specs = {name: folder.spec for name, folder in folders.items()}
    detectors = {name: load_detectors(folder) for name, folder in folders.items()}
    count = len(reports(settings))
    audit = audit_windows(settings, specs, detectors, 0.0, 4e9)
    assert audit.differences == [] and audit.notes == []
    assert (audit.compared, audit.gone) == (count, 0)
    assert audit.largest <= 1e-9
    retrained = {name: {key: _retrained(one) for key, one in own.items()} for name, own in detectors.items()}
    tested = sum(len(report.detectors) for report in reports(settings).values())
    audit = audit_windows(settings, specs, retrained, 0.0, 4e9)
    assert (audit.differences, audit.compared, audit.gone) == ([], count, tested)
    audit = audit_windows(settings, specs, retrained, 0.0, 4e9, [detectors])
    assert (audit.differences, audit.compared, audit.gone, audit.notes) == ([], count, 0, [])
    _forget_half(settings)
    audit = audit_windows(settings, specs, detectors, 0.0, 4e9)
    assert audit.differences == [], audit.differences[:3]
    assert audit.compared + audit.gone == count and audit.compared and audit.gone


def _retrained(detector: DriftDetector) -> DriftDetector:
    other = copy.copy(detector)
    other.identity = detector.identity.model_copy(update={"sha256": "0" * 64})
    return other


def _forget_half(settings: Settings) -> None:
    """As retention does: the older half of each partition of features."""
    reader, admin = kafka.assigned_consumer(settings), kafka.admin(settings)
    ends = {
        number: reader.get_watermark_offsets(TopicPartition(FEATURES.name, number), timeout=30)[1]
        for number in range(kafka.cluster_topics(settings)[FEATURES.name])
    }
    reader.close()
    asked = [TopicPartition(FEATURES.name, number, end // 2) for number, end in ends.items()]
    for future in admin.delete_records(asked).values():
        future.result(30)
