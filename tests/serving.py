"""The worker's HTTP side without a worker: a real server on a socket, the real batcher, and a model of one line."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from inference.batcher import Batcher
from inference.budget import Budget
from inference.http.routes import InferenceRoutes
from runtime.health import Health, HttpServer
from runtime.metrics import WorkerMetrics
from runtime.model_folder import ModelFolder
from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.topics import MAX_REQUEST_BYTES

SHAPE = (4, 5, 3)
PETS = ModelSpec.model_validate(
    {
        "name": "pets",
        "version": "7",
        "input": {"shape": SHAPE},
        "labels": ["dark", "bright"],
        "weights": {"framework": "null"},
        "batch_sizes": (1, 4),
    }
)
PEOPLE = ModelSpec.model_validate(
    PETS.model_dump() | {"name": "people", "task": "regression", "labels": ("people",), "version": "1"}
)
ROWS = ModelSpec.model_validate(
    PETS.model_dump() | {"name": "rows", "version": "1", "input": {"kind": "tabular", "shape": (4,), "scale": 1.0}}
)
SPECS = {spec.name: spec for spec in (PETS, PEOPLE, ROWS)}


class Mean:
    """Answers the brightness of a picture, in 0..1; NaN of a black one. `gate` holds it up, as if it were stuck."""

    device = "none"

    def __init__(self, spec: ModelSpec) -> None:
        self._classes = len(spec.labels)
        self.gate, self.entered, self.batches = threading.Event(), threading.Event(), 0
        self.gate.set()

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, parts: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """`[1 - brightness, brightness]`, or `[brightness]`."""
        self.batches += 1
        self.entered.set()
        self.gate.wait()
        images = np.concatenate(parts)
        scale = 255 if images.dtype == np.uint8 else 1
        bright = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64) / scale
        bright[bright == 0] = np.nan  # as a model that divides by what it finds
        columns = [1 - bright, bright] if self._classes == 2 else [bright]
        return np.stack(columns, axis=1).astype(np.float32)


class Kept:
    """In the recorder's place, as no broker is here."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []

    async def record(self, part: Any, values: Sequence[bytes], _time: str) -> None:
        """Keep the ids."""
        if len(values) != len(part.request_ids):
            raise ValueError(f"{len(values)} pairs of {len(part.request_ids)} images")
        self.request_ids += part.request_ids


class Served:
    """What a test needs of the running server."""

    def __init__(self, budget_bytes: int = 256 << 20, **options: Any) -> None:
        self.models = {name: Mean(spec) for name, spec in SPECS.items()}
        self.recorder, self.health = Kept(), Health("models")
        self.metrics = WorkerMetrics(CollectorRegistry())
        sizes = {name: spec.max_batch for name, spec in SPECS.items()}
        self.batcher = Batcher(self.models, sizes, lambda *_: None, 512)
        self.budget = Budget(budget_bytes)
        self._pool = ThreadPoolExecutor(2)
        writers = {
            name: PairWriter(name, "1", "0" * 64, spec.labels, "none", spec.task) for name, spec in SPECS.items()
        }
        self.routes = InferenceRoutes(
            {name: ModelFolder(Path(), spec, "0" * 64) for name, spec in SPECS.items()},
            self.batcher,
            writers,
            self.recorder,  # type: ignore[arg-type]
            self.metrics,
            self.health,
            self._pool,
            self.budget,
            **options,
        )
        self.server = HttpServer(
            "127.0.0.1", 0, self.metrics.registry, self.routes.add_to, MAX_REQUEST_BYTES, self.health
        )
        self.batcher.start()
        self.port = self.server.start()
        self.address = f"127.0.0.1:{self.port}"
        self.health.ready("models", True)

    def count(self, model: str, outcome: str) -> float:
        """Images asked about by HTTP that ended so."""
        labels = {"model": model, "outcome": outcome, "transport": "http"}
        return self.metrics.registry.get_sample_value("modelwatch_requests_total", labels) or 0.0

    def stop(self) -> None:
        """End it, whatever is stuck."""
        for model in self.models.values():
            model.gate.set()
        self.server.stop()
        self.batcher.stop()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def serving(**options: Any) -> Iterator[Served]:
    """A running server; options as `Served` takes them."""
    served = Served(**options)
    try:
        yield served
    finally:
        served.stop()
