"""Everything that reads bytes from outside, as functions of bytes that break one law: decode, or refuse with our error.

A target returns whether its input was taken. Any exception that leaves it is a finding, and so is an accepted input
from which the code behind the decoder cannot work.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson

from agents.confusion.fold import Fold, encode_fold
from agents.confusion.inputs import InputReader, partition_of
from agents.confusion.partition import Limits, PartitionJoin
from agents.confusion.records import truth_record
from agents.confusion.store import MemoryStore
from agents.drift.features import entry_of
from agents.explanations.questions import options_of, pixels_of, read_question, seconds_left, spec_of
from agents.outliers.records import document_of, index_of
from agents.pairs import groups, read_pairs
from runtime.errors import ConfigurationError
from runtime.model_folder import CHECKSUMS_FILE, ModelFolder, load_model_folder
from runtime.spec_file import SPEC_FILE
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.letters import dead_letter
from schemas.model_spec import WeightsSpec
from schemas.payloads import MAX_IMAGES, decode_request
from schemas.refusal import Refusal
from schemas.topics import FEEDBACK, PAIRS
from tests.fuzz import seeds
from tests.fuzz.http_target import over_http
from tests.fuzz.mutators import repaired_png
from tests.fuzz.seeds import CLASSIFIER, NOW, SPECS

LIMITS = Limits(window_seconds=10, keep_seconds=40, max_entries=1000, lookup_seconds=1, orphan_seconds=1e9)


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of foreign bytes.

    Attributes:
        run: true if the bytes were taken, false if they were refused as they should be.
        seeds: good inputs to begin with, by name.
        body: where in an input its JSON begins; None if there is none.
    """

    run: Callable[[bytes], bool]
    seeds: Callable[[], Mapping[str, bytes]]
    body: Callable[[bytes], int] | None = None


def requests(data: bytes) -> bool:
    """A message of `inference.requests`: lines of headers, an empty line, the value; `key` is the key."""
    headers, value = seeds.unframed(data)
    key = next((text for name, text in headers if name == "key"), None)
    stamp = next((text for name, text in headers if name == "timestamp"), b"")
    timestamp = float(int.from_bytes(stamp[:8], "big", signed=True)) if stamp else NOW
    try:
        found = decode_request(value, key, headers, timestamp, SPECS, CLASSIFIER.name)
    except Refusal as refusal:
        return _refused(refusal)
    images, spec = found.images, SPECS[found.model]
    assert 1 <= len(images) <= MAX_IMAGES and images.shape[1:] == spec.input.shape
    assert images.dtype == np.uint8 or (images.min() >= -1e-6 and images.max() <= 1 + 2e-6)
    assert len(set(found.request_ids)) == len(images)
    return True


def png(data: bytes) -> bool:
    """A PNG picture, whose checksums are made right first."""
    return requests(seeds.framed({"content-type": b"image/png"}, repaired_png(data)))


def pairs(data: bytes) -> bool:
    """A message of `inference.pairs`, as the outliers, drift and confusion agents take it, with feedback to join."""
    message = _message(PAIRS.name, data)
    read, refused = read_pairs([message], SPECS, NOW, MAX_AHEAD_SECONDS)
    if refused:
        return _refused(refused[0][1])
    for group in groups(read, SPECS):
        assert np.isfinite(group.images).all() and np.isfinite(group.probabilities).all()
    orjson.dumps(document_of(read[0], None))
    index_of(read[0])
    request = read[0].pair.request
    truth: dict[str, object] = {"truth": 1, "request_id": request.request_id, "given_at": "2026-01-01T00:00:00Z"}
    _join([message, _feedback_message(orjson.dumps(truth), request.request_id)])
    return True


def feedback(data: bytes) -> bool:
    """A message of `inference.feedback`, joined with the pairs of the requests that the seeds know."""
    good = [_message(PAIRS.name, value, offset) for offset, value in enumerate(seeds.pairs().values())]
    return _join([*good, _feedback_message(data, seeds.REQUEST_ID)])


