"""Verdicts on a batch of pairs: scores, flags, and a compact map of where an image is strange."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from agents.outliers.detector import OutlierDetector
from agents.pairs import ReadPair, groups
from schemas.base import utc_now
from schemas.messages import ImageDtype, InferencePair, OutlierVerdict, Tensor


def judge(pairs: Sequence[ReadPair], detectors: Mapping[str, OutlierDetector]) -> list[OutlierVerdict | None]:
    """A verdict a pair, in order; None for pairs that expired and for models without a detector."""
    verdicts: list[OutlierVerdict | None] = [None] * len(pairs)
    for group in groups(pairs, detectors):
        detector = detectors[group.model]
        scored, moment = detector.score(group.images), utc_now()
        for place, row in enumerate(group.rows):
            pair = pairs[row].pair
            verdicts[row] = _verdict(pair, detector, float(scored.scores[place]), scored.maps[place], moment)
    return verdicts


def _verdict(
    pair: InferencePair, detector: OutlierDetector, score: float, score_map: NDArray[np.float32], at: datetime
) -> OutlierVerdict:
    flagged = score > detector.threshold
    return OutlierVerdict(
        request_id=pair.request.request_id,
        model=pair.request.model,
        model_version=pair.response.model_version,
        score=score,
        threshold=detector.threshold,
        is_outlier=flagged,
        score_map=compact(score_map) if flagged else None,
        detector=detector.identity,
        scored_at=at,
    )


def compact(score_map: NDArray[np.float32]) -> Tensor:
    """A map (h, w) of one byte a pixel, 255 at the highest score: enough to see where, a kilobyte for 32 by 32."""
    highest = float(score_map.max())
    scaled = np.zeros_like(score_map) if highest <= 0 else score_map * (255 / highest)
    return Tensor(dtype=ImageDtype.UINT8, shape=score_map.shape, data=np.rint(scaled).astype(np.uint8).tobytes())
