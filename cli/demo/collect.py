"""From what the demo found on the topics and in the store to the evidence that its page is made from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.demo.records import Document, Records
from cli.report.evidence import JudgedPicture, Latencies
from schemas.messages import ImageDtype, InferencePair, Tensor

MOST_PICTURES = 3
"""Of one batch, in the gallery."""
PICTURE_FIELDS = ("request.image", "response.label", "response.confidence", "outlier")


def strangest(batches: Mapping[str, Sequence[str]], records: Mapping[str, Document]) -> dict[str, str]:
    """Name of its batch by request id, of the flagged requests with the highest scores of each batch."""
    chosen: dict[str, str] = {}
    for name, request_ids in batches.items():
        flagged = [one for one in request_ids if records[one]["outlier"]["is_outlier"]]
        flagged.sort(key=lambda one: -float(records[one]["outlier"]["score"]))
        chosen |= dict.fromkeys(flagged[:MOST_PICTURES], name)
    return chosen


def pictures(records: Records, captions: Mapping[str, str]) -> list[JudgedPicture]:
    """Pictures with their verdicts, from the records alone.

    Args:
        captions: by request id, in the order wanted.
    """
    found = records.find(list(captions), PICTURE_FIELDS)
    return [judged(name, caption, found[name]) for name, caption in captions.items() if name in found]


def judged(request_id: str, caption: str, record: Mapping[str, Any]) -> JudgedPicture:
    """One record as a picture."""
    outlier, response = record["outlier"], record["response"]
    scored = outlier.get("score_map")
    return JudgedPicture(
        request_id,
        caption,
        pixels(Tensor.model_validate(record["request"]["image"])),
        score=outlier["score"],
        threshold=outlier["threshold"],
        flagged=outlier["is_outlier"],
        score_map=None if scored is None else pixels(Tensor.model_validate(scored)),
        label=response.get("label"),
        confidence=response.get("confidence"),
    )


def pixels(tensor: Tensor) -> NDArray[np.uint8]:
    """Its values as bytes in its shape; floats in 0..1 are rounded to 0..255."""
    if tensor.dtype is ImageDtype.UINT8:
        return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
    unit = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
    return np.asarray(np.rint(np.clip(unit, 0, 1) * 255), np.uint8)


def latencies(pairs: Sequence[InferencePair]) -> Latencies:
    """Of all answers."""
    timings = [pair.response.timings for pair in pairs]
    return Latencies(
        total=np.array([(pair.response.answered_at - pair.request.sent_at).total_seconds() for pair in pairs]),
        queue=np.array([one.queue for one in timings]),
        batch=np.array([one.batch for one in timings]),
        compute=np.array([one.compute for one in timings]),
    )
