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
from agents.pairs import PairGroup, ReadPair, groups
from schemas.messages import FeatureVector, ImageDtype, Tensor
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


def extract(pairs: Sequence[ReadPair], detectors: Detectors) -> list[EncodedFeatures]:
    """Features of each answered pair of a model that has drift detectors, in the order of the pairs."""
    watched = [model for model, own in detectors.items() if own]
    encoded: dict[int, EncodedFeatures] = {}
    for group in groups(pairs, watched):
        features = {name: one.features(group.images, group.probabilities) for name, one in _of(detectors, group)}
        for place, row in enumerate(group.rows):
            encoded[row] = _encode(pairs[row], {name: values[place] for name, values in features.items()})
    return [encoded[row] for row in sorted(encoded)]


def _of(detectors: Detectors, group: PairGroup) -> list[tuple[str, DriftDetector]]:
    return list(detectors[group.model].items())


def _encode(read: ReadPair, features: Mapping[str, NDArray[np.float32]]) -> EncodedFeatures:
    request, message = read.pair.request, read.message
    document = {
        "schema_version": _VERSION,
        "request_id": request.request_id,
        "model": request.model,
        "position": {
            "partition": message.partition,
            "offset": message.offset,
            "time": datetime.fromtimestamp(read.time, timezone.utc),
        },
        "features": {name: _tensor(values) for name, values in features.items()},
        "answered_at": read.pair.response.answered_at,
    }
    return EncodedFeatures(request.model, request.request_id, orjson.dumps(document, option=orjson.OPT_UTC_Z))


def _tensor(values: NDArray[np.float32]) -> dict[str, Any]:
    data = pybase64.b64encode_as_string(np.ascontiguousarray(values, "<f4").data.cast("B"))
    return {"dtype": ImageDtype.FLOAT32.value, "shape": values.shape, "data": data}


def read_features(value: bytes) -> FeatureVector:
    """The features in a message of `monitoring.features` that has a value.

    Raises:
        Refusal: INVALID_FIELD or INVALID_JSON.
    """
    try:
        return FeatureVector.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        reason = Reason.INVALID_JSON if first["type"] == "json_invalid" else Reason.INVALID_FIELD
        raise Refusal(reason, f"not a FeatureVector: {where}: {first['msg'][:300]}") from error


def stacked(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    """The feature vectors (n, d) of one detector."""
    width = len(tensors[0].data) // 4
    return np.frombuffer(b"".join(tensor.data for tensor in tensors), "<f4").reshape(len(tensors), width)
