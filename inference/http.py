"""The worker's HTTP side: Open Inference Protocol V2 and TensorFlow Serving V1, batched together with Kafka's traffic.

Sources: Open Inference Protocol, REST (kserve/open-inference-protocol); TensorFlow Serving REST API, predict.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from inference.authorization import bearer_token
from inference.batcher import Answer, Batcher, Overloaded
from inference.chunks import split_parts
from inference.outgoing import encode_part
from inference.predictor import Outputs
from inference.recorder import Recorder
from runtime.errors import TransientError
from runtime.health import Health
from runtime.logging import get_logger
from runtime.metrics import WorkerMetrics, observe_many
from runtime.model_folder import ModelFolder
from schemas.headers import ATTRIBUTE_PREFIX, CE_ID, CE_TIME, CONTENT_TYPE, DEADLINE, JSON, MODEL, TRACEPARENT, rfc3339
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.payloads import DecodedRequest, decode_request
from schemas.refusal import Reason, Refusal
from schemas.topics import MAX_REQUEST_BYTES

log = get_logger(__name__)

RECORD_HEADER = "x-modelwatch-record"
FORWARDED = {name: name for name in (CONTENT_TYPE, DEADLINE, TRACEPARENT, CE_ID, CE_TIME)} | {
    "ce-id": CE_ID,
    "ce-time": CE_TIME,
}
"""HTTP headers that mean what they mean in Kafka; CloudEvents spells its own with a hyphen in HTTP."""
STATUS = {Reason.UNKNOWN_MODEL: 404, Reason.OVERSIZE: 413, Reason.UNKNOWN_CONTENT_TYPE: 415}


@dataclass(slots=True, frozen=True)
class Asked:
    """A decoded request and what the model answered, in parts of at most one batch."""

    request: DecodedRequest
    answers: list[Answer]

    @property
    def expired(self) -> bool:
        """Whether its deadline, which is one for all its images, passed before they were computed."""
        return any(answer.expired is not None for answer in self.answers)

    @property
    def outputs(self) -> Outputs:
        """(images, labels) float32."""
        return np.concatenate([answer.outputs for answer in self.answers])


class InferenceRoutes:
    """The endpoints that ask a model.

    Args:
        pool: decodes bodies, so that a large one does not hold the event loop.
        recorder: publishes the pairs of answered requests.
        token: what callers must bring; None: nothing.
    """

    def __init__(
        self,
        folders: Mapping[str, ModelFolder],
        batcher: Batcher,
        writers: Mapping[str, PairWriter],
        recorder: Recorder,
        metrics: WorkerMetrics,
        health: Health,
        pool: Executor,
        token: str | None = None,
    ) -> None:
        self._folders = folders
        self._specs = {name: folder.spec for name, folder in folders.items()}
        self._batcher = batcher
        self._writers = writers
        self._recorder = recorder
        self._metrics = metrics
        self._health = health
        self._pool = pool
        self._token = token

    def add_to(self, app: web.Application) -> None:
        """Add the routes, and have every error answered in their form."""
        app.middlewares.append(_json_errors)
        if self._token is not None:
            refused = self._metrics.requests.labels("unknown", "refused", "http")
            app.middlewares.append(bearer_token(self._token, refused.inc))
        app.router.add_get("/v2", self.server)
        app.router.add_get("/v2/health/live", self.live)
        app.router.add_get("/v2/health/ready", self.ready)
        app.router.add_get("/v2/models/{model}", self.metadata)
        app.router.add_get("/v2/models/{model}/ready", self.ready)
        app.router.add_post("/v2/models/{model}/infer", self.infer)
        app.router.add_post("/v1/models/{model}:predict", self.predict)
        app.router.add_post("/v1/models/{model}/:predict", self.predict)  # as the article writes it

    async def server(self, _request: web.Request) -> web.Response:
        """V2 server metadata."""
        return _json({"name": "modelwatch", "version": "2", "extensions": []})

    async def live(self, _request: web.Request) -> web.Response:
        """V2 liveness."""
        return _json({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        """V2 readiness of the server, or of one model."""
        model = request.match_info.get("model")
        if model is not None and model not in self._specs:
            return self._unknown(model)
        ready = self._health.readiness()[0]
        return _json({"ready": ready}, 200 if ready else 503)

    async def metadata(self, request: web.Request) -> web.Response:
        """V2 model metadata."""
        spec = self._specs.get(request.match_info["model"])
        if spec is None:
            return self._unknown(request.match_info["model"])
        shape = [-1, *spec.input.shape]
        return _json(
            {
                "name": spec.name,
                "versions": [spec.version],
                "platform": f"tensorflow_{spec.weights.framework}",
                "inputs": [{"name": "image", "datatype": "UINT8", "shape": shape}],
                "outputs": _v2_metadata(spec),
            }
        )

    async def infer(self, request: web.Request) -> web.Response:
        """V2 inference."""
        return await self._answer(request, self._v2_body)

    async def predict(self, request: web.Request) -> web.Response:
        """V1 prediction: `{"predictions": [[probability, …], …]}`, or `[[value], …]` of a regression model."""
        return await self._answer(request, lambda asked: {"predictions": asked.outputs.tolist()})

    async def _answer(self, request: web.Request, body_of: Callable[[Asked], Any]) -> web.Response:
        model = request.match_info["model"]
        outcome, count = "error", 1
        try:
            asked = await self._ask(request, model)
            outcome, count = "ok", len(asked.request.request_ids)
            if asked.expired:
                outcome = "expired"
                return _error("the deadline passed before the model was asked; nothing was computed", 504)
            return _json(body_of(asked))
        except Refusal as refusal:
            outcome = "refused"
            return _error(f"{refusal.reason.value}: {refusal.detail}", STATUS.get(refusal.reason, 400))
        except web.HTTPRequestEntityTooLarge:
            outcome = "refused"
            return _error(f"oversize: a request may have at most {MAX_REQUEST_BYTES} bytes", 413)
        except (Overloaded, TransientError) as error:
            outcome = "refused" if isinstance(error, Overloaded) else "error"
            return _error(str(error), 503, {"Retry-After": "1"})
        finally:
            self._metrics.requests.labels(model if model in self._specs else "unknown", outcome, "http").inc(count)

    async def _ask(self, request: web.Request, model: str) -> Asked:
        """Decode, compute, and record the pairs before anybody sees the answer."""
        received_at = time.time()
        body = await request.read()
        loop = asyncio.get_running_loop()
        decoded, recorded = await loop.run_in_executor(self._pool, self._decode, request, body, received_at, model)
        model = decoded.model
        parts = list(split_parts(model, [decoded], self._specs[model].max_batch, interactive=True))
        answers = await asyncio.gather(*(asyncio.wrap_future(self._batcher.submit(part.job)) for part in parts))
        if recorded:
            answered_at = time.time()
            for part, answer in zip(parts, answers, strict=True):
                values = encode_part(self._writers[model], part, answer, received_at, answered_at)
                await self._recorder.record(part, values, rfc3339(answered_at))
        latency = time.time() - received_at
        observe_many(self._metrics.request_latency.labels(model, "http"), [latency] * len(decoded.request_ids))
        observe_many(self._metrics.queue.labels(model), [answer.started_at - received_at for answer in answers])
        return Asked(decoded, answers)

    def _decode(self, request: web.Request, body: bytes, received_at: float, model: str) -> tuple[DecodedRequest, bool]:
        """The request, and whether its pairs are published."""
        headers = _kafka_headers(request, model)
        return decode_request(body, None, headers, received_at, self._specs, model), _wants_record(request, body)

    def _v2_body(self, asked: Asked) -> dict[str, Any]:
        ids, spec = asked.request.request_ids, self._specs[asked.request.model]
        return {
            "model_name": spec.name,
            "model_version": spec.version,
            "id": ids[0] if len(ids) == 1 else ids[0].removesuffix("-0"),
            "outputs": _v2_outputs(spec, asked.outputs),
        }

    def _unknown(self, model: str) -> web.Response:
        return _error(f"unknown model {model!r}; known: {', '.join(sorted(self._specs))}", 404)


def _v2_metadata(spec: ModelSpec) -> list[dict[str, Any]]:
    """The tensors of a model's answers; -1 stands for the number of images."""
    name = "probabilities" if spec.classes else "value"
    numbers: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": [-1, len(spec.labels)]}
    if not spec.classes:
        return [numbers]
    return [
        numbers,
        {"name": "predicted", "datatype": "INT64", "shape": [-1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


def _v2_outputs(spec: ModelSpec, outputs: Outputs) -> list[dict[str, Any]]:
    """The tensors of `_v2_metadata`, filled."""
    data: list[list[Any]] = [outputs.ravel().tolist()]
    if spec.classes:
        predicted = outputs.argmax(axis=1).tolist()
        data += [predicted, [spec.classes[index] for index in predicted]]
    return [
        {**tensor, "shape": [len(outputs), *tensor["shape"][1:]], "data": own}
        for tensor, own in zip(_v2_metadata(spec), data, strict=True)
    ]


def _kafka_headers(request: web.Request, model: str) -> list[tuple[str, bytes | None]]:
    """The headers that mean the same on Kafka, and the model of the path."""
    headers: list[tuple[str, bytes | None]] = [(MODEL, _sent_bytes(model))]
    for spelled, value in request.headers.items():
        name = spelled.lower()
        if name in FORWARDED or name.startswith(ATTRIBUTE_PREFIX):
            headers.append((FORWARDED.get(name, name), _sent_bytes(value)))
    if CONTENT_TYPE not in request.headers:
        headers.append((CONTENT_TYPE, JSON))
    return headers


def _sent_bytes(text: str) -> bytes:
    """What the caller sent: aiohttp puts surrogates for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape")


def _wants_record(request: web.Request, body: bytes) -> bool:
    """Whether the pairs are published: yes, unless the caller says no (explanations ask about images nobody sent)."""
    if request.headers.get(RECORD_HEADER, "").lower() == "false":
        return False
    is_json = CONTENT_TYPE not in request.headers or request.content_type == "application/json"
    if not is_json or b'"record"' not in body:
        return True
    parameters = orjson.loads(body).get("parameters")
    return not (isinstance(parameters, dict) and parameters.get("record") is False)


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What no route answers itself: an address or method that does not exist, and failures of ours."""
    try:
        return await handler(request)
    except web.HTTPError as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _error(f"{request.method} {request.path!r}: {error.reason}", error.status, allowed)
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return _error("the request failed inside the worker; the worker's log says why", 500)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def _error(text: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"error": text}, status, headers)
