"""The explanations agent: both of its stages in one process, wired to Faust and to the worker."""

import asyncio
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from agents.explanations.anchors import AnchorExplainer, Search
from agents.explanations.explain_stage import ExplainStage, Predictor
from agents.explanations.explainer import Explainer, Pixels, Predict, Probabilities
from agents.explanations.lookup import PairLookup
from agents.explanations.model_client import ModelClient, OnVersion
from agents.explanations.occlusion import OcclusionExplainer
from agents.explanations.policies import Policies
from agents.explanations.private_model import load_private_model
from agents.explanations.recent_pairs import RecentPairs
from agents.explanations.settings import ExplanationsSettings
from agents.explanations.watch_stage import WatchStage
from agents.network import load_arrays
from runtime.agent import AgentProcess, Context
from runtime.errors import ConfigurationError
from runtime.metrics import ExplanationsMetrics
from runtime.model_folder import ModelFolder, load_model_folders
from runtime.tls import client_context
from schemas.explanation_options import read_options
from schemas.refusal import Refusal
from schemas.topics import DEAD_LETTERS, EXPLANATION_REQUESTS, EXPLANATIONS, FEEDBACK, OUTLIERS, PAIRS

NAME = "explanations"
BACKGROUNDS_ARRAY = "images"


class ExplanationsAgent:
    """The agent as its process knows it.

    Args:
        private: models to ask instead of the worker's, by name; empty: the worker's are asked.
        versions: of the private ones.
    """

    topics = (PAIRS, FEEDBACK, OUTLIERS, EXPLANATION_REQUESTS, EXPLANATIONS, DEAD_LETTERS)

    def __init__(
        self,
        settings: ExplanationsSettings,
        explain: ExplainStage,
        watch: WatchStage,
        recent: RecentPairs,
        private: Mapping[str, Predict],
        versions: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._explain = explain
        self._watch = watch
        self._recent = recent
        self._private = private
        self._versions = versions

    def wire(self, context: Context) -> None:
        """Subscribe to what is watched as one stream, and to questions as another."""
        lookup = PairLookup(self._recent, context.store, self._settings.max_ahead_seconds)
        self._watch.connect(context.results, lookup)
        self._explain.connect(context.results, context.letters, context.sink(), lookup, self._predictor())
        context.subscribe((PAIRS, FEEDBACK, OUTLIERS), self._watch)
        # A batch is acknowledged when its slowest question is answered: so they are small, and others go on meanwhile.
        # What does not fit in hand waits on its topic.
        at_once, most = self._settings.explanations_at_once, self._settings.explanations_in_hand
        bounds = {"size": min(at_once, most), "messages": most}
        questions = context.subscribe(EXPLANATION_REQUESTS, self._explain, 2 * most, **bounds)
        self._explain.stop_when(lambda: questions.stopping)

    def _predictor(self) -> Predictor:
        if self._private:
            return self._own_copy
        return through(model_client(self._settings), asyncio.get_running_loop())

    def _own_copy(self, model: str, _deadline: float, on_version: OnVersion) -> Predict:
        on_version(self._versions[model])
        return self._private[model]


def model_client(settings: ExplanationsSettings) -> ModelClient:
    """The client of the workers that the settings name."""
    tls = client_context(settings.worker_ca_certs, "MODELWATCH_WORKER_CA_CERTS")
    token = settings.worker_token.get_secret_value() if settings.worker_token else None
    return ModelClient(settings.worker_url.split(","), settings.worker_timeout_seconds, token, tls)


def through(client: ModelClient, loop: asyncio.AbstractEventLoop) -> Predictor:
    """Ask through a client that lives in an event loop, from threads of explanations."""

    def of(model: str, deadline: float, on_version: OnVersion) -> Predict:
        def predict(images: Pixels) -> Probabilities:
            asking = client.predict(model, images, deadline, on_version)
            return asyncio.run_coroutine_threadsafe(asking, loop).result()

        return predict

    return of


def explainers_of(folder: ModelFolder) -> dict[str, Explainer]:
    """The methods for a model, by name.

    Raises:
        ConfigurationError: its `explanations` section names options or a file that cannot be used.
    """
    spec = folder.spec.explanations
    for method, options in [*spec.options.items(), (spec.method, {})]:
        try:
            read_options(method, options)
        except Refusal as refusal:
            raise ConfigurationError(f"{folder.path / 'model.yaml'}, section explanations: {refusal.detail}") from None
    others = None
    if spec.backgrounds is not None:
        folder.verify([spec.backgrounds])
        arrays = load_arrays(folder.file(spec.backgrounds))
        others = arrays.get(BACKGROUNDS_ARRAY)
        if others is None or others.shape[1:] != folder.spec.input.shape:
            raise ConfigurationError(
                f"{folder.file(spec.backgrounds)} must hold an array `{BACKGROUNDS_ARRAY}` (n, "
                f"{', '.join(map(str, folder.spec.input.shape))}); found {None if others is None else others.shape}"
            )
    return {"anchors": AnchorExplainer(others), "occlusion": OcclusionExplainer()}


def run(settings: ExplanationsSettings) -> None:
    """Run the agent until SIGTERM."""
    metrics = ExplanationsMetrics(CollectorRegistry())
    folders = load_model_folders(settings.models)
    specs = {name: folder.spec for name, folder in folders.items()}

    def build() -> ExplanationsAgent:
        explainers = {name: explainers_of(folder) for name, folder in folders.items()}
        for name, own in explainers.items():
            metrics.begin_at_zero(name, own)
        private: dict[str, Predict] = {}
        if settings.explanations_ask == "private":
            private = {name: load_private_model(folder) for name, folder in folders.items()}
        Search.warm_up()
        recent = RecentPairs(settings.recent_pairs, settings.recent_pairs_bytes)
        explain = ExplainStage(specs, explainers, settings, metrics)
        watch = WatchStage(specs, Policies(specs, time.monotonic), recent, metrics)
        return ExplanationsAgent(
            settings, explain, watch, recent, private, {name: spec.version for name, spec in specs.items()}
        )

    AgentProcess(NAME, settings, settings.explanations_group, metrics, build).run()