def questions(data: bytes) -> bool:
    """A message of `explanation.requests`."""
    try:
        asked = read_question(data)
        spec = spec_of(asked.model or CLASSIFIER.name, SPECS)
        options_of(asked, spec)
        assert np.isfinite(seconds_left(asked, NOW, 30.0))
        if asked.image is not None:
            pixels = pixels_of(asked.image, spec)
            assert np.isfinite(pixels).all()
    except Refusal as refusal:
        return _refused(refusal)
    return True


LATER = 1_800_000_000.0
"""Than any moment in the seeds."""


def features(data: bytes) -> bool:
    """A message of `monitoring.features`."""
    try:
        entry_of(SimpleNamespace(value=data, offset=0, timestamp=LATER), MAX_AHEAD_SECONDS, LATER)
    except Refusal as refusal:
        return _refused(refusal)
    return True


def model_yaml(data: bytes) -> bool:
    """A `model.yaml`."""
    (_folder() / SPEC_FILE).write_bytes(data)
    (_folder() / CHECKSUMS_FILE).write_bytes(seeds.checksums()["right"])
    return _is_good(lambda: load_model_folder(_folder()))


def checksums(data: bytes) -> bool:
    """A `checksums.txt`."""
    (_folder() / CHECKSUMS_FILE).write_bytes(data)
    spec = CLASSIFIER.model_copy(update={"weights": WeightsSpec(file="weights.keras")})
    return _is_good(lambda: ModelFolder(_folder(), spec, ""))


def _is_good(load: Callable[[], ModelFolder]) -> bool:
    try:
        folder = load()
        assert all(size > 0 for size in folder.spec.input.shape)
        folder.verify()
    except ConfigurationError as error:
        assert 0 < len(str(error)) < 20_000 and str(error).encode()
        return False
    return True


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-model-"))
    (folder / "weights.keras").write_bytes(b"weights")
    return folder


def _join(messages: list[SimpleNamespace]) -> bool:
    """Whether the last message was taken; what it brings goes through the join, its records and its fold."""
    inputs = InputReader(SPECS, 1.0, 1).read(messages, NOW)
    join = PartitionJoin(MemoryStore(), Fold(0), SPECS, LIMITS)
    applied = join.apply(inputs.parts)
    for one in applied:
        for half in one.judged():
            orjson.dumps(truth_record(0, one.request_id, half, SPECS).document)
    PartitionJoin(join._store, Fold(0), SPECS, LIMITS)  # what is stored can be read again
    join.expire(NOW + 1000)
    encode_fold(join.fold)
    found = [refusal for _, refusal in inputs.refused] + [why for one in applied for _, why in one.refused]
    for refusal in found:
        _refused(refusal)
    return not found


def _refused(refusal: Refusal) -> bool:
    assert refusal.detail
    dead_letter(None, None, (), ("topic", 0, 0), "stage", refusal)
    return False


def _message(topic: str, value: bytes, offset: int = 0) -> SimpleNamespace:
    return SimpleNamespace(topic=topic, partition=0, offset=offset, key=b"id", value=value, headers=[], timestamp=NOW)


def _feedback_message(value: bytes, request_id: str) -> SimpleNamespace:
    assert partition_of(request_id, 1) == 0
    return _message(FEEDBACK.name, value)


def _after_headers(data: bytes) -> int:
    return data.find(b"\n\n") + 2


TARGETS: Mapping[str, Target] = {
    "requests": Target(requests, seeds.requests, _after_headers),
    "png": Target(png, seeds.pngs),
    "pairs": Target(pairs, seeds.pairs, lambda _: 0),
    "feedback": Target(feedback, seeds.feedback, lambda _: 0),
    "questions": Target(questions, seeds.questions, lambda _: 0),
    "features": Target(features, seeds.features, lambda _: 0),
    "model_yaml": Target(model_yaml, seeds.model_yaml),
    "checksums": Target(checksums, seeds.checksums),
    "http": Target(over_http, seeds.http, _after_headers),
}
