"""The composition root of the worker: loads the models, wires the parts together, and lives until told to stop."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from functools import partial

from prometheus_client import CollectorRegistry

from inference.batcher import Batcher
from inference.budget import Budget
from inference.http.routes import DRAIN_SECONDS, InferenceRoutes
from inference.pipeline import Pipeline
from inference.predictor import Predictor, gpu_memory_reader, load_predictor
from inference.recorder import Recorder
from inference.settings import WorkerSettings
from runtime import kafka
from runtime.errors import FatalError, ModelwatchError, TransientError
from runtime.health import Health, HttpServer
from runtime.logging import get_logger
from runtime.metrics import WorkerMetrics
from runtime.model_folder import ModelFolder, default_model, load_model_folders
from runtime.signals import end_on_stop, on_stop
from runtime.tls import server_context
from schemas.pairs import PairWriter
from schemas.payloads import decode_request
from schemas.topics import MAX_REQUEST_BYTES

log = get_logger(__name__)

RESTART_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Pauses between pipelines that fail one after another; the last repeats."""
BEAT_SECONDS = 60.0
CHECK_SECONDS = 2.0
JOIN_SECONDS = 1.0
DECODERS = 2
RECORD_MS = 5_000
"""An HTTP caller whose pair is not safe by then is told to ask again."""


