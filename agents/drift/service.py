"""The drift agent: both of its stages in one process, wired to Faust."""

import time

from prometheus_client import CollectorRegistry

from agents.drift.detectors import load_detectors
from agents.drift.feature_stage import FeatureStage
from agents.drift.features import Detectors
from agents.drift.settings import DriftSettings
from agents.drift.states import StateReader
from agents.drift.window_stage import WindowStage
from runtime.agent import AgentProcess, Context
from runtime.metrics import DriftMetrics
from runtime.model_folder import load_model_folders
from schemas.topics import DEAD_LETTERS, DRIFT, DRIFT_STATE, FEATURES, PAIRS

NAME = "drift"


class DriftAgent:
    """The agent as its process knows it."""

    topics = (PAIRS, FEATURES, DRIFT_STATE, DRIFT, DEAD_LETTERS)

    def __init__(self, features: FeatureStage, windows: WindowStage, tick_seconds: float) -> None:
        self._features = features
        self._windows = windows
        self._tick_seconds = tick_seconds

    def wire(self, context: Context) -> None:
        """Subscribe to pairs and to features, and look at the clock now and then."""
        self._features.connect(context.results, context.letters)
        self._windows.connect(context.results, context.letters, context.sink())
        context.subscribe(PAIRS, self._features)
        windows = context.subscribe(FEATURES, self._windows, depth=1)

        async def watch() -> None:
            app = context.app
            if not app.rebalancing:
                ours = [tp.partition for tp in app.consumer.assignment() if tp.topic == FEATURES.name]
                watched = windows.in_thread(self._windows.watch, app.consumer_generation_id, ours, time.time())
                await context.results.publish(await watched)

        context.every(self._tick_seconds, watch)


def run(settings: DriftSettings) -> None:
    """Run the agent until SIGTERM."""
    metrics = DriftMetrics(CollectorRegistry())
    folders = load_model_folders(settings.models)

    def build() -> DriftAgent:
        detectors: Detectors = {name: load_detectors(folder) for name, folder in folders.items() if folder.spec.drift}
        for name, own in detectors.items():
            metrics.begin_at_zero(name, own)
            for detector in own.values():
                detector.warm_up()
        specs = {name: folder.spec for name, folder in folders.items()}
        watched = {name: specs[name] for name in detectors}
        reader, max_ahead = StateReader(settings, metrics), settings.max_ahead_seconds
        return DriftAgent(
            FeatureStage(specs, detectors, metrics, max_ahead, reader.pairs_id),
            WindowStage(watched, detectors, metrics, reader.read, settings.instance, max_ahead),
            settings.tick_seconds,
        )

    AgentProcess(NAME, settings, settings.drift_group, metrics, build).run()
