"""The second stage as its process calls it: what it shows, keeps, and outlives."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from agents.drift.detectors import MAX_FEATURES, DriftDetector, load_detectors
from agents.drift.reports import MAX_IDS_BYTES
from agents.drift.states import Log, States, fitted, furthest, state_of
from agents.drift.window_stage import WindowStage
from runtime.batches import Batch
from runtime.errors import ConfigurationError, FatalError
from runtime.metrics import DriftMetrics
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.messages import DriftReport, DriftState, FeatureVector, ImageDtype, LogPosition, Mark, Tensor, WindowStart
from schemas.model_spec import ModelSpec, WindowSpec
from schemas.topics import DRIFT, DRIFT_STATE, FEATURES, PAIRS

MODEL, NAME, SIZE, BEGAN = "cifar10-resnet32", "probabilities", 40, 1_750_000_000.0
REFERENCE = np.load(PROJECT_MODELS / MODEL / "drift/probabilities/reference.npz")["features"]


@dataclass
class Message:
    value: bytes | None
    offset: int
    partition: int = 0
    timestamp: float = BEGAN
    key: bytes = MODEL.encode()
    headers: list[Any] = field(default_factory=list)
    topic: str = FEATURES.name

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)


class Kept:
    """Where results go, and whence states come: a compacted topic."""

    def __init__(self) -> None:
        self.reports: list[DriftReport] = []
        self.refused: list[Any] = []
        self.states: dict[str, bytes] = {}

    async def publish(self, messages: list[Any]) -> None:
        for message in messages:
            if message.topic == DRIFT_STATE.name:
                self.states[message.key] = message.value
            elif message.topic == DRIFT.name:
                self.reports.append(DriftReport.model_validate_json(message.value))

    async def send(self, refused: list[Any]) -> None:
        self.refused += refused

    async def write(self, records: list[Any]) -> None:
        """Records are looked at in other tests."""

    def read(self, partitions: Collection[int]) -> Mapping[int, tuple[str | None, States]]:
        return {one: (None, furthest(state_of(value) for value in self.states.values())) for one in partitions}


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    window = WindowSpec(window_size=SIZE, max_age_seconds=60, minimum_size=30)
    return load_model_folders(PROJECT_MODELS)[MODEL].spec.model_copy(update={"window": window})


@pytest.fixture(scope="module")
def detector() -> DriftDetector:
    folder = load_model_folders(PROJECT_MODELS)[MODEL]
    return DriftDetector(NAME, folder.spec.drift[NAME], folder)


class Instance:
    """One instance of the agent's second stage."""

    def __init__(self, kept: Kept, spec: ModelSpec | None, detector: DriftDetector | None, name: str = "a") -> None:
        self.registry = CollectorRegistry()
        self.kept, self.generation, self.offset = kept, 1, 0
        specs, detectors = ({spec.name: spec} if spec else {}), ({MODEL: {NAME: detector}} if detector else {})
        metrics = DriftMetrics(self.registry)
        self.stage = WindowStage(specs, detectors, metrics, kept.read, name, MAX_AHEAD_SECONDS)
        results: Any = kept
        self.stage.connect(results, results, results)

    def take(self, messages: list[Message]) -> dict[TP, int]:
        """Process messages; the offsets up to which they are safe."""
        windowed = self.stage.compute(Batch(messages, self.generation))
        asyncio.run(self.stage.deliver(windowed))
        return windowed.safe

    def watch(self, *partitions: int, now: float = BEGAN) -> list[Any]:
        return self.stage.watch(self.generation, partitions, now)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def detected(self, version: str = "1") -> float | None:
        return self.value("modelwatch_drift_detected", model=MODEL, version=version, detector=NAME)


