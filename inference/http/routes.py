"""The addresses of Open Inference Protocol V2 and of TensorFlow Serving V1, and what each answers.

Sources: Open Inference Protocol, REST (kserve/open-inference-protocol); TensorFlow Serving, RESTful API.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from aiohttp import web
from aiohttp.typedefs import Handler

from inference.authorization import bearer_token
from inference.batcher import Batcher, Overloaded
from inference.budget import Budget
from inference.http import v1, v2
from inference.http.asking import Asked, Asker, CheckedForm, OutOfTime, Stopping, TooSlow
from inference.http.body import Busy
from inference.http.responses import COME_AGAIN, error_answer, json_answer, json_errors, refused_answer
from inference.recorder import Recorder
from runtime.errors import TransientError
from runtime.health import Health
from runtime.metrics import WorkerMetrics
from runtime.model_folder import ModelFolder
from schemas.clock import MAX_AHEAD_SECONDS
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.payloads import DecodedRequest
from schemas.payloads.body import brief
from schemas.refusal import Reason, Refusal

GRACE_SECONDS = 2.0
"""How long callers are still told, when the worker ends, that they should ask another."""
DRAIN_SECONDS = 5.0
"""How long the requests in hand may take then."""
SECONDS = 30.0

_UNANSWERED: dict[type[Exception], tuple[int, str]] = {
    Overloaded: (503, "refused"),
    Busy: (503, "refused"),
    Stopping: (503, "refused"),
    TransientError: (503, "error"),
    TooSlow: (408, "refused"),
    OutOfTime: (504, "expired"),
}
"""Status and outcome of a question that is not refused for what it says."""
_V1 = "/v1/models/{model:[^/:]+}"
_V2 = "/v2/models/{model}"


class InferenceRoutes:
    """The endpoints that ask a model.

    Args:
        pool: decodes bodies, so that a large one does not hold the event loop.
        recorder: publishes the pairs of answered requests.
        budget: bytes of bodies and images that may be in hand.
        token: what callers must bring; None: nothing.
        timeout: seconds from a request's headers to its answer.
        max_ahead: seconds after its arrival that a request may say it was sent.
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
        budget: Budget,
        token: str | None = None,
        timeout: float = SECONDS,
        max_ahead: float = MAX_AHEAD_SECONDS,
    ) -> None:
        self._specs = {name: folder.spec for name, folder in folders.items()}
        self._asker = Asker(self._specs, batcher, writers, recorder, metrics, pool, budget, timeout, max_ahead)
        self._metrics = metrics
        self._health = health
        self._token = token
        self._closed_at = 0.0

    def close(self) -> None:
        """Take no new questions: who asks is told to ask another worker. Any thread may call it."""
        self._closed_at = time.monotonic()
        self._asker.closing = True

    async def drain(self) -> None:
        """In the server's loop, after `close`: until all in hand is answered and callers have had time to notice."""
        since = time.monotonic() - self._closed_at
        await self._asker.drain(max(0.0, DRAIN_SECONDS - since))
        if self._asker.recently_asked:
            await asyncio.sleep(max(0.0, self._closed_at + GRACE_SECONDS - time.monotonic()))

    def add_to(self, app: web.Application) -> None:
        """Add the routes, and have every error answered in their form."""
        app.middlewares.extend([self._close_connections, json_errors])
        if self._token is not None:
            refused = self._metrics.requests.labels("unknown", "refused", "http")
            app.middlewares.append(bearer_token(self._token, refused.inc))
        self._add_v2(app.router)
        self._add_v1(app.router)

    def _add_v2(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v2", self._server)
        router.add_get("/v2/health/live", self._live)
        router.add_get("/v2/health/ready", self._ready)
        router.add_post("/v2/repository/index", self._index)
        router.add_post("/v2/repository/models/{model}/{action:load|unload}", self._not_loaded)
        for model in (_V2, f"{_V2}/versions/{{version}}"):
            router.add_get(model, self._v2_metadata)
            router.add_get(f"{model}/ready", self._ready)
            router.add_get(f"{model}/config", self._config)
            router.add_post(f"{model}/infer", self._infer)

    def _add_v1(self, router: web.UrlDispatcher) -> None:
        for model in (_V1, f"{_V1}/versions/{{version:[^/:]+}}"):
            router.add_get(model, self._status)
            router.add_get(f"{model}/metadata", self._v1_metadata)
            router.add_post(f"{model}:predict", self._predict)
            router.add_post(f"{model}/:predict", self._predict)  # as the article writes it
            router.add_post(f"{model}:{{method:classify|regress}}", self._only_predict)
        router.add_route("*", f"{_V1}/labels/{{label:.+}}", self._no_labels)

    async def _server(self, _request: web.Request) -> web.Response:
        return json_answer(v2.server_metadata())

    async def _live(self, _request: web.Request) -> web.Response:
        live = self._health.liveness()[0]
        return json_answer({"live": live}, 200 if live else 503)

    async def _ready(self, request: web.Request) -> web.Response:
        """Of the server, or of one model."""
        if "model" in request.match_info:
            self._spec_of(request)
        ready = self._health.is_ready()
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _index(self, _request: web.Request) -> web.Response:
        return json_answer(v2.repository_index(list(self._specs.values()), self._health.is_ready()))

    async def _not_loaded(self, request: web.Request) -> web.Response:
        action = request.match_info["action"]
        return error_answer(
            f"models are not {action}ed by request: the worker serves the folders that it found when it started", 400
        )

    async def _v2_metadata(self, request: web.Request) -> web.Response:
        return json_answer(v2.model_metadata(self._spec_of(request)))

    async def _config(self, request: web.Request) -> web.Response:
        return json_answer(v2.model_config(self._spec_of(request)))

    async def _status(self, request: web.Request) -> web.Response:
        return json_answer(v1.model_status(self._spec_of(request), self._health.is_ready()))

    async def _v1_metadata(self, request: web.Request) -> web.Response:
        return json_answer(v1.model_metadata(self._spec_of(request)))

    async def _only_predict(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        return error_answer(f":{method} is not answered here; ask :predict, which takes the same pictures", 400)

    async def _no_labels(self, request: web.Request) -> web.Response:
        label = request.match_info["label"]
        return error_answer(f"unrecognized servable version label {brief(label)}: versions have no labels here", 400)

    async def _infer(self, request: web.Request) -> web.Response:
        """V2 inference."""

        def check(decoded: DecodedRequest) -> None:
            v2.wanted_outputs(decoded.options, self._specs[decoded.model])

        def respond(asked: Asked) -> web.Response:
            spec = self._specs[asked.request.model]
            wanted = v2.wanted_outputs(asked.request.options, spec)
            answer = v2.encode_answer(spec, asked.answer_id, asked.outputs, wanted)
            return web.Response(body=answer.body, content_type=answer.content_type, headers=answer.headers)

        return await self._answer(request, check, respond)

    async def _predict(self, request: web.Request) -> web.Response:
        """V1 prediction: `{"predictions": [[probability, …], …]}`, or `[[value], …]` of a regression model."""

        def check(decoded: DecodedRequest) -> None:
            v1.check_signature(decoded.options, self._specs[decoded.model])

        def respond(asked: Asked) -> web.Response:
            return json_answer(v1.predictions(asked.request.options, asked.outputs))

        return await self._answer(request, check, respond)

    async def _answer(
        self, request: web.Request, check: CheckedForm, respond: Callable[[Asked], web.Response]
    ) -> web.Response:
        model = request.match_info["model"]
        outcome, count = "error", 1
        try:
            asked = await self._asker.ask(request, self._spec_of(request).name, check)
            count = len(asked.request.request_ids)
            if asked.expired:
                outcome = "expired"
                return error_answer("the deadline passed before the model was asked; nothing was computed", 504)
            response = respond(asked)
            outcome = "ok"
            return response
        except Refusal as refusal:
            outcome = "refused"
            return refused_answer(refusal)
        except tuple(_UNANSWERED) as error:
            status, outcome = next(found for kind, found in _UNANSWERED.items() if isinstance(error, kind))
            return error_answer(str(error), status, COME_AGAIN if status == 503 else None)
        finally:
            self._metrics.requests.labels(model if model in self._specs else "unknown", outcome, "http").inc(count)

    def _spec_of(self, request: web.Request) -> ModelSpec:
        """The model of the path; UNKNOWN_MODEL if it, or its version, is not served."""
        model, version = request.match_info["model"], request.match_info.get("version")
        spec = self._specs.get(model)
        if spec is None:
            known = ", ".join(sorted(self._specs))
            raise Refusal(Reason.UNKNOWN_MODEL, f"model {brief(model)} is not served here; known: {known}")
        if version not in (None, spec.version):
            raise Refusal(
                Reason.UNKNOWN_MODEL, f"version {brief(version)} of {model} is not served here; known: {spec.version}"
            )
        return spec

    @web.middleware
    async def _close_connections(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """While the worker ends, no connection is kept: the next question of its caller finds another worker."""
        response = await handler(request)
        if self._asker.closing or response.status in (408, 413):
            response.force_close()
        return response
