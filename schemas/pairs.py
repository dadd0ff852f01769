"""Writing and reading pairs at the speed of the worker: a batch at once, without building a model for each.

What is written is what `InferencePair.model_dump_json` writes, field by field; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from math import prod
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas.identity import labels_id
from schemas.messages import LARGEST, InferencePair, InferenceRequest, InferenceResponse, Outcome
from schemas.model_spec import Task
from schemas.refusal import Reason, Refusal

_REQUEST_VERSION = InferenceRequest.model_fields["schema_version"].default
_RESPONSE_VERSION = InferenceResponse.model_fields["schema_version"].default
_PAIR_VERSION = InferencePair.model_fields["schema_version"].default
ROUNDING = 1e-6
"""How far outside 0..1 rounding may carry a probability; it is cut off."""
_NOTHING = dict.fromkeys(("probabilities", "predicted", "label", "confidence", "value"))
_EXPIRED = {**_NOTHING, "outcome": Outcome.EXPIRED.value}
_REASONS = {
    "json_invalid": Reason.INVALID_JSON,
    "missing": Reason.MISSING_FIELD,
    "finite_number": Reason.NOT_FINITE,
}
"""By pydantic's error type; INVALID_FIELD for every other."""


class PairWriter:
    """Writes the pairs of one loaded model.

    Args:
        model: its name, as in its `ModelSpec`.
        version: its version, as in its `ModelSpec`.
        weights_sha256: of the file of weights, in hexadecimal.
        labels: one an output, in order.
        device: what it computes on.
        task: as in its `ModelSpec`; says what the outputs are.
        primary: whether it answers the requests that name no model.
    """

    def __init__(
        self,
        model: str,
        version: str,
        weights_sha256: str,
        labels: Sequence[str],
        device: str,
        task: Task = "classification",
        primary: bool = True,
    ) -> None:
        self._model = model
        self._labels = tuple(labels)
        self._task = task
        self._fixed = {
            "schema_version": _RESPONSE_VERSION,
            "model": model,
            "model_version": version,
            "primary": primary,
            "weights_sha256": weights_sha256,
            "labels_id": None if task == "regression" else labels_id(self._labels),
            "device": device,
        }

    def unusable(self, outputs: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which rows of outputs are no answer, (n,): not finite, or of a classifier outside 0..1; None if all are."""
        bound = (-LARGEST, LARGEST) if self._task == "regression" else (-ROUNDING, 1 + ROUNDING)
        fine = (outputs >= bound[0]) & (outputs <= bound[1])  # false for NaN
        return None if fine.all() else ~fine.all(axis=1)

    def encode(
        self,
        request_ids: Sequence[str],
        images: NDArray[Any],
        attributes: Sequence[Mapping[str, str]],
        sent_at: Sequence[float],
        deadlines: Sequence[float | None],
        outputs: NDArray[Any] | None,
        queue: Sequence[float],
        batch: Sequence[float],
        compute: float,
        batch_size: int,
        answered_at: float,
    ) -> list[bytes]:
        """JSON of one pair an image, in order.

        Args:
            request_ids: n of them, as for every sequence here.
            images: `(n, *item)` uint8 or float32, as the model saw them.
            attributes: the callers' metadata.
            sent_at: seconds since the epoch.
            deadlines: seconds since the epoch, or None.
            outputs: `(n, classes)` float32 probabilities, or `(n, 1)` float32 values of a regression model; None if
                nothing was computed: every outcome is `expired`.
            queue: seconds from each message's timestamp to its being read; clocks differ, so below 0 counts as 0.
            batch: seconds from reading to the start of the computation.
            compute: seconds of the batch's computation.
            batch_size: images computed together.
            answered_at: seconds since the epoch.

        Raises:
            ValueError: the arguments differ in length; or a probability is not in 0..1 or a value not finite: the model
                is broken.
        """
        requests = self._requests(request_ids, images, attributes, sent_at, deadlines)
        answers = self._answers(outputs, len(requests))
        shared = {**self._fixed, "batch_size": batch_size, "answered_at": _utc(answered_at)}
        compute = max(0.0, compute)
        return [
            orjson.dumps(
                {
                    "schema_version": _PAIR_VERSION,
                    "request": request,
                    "response": {
                        **shared,
                        **answer,
                        "timings": {"queue": max(0.0, queued), "batch": max(0.0, waited), "compute": compute},
                    },
                },
                option=orjson.OPT_UTC_Z,
            )
            for request, answer, queued, waited in zip(requests, answers, queue, batch, strict=True)
        ]

    def _requests(
        self,
        request_ids: Sequence[str],
        images: NDArray[Any],
        attributes: Sequence[Mapping[str, str]],
        sent_at: Sequence[float],
        deadlines: Sequence[float | None],
    ) -> list[dict[str, Any]]:
        dtype, shape = images.dtype.name, images.shape[1:]
        rows = np.ascontiguousarray(images).reshape(len(images), prod(shape)).view(np.uint8)
        return [
            {
                "schema_version": _REQUEST_VERSION,
                "request_id": request_id,
                "model": self._model,
                "image": {"dtype": dtype, "shape": shape, "data": pybase64.b64encode_as_string(row)},
                "attributes": attribute_map,
                "sent_at": _utc(sent),
                "deadline": None if deadline is None else _utc(deadline),
            }
            for request_id, row, attribute_map, sent, deadline in zip(
                request_ids, rows, attributes, sent_at, deadlines, strict=True
            )
        ]

    def _answers(self, outputs: NDArray[Any] | None, count: int) -> list[dict[str, Any]]:
        """What the model said, one an image."""
        if outputs is None:
            return [_EXPIRED] * count
        if outputs.shape != (count, len(self._labels)):
            raise ValueError(f"outputs have shape {outputs.shape}; expected {(count, len(self._labels))}")
        return self._values(outputs) if self._task == "regression" else self._classes(outputs)

    def _values(self, values: NDArray[Any]) -> list[dict[str, Any]]:
        if self.unusable(values) is not None:
            raise ValueError(f"model {self._model} answered a value that is not finite; check its weights")
        return [{**_NOTHING, "outcome": Outcome.OK.value, "value": value} for value in values[:, 0].tolist()]

    def _classes(self, probabilities: NDArray[Any]) -> list[dict[str, Any]]:
        if self.unusable(probabilities) is not None:
            raise ValueError(f"model {self._model} answered probabilities outside 0..1 or NaN; check its weights")
        probabilities = probabilities.clip(0, 1)
        predicted, confidence = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
        return [
            {
                "outcome": Outcome.OK.value,
                "probabilities": row,
                "predicted": index,
                "label": self._labels[index],
                "confidence": share,
                "value": None,
            }
            for row, index, share in zip(probabilities.tolist(), predicted, confidence, strict=True)
        ]


def read_pair(value: bytes | None) -> InferencePair:
    """The pair in a message of `inference.pairs`.

    Raises:
        Refusal: EMPTY_VALUE, INVALID_JSON, MISSING_FIELD, INVALID_FIELD, WRONG_SHAPE, NOT_FINITE.
    """
    if not value:
        raise Refusal(Reason.EMPTY_VALUE, "the message has no value; expected an InferencePair")
    try:
        pair = InferencePair.model_validate_json(value)
    except ValidationError as error:
        raise _refusal_of(error) from error
    if min(pair.request.image.shape, default=1) < 1:
        raise Refusal(Reason.WRONG_SHAPE, f"request.image.shape is {pair.request.image.shape}; sizes are at least 1")
    return pair


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _refusal_of(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a pair."""
    first = error.errors(include_url=False, include_input=False)[0]
    reason = _REASONS.get(first["type"], Reason.INVALID_FIELD)
    where = ".".join(map(str, first["loc"])) or "the message"
    return Refusal(reason, f"not an InferencePair: {where}: {first['msg'][:300]} ({error.error_count()} problems)")
