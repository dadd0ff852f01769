"""What the first stage writes the second reads, number for number; a window's report says which pairs it is made of."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agents.drift.detectors import DriftDetector
from agents.drift.features import extract, read_features, stacked
from agents.drift.reports import records_of, report_of, window_id
from agents.drift.windows import Entry, ModelWindows, Window
from agents.pairs import read_pairs
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.messages import FeatureVector, WindowStart
from schemas.model_spec import WindowSpec
from schemas.pairs import PairWriter
from schemas.refusal import Reason, Refusal

MODEL = "cifar10-resnet32"
NAME = "probabilities"
COUNT = 40
BEGAN = 1_750_000_000


@dataclass
class Message:
    value: bytes
    partition: int
    offset: int
    timestamp: float
    headers: list[Any] = field(default_factory=list)


@pytest.fixture(scope="module")
def detector() -> DriftDetector:
    """One that needs no network, and so no TensorFlow."""
    folder = load_model_folders(PROJECT_MODELS)[MODEL]
    return DriftDetector(NAME, folder.spec.drift[NAME], folder)


@pytest.fixture(scope="module")
def answers() -> Any:
    return np.random.default_rng(1).dirichlet(np.ones(10), COUNT).astype(np.float32).clip(0, 1)


@pytest.fixture(scope="module")
def vectors(detector: DriftDetector, answers: Any) -> list[FeatureVector]:
    spec = load_model_folders(PROJECT_MODELS)[MODEL].spec
    writer, now = PairWriter(MODEL, "1", "ab" * 32, spec.labels, "CPU:0"), BEGAN
    zeros, images = [0.0] * COUNT, np.zeros((COUNT, 32, 32, 3), np.uint8)
    ids = [f"id-{number}" for number in range(COUNT)]
    values = writer.encode(
        ids, images, [{}] * COUNT, [now] * COUNT, [None] * COUNT, answers, zeros, zeros, 0.0, COUNT, now
    )
    messages = [Message(value, 2, 100 + number, BEGAN + number / 1000) for number, value in enumerate(values)]
    pairs, _ = read_pairs(messages, {MODEL: spec}, BEGAN, MAX_AHEAD_SECONDS)
    return [read_features(one.value) for one in extract(pairs, {MODEL: {NAME: detector}})]


def window_of(vectors: list[FeatureVector]) -> Window:
    windows = ModelWindows(WindowSpec(window_size=COUNT), WindowStart(model=MODEL, sequence=3, partition=1, offset=0))
    closed = []
    for offset, vector in enumerate(vectors):
        position = vector.position
        closed += windows.add(Entry(offset, position.partition, position.offset, position.time.timestamp(), vector))
    [window] = closed
    return window


def test_features_survive_the_topic_number_for_number(vectors: list[FeatureVector], answers: Any) -> None:
    assert np.array_equal(stacked([vector.features[NAME] for vector in vectors]), answers)
    assert [vector.request_id for vector in vectors] == [f"id-{number}" for number in range(COUNT)]
    assert [(v.position.partition, v.position.offset) for v in vectors] == [(2, 100 + n) for n in range(COUNT)]
    assert vectors[5].position.time.timestamp() == pytest.approx(1_750_000_000.005, abs=1e-6)


def test_models_without_detectors_have_no_features() -> None:
    assert extract([], {MODEL: {}}) == []


@pytest.mark.parametrize(("value", "reason"), [(b"{", Reason.INVALID_JSON), (b"{}", Reason.INVALID_FIELD)])
def test_what_holds_no_features_is_refused(value: bytes, reason: Reason) -> None:
    with pytest.raises(Refusal) as refusal:
        read_features(value)
    assert refusal.value.reason is reason


def test_a_report_names_its_pairs_and_tests_them(
    vectors: list[FeatureVector], detector: DriftDetector, answers: Any
) -> None:
    window = window_of(vectors)
    report = report_of(window, {NAME: detector})
    assert report.window_id == window_id(window) == f"{MODEL}-2-100"
    assert (report.size, report.closed_by) == (COUNT, "full")
    assert report.request_ids == tuple(f"id-{number}" for number in range(COUNT))
    assert (report.first, report.last) == (vectors[0].position, vectors[-1].position)
    assert report.detectors[NAME] == detector.test(answers)


def test_a_detector_that_some_pairs_know_nothing_of_does_not_judge_the_window(
    vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    old = vectors[3].model_copy(update={"features": {}})
    report = report_of(window_of([*vectors[:3], old, *vectors[4:]]), {NAME: detector})
    assert report.detectors == {}


def test_records_are_the_windows_own_and_a_link_on_each_pair(
    vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    window = window_of(vectors)
    own, *links = records_of(window, report_of(window, {NAME: detector}))
    assert (own.id, own.mode) == (f"{MODEL}-2-100", "index")
    assert own.index == "modelwatch-drift-2025.06.15"
    assert [link.id for link in links] == [f"id-{number}" for number in range(COUNT)]
    assert links[0].document == {"drift": {"window_id": own.id}}
    answered = vectors[0].answered_at
    assert answered is not None and links[0].index == f"modelwatch-inferences-{answered:%Y.%m.%d}"
