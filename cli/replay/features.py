"""Computes the features of recorded windows again from the images, and compares them with those that were tested."""

import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agents.drift.features import Detectors, extract, read_features
from agents.drift.reports import content_of
from agents.drift.windows import Window
from agents.pairs import ReadPair, read_pairs
from cli.replay.differences import Audit
from cli.replay.log_reader import offsets_at, read_from
from cli.replay.messages import batches
from runtime import kafka
from runtime.settings import Settings
from schemas.messages import DriftReport
from schemas.model_spec import ModelSpec
from schemas.topics import PAIRS

TOLERANCE = 1e-5
"""Of a feature, as a share of the largest of its pair: so far may another processor's rounding carry it."""
Key = tuple[str | None, int, int, str, str]
"""Id of the pairs' topic, partition, offset; the detector's name and hash."""


class FeaturesAgain:
    """The features of the pairs of some reports, as far as these are still kept.

    Args:
        known: detectors, each set computed for itself.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Mapping[str, ModelSpec],
        known: Sequence[Detectors],
        reports: Collection[DriftReport],
    ) -> None:
        self._found: dict[Key, NDArray[np.float32]] = {}
        if not reports:
            return
        topic_id = kafka.topic_ids(kafka.admin(settings), [PAIRS.name]).get(PAIRS.name)
        begin = min(report.first.time.timestamp() for report in reports)
        # Pairs of one window lie on several partitions, so its first one need not be the oldest.
        oldest = begin - max(specs[report.model].window.max_age_seconds for report in reports)
        models, last = {report.model for report in reports}, max(report.last.time.timestamp() for report in reports)
        latest = last + max(specs[model].window.max_age_seconds for model in models)
        for messages in batches(read_from(settings, PAIRS.name, offsets_at(settings, PAIRS.name, oldest))):
            timely = [one for one in messages if one.timestamp <= latest]
            pairs, _ = read_pairs(timely, specs, time.time(), settings.max_ahead_seconds)
            own = [pair for pair in pairs if pair.pair.request.model in models]
            for detectors in known:
                self._extract(own, detectors, topic_id)

    def _extract(self, pairs: Sequence[ReadPair], detectors: Detectors, topic_id: str | None) -> None:
        for encoded in extract(pairs, detectors):
            vector = read_features(encoded.value)
            place = topic_id, vector.position.partition, vector.position.offset
            for name, tensor in vector.features.items():
                key = (*place, name, vector.detector_sha256[name])
                self._found[key] = np.frombuffer(tensor.data, "<f4")

    def get(self, key: Key) -> NDArray[np.float32] | None:
        """One pair's; None if the pair or the detector is not there any more."""
        return self._found.get(key)


def compare_features(audit: Audit, name: str, window: Window, again: FeaturesAgain) -> None:
    """Compare what a window was tested by with what its images give now."""
    gone, furthest = 0, 0.0
    for entry in window.entries:
        for detector, sha256 in window.identity.detectors:
            key = entry.pair_topic, entry.pair_partition, entry.pair_offset, detector, sha256
            computed, recorded = again.get(key), np.frombuffer(content_of(entry).features[detector], "<f4")
            if computed is None:
                gone += 1
            elif computed.shape != recorded.shape:
                furthest = np.inf
            else:
                scale = float(np.abs(recorded).max()) or 1.0
                furthest = max(furthest, float(np.abs(computed - recorded).max()) / scale)
    if gone:
        audit.notes.append(f"{name}: features of {gone} pairs cannot be computed again: pair or detector is gone")
    if furthest > TOLERANCE:
        audit.add(name, "features", "as tested", f"up to {furthest:.3g} of the largest away: other images, or weights?")
