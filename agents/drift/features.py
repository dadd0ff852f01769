"""The first stage: compact features of each pair, and the messages that carry them to the second stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray
from pydantic import ValidationError

from agents.drift.detectors import DriftDetector
from agents.drift.windows import Entry, Identity
from agents.pairs import PairGroup, ReadPair, groups
from schemas.clock import check_not_ahead
from schemas.identity import record_id
from schemas.messages import FeatureVector, ImageDtype
from schemas.refusal import Reason, Refusal

Detectors = Mapping[str, Mapping[str, DriftDetector]]
"""By model, then by the detector's name."""
_VERSION = FeatureVector.model_fields["schema_version"].default


@dataclass(frozen=True, slots=True)
class EncodedFeatures:
    """The value of one message of `monitoring.features`, and the model that is its key."""

    model: str
    request_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """What a window keeps of one pair: little, for windows are large.

    Attributes:
        record_id: of the pair's record.
        time: of the pair in its topic.
        answered_at: names the index of its record.
        features: by detector, float32, little endian.
    """

    request_id: str
    record_id: str
    time: datetime
    answered_at: datetime
    features: Mapping[str, bytes]


def extract(pairs: Sequence[ReadPair], detectors: Detectors, pairs_id: str | None = None) -> list[EncodedFeatures]:
    """Features of each answered pair of a model that has drift detectors, in the order of the pairs.

    Args:
        pairs_id: of the topic that they were read from, where it has one.
    """
    watched = [model for model, own in detectors.items() if own]
    encoded: dict[int, EncodedFeatures] = {}
    for group in groups(pairs, watched):
        features = {name: one.features(group.images, group.probabilities) for name, one in _of(detectors, group)}
        hashes = {name: one.identity.sha256 for name, one in _of(detectors, group)}
        for place, row in enumerate(group.rows):
            own = {name: values[place] for name, values in features.items()}
            encoded[row] = _encode(pairs[row], own, hashes, pairs_id)
    return [encoded[row] for row in sorted(encoded)]


def _of(detectors: Detectors, group: PairGroup) -> list[tuple[str, DriftDetector]]:
    return list(detectors[group.model].items())


def _encode(
    read: ReadPair, features: Mapping[str, NDArray[np.float32]], hashes: Mapping[str, str], pairs_id: str | None
) -> EncodedFeatures:
    request, response, message = read.pair.request, read.pair.response, read.message
    document = {
        "schema_version": _VERSION,
        "request_id": request.request_id,
        "model": request.model,
        "model_version": response.model_version,
        "primary": response.primary,
        "position": {
            "partition": message.partition,
            "offset": message.offset,
            "time": datetime.fromtimestamp(read.time, timezone.utc),
        },
        "pairs_id": pairs_id,
        "features": {name: _tensor(values) for name, values in features.items()},
        "detector_sha256": dict(hashes),
        "answered_at": response.answered_at,
    }
    return EncodedFeatures(request.model, request.request_id, orjson.dumps(document, option=orjson.OPT_UTC_Z))


def _tensor(values: NDArray[np.float32]) -> dict[str, Any]:
    data = pybase64.b64encode_as_string(np.ascontiguousarray(values, "<f4").data.cast("B"))
    return {"dtype": ImageDtype.FLOAT32.value, "shape": values.shape, "data": data}


def read_features(value: bytes) -> FeatureVector:
    """The features in a message of `monitoring.features` that has a value.

    Raises:
        Refusal: INVALID_FIELD, INVALID_JSON or NOT_FINITE.
    """
    try:
        vector = FeatureVector.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        reason = Reason.INVALID_JSON if first["type"] == "json_invalid" else Reason.INVALID_FIELD
        raise Refusal(reason, f"not a FeatureVector: {where}: {first['msg'][:300]}") from error
    _check_numbers(vector)
    return vector


def _check_numbers(vector: FeatureVector) -> None:
    """What no test could be computed of would end the agent again and again."""
    if vector.detector_sha256 and vector.detector_sha256.keys() != vector.features.keys():
        found = (
            f"features are of {sorted(vector.features)[:8]}, detector_sha256 of {sorted(vector.detector_sha256)[:8]}"
        )
        raise Refusal(Reason.INVALID_FIELD, f"not a FeatureVector: {found}; each detector has both")
    for name, tensor in vector.features.items():
        if tensor.dtype is not ImageDtype.FLOAT32 or len(tensor.shape) != 1:
            raise Refusal(
                Reason.INVALID_FIELD,
                f"features of {name[:64]!r} are {tensor.shape} {tensor.dtype.value}; expected one row of float32",
            )
        if not np.isfinite(np.frombuffer(tensor.data, "<f4")).all():
            raise Refusal(Reason.NOT_FINITE, f"features of {name[:64]!r} hold NaN or infinity")


def entry_of(message: Any, max_ahead: float, now: float) -> tuple[str, Entry]:
    """The model and the entry of a message of `monitoring.features` that has a value.

    Args:
        message: with `value`, `offset`, and `timestamp` in seconds since the epoch.
        max_ahead: seconds that a pair's clocks may be ahead of the message, and the message's of `now`.
        now: the reader's clock, seconds since the epoch.

    Raises:
        Refusal: it holds no features, or moments ahead of its arrival.
    """
    vector = read_features(message.value)
    position, answered_at = vector.position, vector.answered_at or vector.position.time
    arrived = message.timestamp if message.timestamp >= 0 else now
    check_not_ahead("Kafka's timestamp", arrived, now, max_ahead)
    check_not_ahead("position.time", position.time.timestamp(), arrived, max_ahead)
    check_not_ahead("answered_at", answered_at.timestamp(), arrived, max_ahead)
    identity = Identity(vector.model_version, tuple(sorted(vector.detector_sha256.items())))
    content = PairFeatures(
        vector.request_id,
        record_id(vector.request_id, vector.model, vector.model_version or "", vector.primary),
        position.time,
        answered_at,
        {name: tensor.data for name, tensor in vector.features.items()},
    )
    place = (vector.pairs_id, position.partition, position.offset)
    return vector.model, Entry(message.offset, identity, *place, position.time.timestamp(), content)