def features(
    detector: DriftDetector, count: int, drifted: bool, begin: int = 0, version: str = "1", **update: Any
) -> list[Message]:
    """Messages of pairs, from the reference or all of one class."""
    told = []
    for offset in range(begin, begin + count):
        row = np.eye(10, dtype=np.float32)[0] if drifted else REFERENCE[37 * offset]
        vector = FeatureVector(
            request_id=f"id-{offset}",
            model=MODEL,
            model_version=version,
            position=LogPosition.model_validate({"partition": 0, "offset": offset, "time": BEGAN}),
            features={NAME: Tensor(dtype=ImageDtype.FLOAT32, shape=(10,), data=row.tobytes())},
            detector_sha256={NAME: detector.identity.sha256},
        )
        told.append(Message(vector.model_copy(update=update).model_dump_json().encode(), offset))
    return told


def tick(offset: int, seconds: float) -> Message:
    return Message(None, offset, timestamp=BEGAN + seconds)


def test_a_new_owner_shows_what_is_known_before_any_window_closes_and_the_old_one_forgets_it(
    spec: ModelSpec, detector: DriftDetector
) -> None:
    kept = Kept()
    old, new = Instance(kept, spec, detector), Instance(kept, spec, detector, "b")
    old.take(features(detector, SIZE, True))
    old.watch(0)
    assert old.detected() == 1
    p_values = next(one for one in old.registry.collect() if one.name == "modelwatch_drift_p_value").samples
    assert len(p_values) == 10
    new.watch(0)
    assert new.detected() == 1
    assert {one.labels["feature"]: one.value for one in p_values} == {
        one.labels["feature"]: one.value
        for metric in new.registry.collect()
        if metric.name == "modelwatch_drift_p_value"
        for one in metric.samples
    }
    old.generation = 2
    old.watch()
    gauges = [one for one in old.registry.collect() if one.name.startswith("modelwatch_drift_") and one.type == "gauge"]
    assert len(gauges) == 5
    assert [one.name for one in gauges if one.samples] == []


def test_a_window_too_small_to_say_changes_no_gauge_and_is_counted_as_that(
    spec: ModelSpec, detector: DriftDetector
) -> None:
    one = Instance(Kept(), spec, detector)
    one.take(features(detector, SIZE, True))
    one.take([*features(detector, 3, False, SIZE), tick(SIZE + 3, 100)])
    one.watch(0)
    assert [report.untested for report in one.kept.reports] == [{}, {NAME: "too_small"}]
    assert one.detected() == 1
    result = {"model": MODEL, "detector": NAME, "result": "too_small"}
    assert one.value("modelwatch_drift_windows_total", **result) == 1


def test_gauges_of_a_version_that_was_replaced_go_when_its_last_window_is_old(
    spec: ModelSpec, detector: DriftDetector
) -> None:
    one = Instance(Kept(), spec, detector)
    one.take(features(detector, SIZE, True, version="0"))
    one.take(features(detector, SIZE, False, SIZE))
    one.watch(0, now=BEGAN + 1)
    assert (one.detected("0"), one.detected("1")) == (1, 0)
    one.watch(0, now=BEGAN + 61)
    assert (one.detected("0"), one.detected("1")) == (None, 0)
    assert one.value("modelwatch_drift_window_fill", model=MODEL, version="0") is None


def test_a_detector_retrained_to_another_width_ends_its_window_and_not_the_agent(
    spec: ModelSpec, detector: DriftDetector
) -> None:
    one = Instance(Kept(), spec, detector)
    wide = Tensor(dtype=ImageDtype.FLOAT32, shape=(64,), data=np.zeros(64, "<f4").tobytes())
    before = features(detector, 35, False, features={NAME: wide}, detector_sha256={NAME: "0" * 64})
    safe = one.take([*before, *features(detector, SIZE, False, 35), tick(35 + SIZE, 61)])
    new, old = one.kept.reports
    assert (old.closed_by, old.untested, old.size) == ("superseded", {NAME: "no_detector"}, 35)
    assert (new.closed_by, list(new.detectors), new.size) == ("full", [NAME], SIZE)
    assert list(safe.values()) == [36 + SIZE]