class Worker:
    """One inference worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._metrics = WorkerMetrics(CollectorRegistry())
        self._health = Health("models", "kafka")
        self._folders = load_model_folders(settings.models)
        self._default_model = default_model(settings.default_model, self._folders)
        for folder in self._folders.values():
            folder.verify()
        self._batch_sizes = {name: folder.spec.max_batch for name, folder in self._folders.items()}

    def stop(self) -> None:
        """Ask the worker to finish what is in hand and end."""
        self._stopping.set()

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            FatalError: the process must end; it is safe to start it again unless it is a `ConfigurationError`.
        """
        end_on_stop()
        tls = server_context(self._settings)
        predictors = self._load_models()
        on_stop(self.stop)
        self._check_credentials()
        batcher = Batcher(
            predictors,
            self._batch_sizes,
            self._observe,
            self._settings.http_max_pending,
            self._settings.compute_streams,
        )
        batcher.start()
        default = self._default_model
        writers = {name: _writer(folder, predictors[name], name == default) for name, folder in self._folders.items()}
        recorder = Recorder(lambda: kafka.producer(self._settings, None, **{"message.timeout.ms": RECORD_MS}))
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        token = self._settings.http_token
        routes = InferenceRoutes(
            self._folders,
            batcher,
            writers,
            recorder,
            self._metrics,
            self._health,
            pool,
            Budget(self._settings.http_max_bytes),
            token.get_secret_value() if token else None,
            self._settings.http_timeout_seconds,
            self._settings.max_ahead_seconds,
        )
        server = HttpServer(
            self._settings.host,
            self._settings.port,
            self._metrics.registry,
            routes.add_to,
            MAX_REQUEST_BYTES,
            self._health,
            tls,
        )
        answered = threading.Event()
        polling = threading.Thread(target=self._poll, args=(recorder, batcher, answered), name="recorder", daemon=True)
        polling.start()
        closing = threading.Thread(target=self._close_when_stopping, args=(routes,), name="closing", daemon=True)
        closing.start()
        server.start()
        try:
            self._run_pipelines(batcher, writers)
        finally:
            self._stopping.set()
            closing.join()
            _drain(routes, server)
            server.stop()
            answered.set()
            polling.join(JOIN_SECONDS)  # a thread inside the client while the process ends may crash it
            recorder.close()
            batcher.stop()
            pool.shutdown(cancel_futures=True)
        log.info("stopped")

    def _check_credentials(self) -> None:
        """Let one client find out whether the brokers accept us, before several try again and again.

        Raises:
            ConfigurationError: they do not.
        """
        try:
            kafka.cluster_topics(self._settings, CHECK_SECONDS)
        except TransientError as error:
            log.info("no_broker_yet", reason=str(error))  # the pipelines wait for one

    def _load_models(self) -> dict[str, Predictor]:
        predictors = {}
        for name, folder in self._folders.items():
            log.info("loading_model", model=name, version=folder.spec.version)
            predictor = load_predictor(folder, self._settings)
            predictor.warm_up()
            predictors[name] = predictor
            labels = (name, folder.spec.version, folder.weights_sha256, predictor.device)
            self._metrics.model_info.labels(*labels).set(1)
        if (gpu_memory := gpu_memory_reader()) is not None:
            self._metrics.gpu_memory.labels("GPU:0").set_function(gpu_memory)
        # The framework's million objects stay as long as the process: the collector need not walk them again and again.
        gc.collect()
        gc.freeze()
        self._health.ready("models", True)
        return predictors

    def _run_pipelines(self, batcher: Batcher, writers: dict[str, PairWriter]) -> None:
        """One pipeline after another: a new one takes over from the committed offsets of one that failed."""
        specs = {name: folder.spec for name, folder in self._folders.items()}
        decode = partial(
            decode_request,
            specs=specs,
            default_model=self._default_model,
            max_ahead=self._settings.max_ahead_seconds,
        )
        failures = 0
        while not self._stopping.is_set():
            was_ready = threading.Event()
            try:
                Pipeline(
                    self._settings,
                    batcher,
                    decode,
                    writers,
                    self._batch_sizes,
                    self._metrics,
                    partial(self._kafka_ready, was_ready),
                    partial(self._health.beat, "kafka", BEAT_SECONDS),
                ).run(self._stopping)
            except TransientError as error:
                failures = 0 if was_ready.is_set() else failures
                pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
                failures += 1
                self._metrics.pipeline_restarts.inc()
                log.warning("pipeline_restarts", cause=str(error), pause_seconds=pause)
                self._health.beat("kafka", BEAT_SECONDS)
                self._stopping.wait(pause)
            except ModelwatchError:
                raise
            except Exception as error:
                raise FatalError(f"the pipeline failed: {type(error).__name__}: {error}") from error

    def _kafka_ready(self, was_ready: threading.Event, ready: bool) -> None:
        if ready:
            was_ready.set()
        self._health.ready("kafka", ready, "" if ready else "not a member of the consumer group")

    def _observe(self, model: str, count: int, seconds: float) -> None:
        self._metrics.inference.labels(model).observe(seconds)
        self._metrics.batch_size.labels(model).observe(count)

    def _close_when_stopping(self, routes: InferenceRoutes) -> None:
        """Before anything else ends: nobody sends new requests to a worker that is not ready."""
        self._stopping.wait()
        self._health.ready("serving", False, "the worker is about to end")
        routes.close()

    def _poll(self, recorder: Recorder, batcher: Batcher, answered: threading.Event) -> None:
        """Until the last HTTP caller is answered: an answer waits for its pair's acknowledgement."""
        while not answered.is_set():
            recorder.poll(0.2)
            report_progress(self._health, batcher, self._settings.compute_stuck_seconds)


def report_progress(health: Health, batcher: Batcher, limit: float) -> None:
    """Say whether batches are computed within `limit` seconds; one that is not, for as long again, ends liveness."""
    seconds = batcher.longest_computing
    if seconds < limit:
        health.ready("compute", True)
        health.beat("compute", limit)
    else:
        health.ready("compute", False, f"a batch has been computed for {seconds:.0f} s")


def _drain(routes: InferenceRoutes, server: HttpServer) -> None:
    """Let the server answer what is in hand, in its own loop."""
    draining = asyncio.run_coroutine_threadsafe(routes.drain(), server.loop)
    try:
        draining.result(DRAIN_SECONDS + JOIN_SECONDS)
    except TimeoutError:
        log.warning("http_callers_unanswered", remedy="none from here: the server's loop is held up")


def _writer(folder: ModelFolder, predictor: Predictor, primary: bool) -> PairWriter:
    spec = folder.spec
    return PairWriter(spec.name, spec.version, folder.weights_sha256, spec.labels, predictor.device, spec.task, primary)
