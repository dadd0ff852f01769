"""What the first stage writes the second reads, number for number; a window's report says which pairs it is made of."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from agents.drift.detectors import DriftDetector
from agents.drift.features import entry_of, extract, read_features
from agents.drift.partition import PartitionWindows
from agents.drift.reports import MAX_IDS_BYTES, content_of, records_of, report_of, stacked, window_id
from agents.drift.windows import Identity, Window
from agents.pairs import read_pairs
from runtime.model_folder import load_model_folders
from runtime.settings import PROJECT_MODELS
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.messages import FeatureVector, ImageDtype, Tensor
from schemas.model_spec import WindowSpec
from schemas.pairs import PairWriter
from schemas.refusal import Reason, Refusal
from schemas.topics import DRIFT

MODEL = "cifar10-resnet32"
NAME = "probabilities"
COUNT = 40
BEGAN = 1_750_000_000.0


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
def messages(detector: DriftDetector, answers: Any) -> list[Message]:
    """What the first stage writes."""
    spec = load_model_folders(PROJECT_MODELS)[MODEL].spec
    writer = PairWriter(MODEL, "1", "ab" * 32, spec.labels, "CPU:0")
    zeros, images = [0.0] * COUNT, np.zeros((COUNT, 32, 32, 3), np.uint8)
    ids = [f"id-{number}" for number in range(COUNT)]
    values = writer.encode(
        ids, images, [{}] * COUNT, [BEGAN] * COUNT, [None] * COUNT, answers, zeros, zeros, 0.0, COUNT, BEGAN
    )
    read = [Message(value, 2, 100 + number, BEGAN + number / 1000) for number, value in enumerate(values)]
    pairs, _ = read_pairs(read, {MODEL: spec}, BEGAN, MAX_AHEAD_SECONDS)
    features = extract(pairs, {MODEL: {NAME: detector}})
    return [Message(one.value, 0, offset, BEGAN + 1) for offset, one in enumerate(features)]


@pytest.fixture(scope="module")
def vectors(messages: list[Message]) -> list[FeatureVector]:
    return [read_features(message.value) for message in messages]


def changed(vector: FeatureVector, **update: Any) -> Message:
    """The message of a vector, with these fields instead."""
    return Message(vector.model_copy(update=update).model_dump_json().encode(), 0, vector.position.offset, BEGAN + 1)


def legacy(vector: FeatureVector, **update: Any) -> Message:
    return changed(vector, **({"model_version": None, "detector_sha256": {}} | update))


def window_of(messages: list[Message], size: int = COUNT) -> Window:
    windows, closed = PartitionWindows(1, {MODEL: WindowSpec(window_size=size)}, {}), []
    for offset, message in enumerate(messages):
        closed += windows.add(*entry_of(replace(message, offset=offset), MAX_AHEAD_SECONDS, BEGAN + 1))
    if not closed:
        closed = windows.tick(MODEL, len(messages), BEGAN + 86_400)
    [window] = closed
    return window


def test_features_survive_the_topic_number_for_number(
    messages: list[Message], vectors: list[FeatureVector], answers: Any, detector: DriftDetector
) -> None:
    window = window_of(messages)
    assert np.array_equal(stacked([content_of(entry).features[NAME] for entry in window.entries]), answers)
    assert [content_of(entry).request_id for entry in window.entries] == [f"id-{number}" for number in range(COUNT)]
    assert [(v.position.partition, v.position.offset) for v in vectors] == [(2, 100 + n) for n in range(COUNT)]
    assert vectors[5].position.time.timestamp() == pytest.approx(BEGAN + 0.005, abs=1e-6)
    assert window.identity == Identity("1", ((NAME, detector.identity.sha256),))


def test_models_without_detectors_have_no_features() -> None:
    assert extract([], {MODEL: {}}) == []


@pytest.mark.parametrize(("value", "reason"), [(b"{", Reason.INVALID_JSON), (b"{}", Reason.INVALID_FIELD)])
def test_what_holds_no_features_is_refused(value: bytes, reason: Reason) -> None:
    with pytest.raises(Refusal) as refusal:
        read_features(value)
    assert refusal.value.reason is reason


def tensor(*values: float, dtype: str = "<f4", shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, dtype)
    return Tensor(dtype=ImageDtype(data.dtype.name), shape=shape or data.shape, data=data.tobytes())


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({NAME: tensor(0.5, np.nan)}, Reason.NOT_FINITE),
        ({NAME: tensor(0.5, 0.5, shape=(2, 1))}, Reason.INVALID_FIELD),
        ({NAME: tensor(1, 0, dtype="uint8")}, Reason.INVALID_FIELD),
        ({"other": tensor(0.5)}, Reason.INVALID_FIELD),
    ],
)
def test_features_of_which_no_test_can_be_computed_are_refused(
    vectors: list[FeatureVector], features: dict[str, Tensor], reason: Reason
) -> None:
    with pytest.raises(Refusal) as refusal:
        read_features(changed(vectors[0], features=features).value)
    assert refusal.value.reason is reason


@pytest.mark.parametrize("field", ["position", "answered_at", "timestamp"])
def test_features_dated_in_the_future_are_refused(vectors: list[FeatureVector], field: str) -> None:
    later, message = datetime(2099, 1, 1, tzinfo=timezone.utc), changed(vectors[0])
    if field == "position":
        message = changed(vectors[0], position=vectors[0].position.model_copy(update={"time": later}))
    elif field == "answered_at":
        message = changed(vectors[0], answered_at=later)
    else:
        message.timestamp = later.timestamp()
    with pytest.raises(Refusal) as refusal:
        entry_of(message, MAX_AHEAD_SECONDS, BEGAN + 1)
    assert refusal.value.reason is Reason.IN_FUTURE


def test_a_report_names_its_pairs_and_tests_them(
    messages: list[Message], vectors: list[FeatureVector], detector: DriftDetector, answers: Any
) -> None:
    window = window_of(messages)
    report = report_of(window, {NAME: detector}, 20)
    assert report.window_id == window_id(window) == f"{MODEL}-2-100"
    assert (report.size, report.closed_by, report.model_version) == (COUNT, "full", "1")
    assert report.request_ids == tuple(f"id-{number}" for number in range(COUNT))
    assert (report.first, report.last) == (vectors[0].position, vectors[-1].position)
    assert report.detectors[NAME] == detector.test(answers)


def test_a_detector_that_some_pairs_know_nothing_of_does_not_judge_the_window(
    vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    told = [legacy(one, **({"features": {}} if number == 3 else {})) for number, one in enumerate(vectors)]
    report = report_of(window_of(told), {NAME: detector}, 20)
    assert (report.detectors, report.untested) == ({}, {NAME: "no_features"})


def test_features_of_an_earlier_version_of_the_agent_are_tested_by_the_detector_of_their_name(
    vectors: list[FeatureVector], detector: DriftDetector, answers: Any
) -> None:
    report = report_of(window_of([legacy(one) for one in vectors]), {NAME: detector}, 20)
    assert (report.model_version, report.detectors[NAME]) == (None, detector.test(answers))


def test_features_of_another_width_end_nothing(vectors: list[FeatureVector], detector: DriftDetector) -> None:
    told = [legacy(one, features={NAME: tensor(0.5, 0.5)}) for one in vectors]
    assert report_of(window_of(told), {NAME: detector}, 20).untested == {NAME: "no_detector"}


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_window_of_a_detector_that_is_gone_says_so(
    vectors: list[FeatureVector], detector: DriftDetector, at_hand: bool
) -> None:
    told = [changed(one, detector_sha256={NAME: "0" * 64}) for one in vectors]
    report = report_of(window_of(told), {NAME: detector} if at_hand else {}, 20)
    assert (report.detectors, report.untested) == ({}, {NAME: "no_detector"})


def test_a_small_window_says_nothing(messages: list[Message], detector: DriftDetector) -> None:
    window = window_of(messages[:30], size=300)
    assert window.closed_by == "age"
    report = report_of(window, {NAME: detector}, WindowSpec(window_size=310).smallest)
    assert (report.detectors, report.untested) == ({}, {NAME: "too_small"})
    own, *_ = records_of(window, report)
    assert "is_drift" not in own.document
    assert report_of(window, {NAME: detector}, WindowSpec(window_size=300).smallest).detectors


def test_request_ids_too_long_for_a_message_are_left_to_the_records(
    vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    long = [changed(one, request_id=str(number).zfill(512)) for number, one in enumerate(vectors)]
    many = window_of(long)
    many = replace(many, entries=many.entries * (MAX_IDS_BYTES // (512 * COUNT) + 1))
    report = report_of(many, {NAME: detector}, 20)
    assert report.request_ids is None and report.size == len(many.entries)
    assert len(report.model_dump_json()) < DRIFT.max_message_bytes // 4
    assert len(records_of(many, report)) == 1 + report.size


def test_records_are_the_windows_own_and_a_link_on_each_pair(
    messages: list[Message], vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    window = window_of(messages)
    own, *links = records_of(window, report_of(window, {NAME: detector}, 20))
    assert (own.id, own.mode) == (f"{MODEL}-2-100", "index")
    assert own.index == "modelwatch-drift-2025.06.15"
    assert [link.id for link in links] == [f"id-{number}" for number in range(COUNT)]
    assert links[0].document == {"drift": {"window_id": own.id}}
    answered = vectors[0].answered_at
    assert answered is not None and links[0].index == f"modelwatch-inferences-{answered:%Y.%m.%d}"


def test_a_window_of_a_model_beside_the_primary_one_links_the_records_of_its_own_answers(
    vectors: list[FeatureVector], detector: DriftDetector
) -> None:
    window = window_of([changed(one, primary=False) for one in vectors])
    _, *links = records_of(window, report_of(window, {NAME: detector}, 20))
    assert links[0].id == f"id-0@{MODEL}:1"


def test_windows_of_a_topic_that_was_made_anew_have_other_ids(vectors: list[FeatureVector]) -> None:
    ids = {window_id(window_of([changed(one, pairs_id=name) for one in vectors])) for name in (None, "a", "b")}
    assert len(ids) == 3