@pytest.mark.parametrize("left", ["model", "detector"])
def test_a_model_or_detector_removed_while_its_window_is_open_ends_nothing(
    spec: ModelSpec, detector: DriftDetector, left: str
) -> None:
    kept = Kept()
    messages = features(detector, SIZE + 10, False)
    Instance(kept, spec, detector).take(messages)
    later = Instance(kept, None if left == "detector" else spec, detector if left == "detector" else None)
    if left == "model":
        later = Instance(kept, None, None)
    safe = later.take([*messages[SIZE:], tick(SIZE + 10, 100)])
    later.watch(0, now=BEGAN + 200)
    assert list(safe.values()) == [SIZE + 11]
    assert later.value("modelwatch_drift_unwindowed_total") == 10


def test_a_log_whose_offsets_begin_again_ends_the_process_instead_of_passing_all_over(
    spec: ModelSpec, detector: DriftDetector
) -> None:
    one = Instance(Kept(), spec, detector)
    one.take(features(detector, 10, False))
    with pytest.raises(FatalError, match="made anew"):
        one.take(features(detector, 10, False))


def test_a_start_of_an_earlier_version_is_gone_on_from(spec: ModelSpec, detector: DriftDetector) -> None:
    kept = Kept()
    start = WindowStart(
        model=MODEL, sequence=7, partition=0, offset=5, reported=0, marks=(Mark(partition=0, offset=4),)
    )
    kept.states[f"{MODEL}/old"] = start.model_dump_json(include=set(WindowStart.model_fields)).encode()
    one = Instance(kept, spec, detector)
    legacy = {"model_version": None, "detector_sha256": {}}
    one.take(features(detector, SIZE + 5, False, **legacy))
    [report] = kept.reports
    assert report.start is not None
    assert (report.start.sequence, report.first.offset, report.size, list(report.detectors)) == (7, 5, SIZE, [NAME])


STATE = DriftState(
    model="m",
    partition=0,
    features_id="f1",
    seen=500,
    marks=(Mark(partition=0, offset=90), Mark(partition=1, offset=10)),
    streams=(),
)


@pytest.mark.parametrize(
    ("now", "seen", "marks", "anew"),
    [
        (Log("f1", 0, 600, {0: 100, 1: 20}), 500, 2, set()),
        (Log("f2", 0, 600, {0: 100, 1: 20}), 0, 2, {FEATURES.name}),
        (Log(None, 0, 400, {0: 100, 1: 20}), 0, 2, {FEATURES.name}),
        (Log("f1", 0, 600, {0: 50, 1: 20}), 500, 1, {PAIRS.name}),
        (Log("f1", 0, 600, {}), 500, 0, {PAIRS.name}),
    ],
)
def test_topics_that_were_made_anew_are_recognised_by_their_ids_or_by_their_ends(
    now: Log, seen: int, marks: int, anew: set[str]
) -> None:
    state, found = fitted(STATE, now)
    assert (state.seen, len(state.marks), found) == (seen, marks, anew)


def test_windows_too_large_for_memory_or_a_message_are_refused_when_the_model_is_loaded() -> None:
    folder = load_model_folders(PROJECT_MODELS)[MODEL]
    only = {NAME: folder.spec.drift[NAME]}
    large = folder.spec.model_copy(update={"drift": only, "window": WindowSpec(window_size=100_000)})
    assert load_detectors(_with(folder, large))
    from agents.drift import detectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors, "MAX_WINDOW_BYTES", 1 << 20)
        with pytest.raises(ConfigurationError, match=r"window\.window_size is 100000; .* at most 502 pairs"):
            load_detectors(_with(folder, large))
        patch.setattr(detectors, "MAX_FEATURES", 9)
        with pytest.raises(ConfigurationError, match="have 10 features together; a report holds 9"):
            load_detectors(_with(folder, large))
    assert DRIFT.max_message_bytes // 2 > MAX_FEATURES * 2 * 24 + MAX_IDS_BYTES


def _with(folder: Any, spec: ModelSpec) -> Any:
    return replace(folder, spec=spec)
