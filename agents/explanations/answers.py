"""What an explanation becomes: a message, and fields of its pair's record."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agents.explanations.explainer import Answer, AskedModel, AskedVersion, Pixels
from agents.explanations.overlay import overlay_png
from schemas.base import utc_now
from schemas.messages import Explanation, ExplanationRequest, ImageDtype, LogPosition, Tensor
from schemas.model_spec import ModelSpec

UNRECORDED = {"schema_version", "request_id", "model", "method"}
"""They are the record's own, and the name of the object that holds the rest."""
FOUND = ("ok", "no_anchor")
"""Outcomes that explain; the others say why nothing does, and never take the place of one that explains."""
MAX_REASON = 2000
DECIMALS = 6
"""Of figures: a store may change the last digit of a double, and what it gives back must be what was published."""


def explained(
    question: ExplanationRequest,
    spec: ModelSpec,
    image: Pixels,
    answer: Answer,
    asked: AskedModel,
    version: AskedVersion,
    seconds: float,
    position: LogPosition,
) -> Explanation:
    """The message about what came of an explanation that was begun."""
    label = None if answer.predicted is None else spec.labels[answer.predicted]
    drawn = answer.segments is not None or answer.importance is not None
    return Explanation(
        request_id=question.request_id,
        model=spec.name,
        model_version=version.found,
        method=question.method,
        outcome=answer.outcome,
        reason=" ".join(filter(None, (answer.reason, version.note))) or None,
        predicted=answer.predicted,
        label=label,
        anchor=answer.anchor,
        anchor_mask=_mask(answer),
        segments=None if answer.segments is None else _tensor(answer.segments),
        importance=None if answer.importance is None else _tensor(answer.importance.astype("<f4")),
        precision=_rounded(answer.precision),
        coverage=_rounded(answer.coverage),
        predictor_calls=asked.calls,
        distinct_evaluations=asked.evaluations,
        samples=answer.samples,
        seconds=round(seconds, DECIMALS),
        overlay_png=overlay_png(image, answer, label or "no answer") if drawn else None,
        question=position,
        explained_at=utc_now(),
    )


def unexplained(
    request_id: str, model: str, version: str | None, method: str, outcome: str, reason: str, position: LogPosition
) -> Explanation:
    """The message that says why there is no explanation."""
    return Explanation.model_validate(
        {
            "request_id": request_id,
            "model": model,
            "model_version": version,
            "method": method,
            "outcome": outcome,
            "reason": reason[:MAX_REASON],
            "question": position,
            "explained_at": utc_now(),
        }
    )


def document_of(explanation: Explanation, asked_by: str) -> dict[str, Any]:
    """The fields that an explanation sets in its pair's record: all of its method's, so that none of an older stays."""
    fields = explanation.model_dump(mode="json", exclude=UNRECORDED) | {"asked_by": asked_by}
    return {
        "request_id": explanation.request_id,
        "model": explanation.model,
        "explanation": {explanation.method: fields},
    }


def recorded(document: dict[str, Any], method: str) -> Explanation | None:
    """The explanation by this method in a record."""
    fields = (document.get("explanation") or {}).get(method)
    if not fields:
        return None
    own = {"request_id": document["request_id"], "model": document["model"], "method": method}
    try:
        return Explanation.model_validate(own | fields)
    except ValidationError:  # somebody else's, or of a later version
        return None


def _mask(answer: Answer) -> Tensor | None:
    if answer.segments is None or answer.anchor is None:
        return None
    return _tensor(np.isin(answer.segments, answer.anchor).astype(np.uint8))


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, DECIMALS)


def _tensor(array: NDArray[Any]) -> Tensor:
    return Tensor(dtype=ImageDtype(array.dtype.name), shape=array.shape, data=array.tobytes())
