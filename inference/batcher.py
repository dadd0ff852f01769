"""Batches across callers: Kafka's chunks and single HTTP requests share each computation, and neither starves."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.predictor import Images, Outputs, Predictor


@dataclass(slots=True, frozen=True)
class Answer:
    """What came of a job.

    Attributes:
        outputs: (n, labels) float32; rows of expired images are zero.
        expired: (n,) bool, or None if no image of the job had a deadline that passed.
        batch_size: images computed together, of all jobs in the batch.
        started_at: when the computation began, seconds since the epoch.
        compute_seconds: how long it took.
    """

    outputs: Outputs
    expired: NDArray[np.bool_] | None
    batch_size: int
    started_at: float
    compute_seconds: float


@dataclass(slots=True, eq=False)
class Job:
    """Images of one caller for one model. Two jobs are never equal: a line finds one by identity.

    Attributes:
        images: (n, *shape); n at most the model's largest batch.
        deadlines: (n,) seconds since the epoch, infinite where there is none; None if no image has one.
        interactive: somebody waits on a connection; goes before bulk work.
    """

    model: str
    images: Images
    deadlines: NDArray[np.float64] | None = None
    interactive: bool = False
    future: "Future[Answer]" = field(default_factory=Future)

    @property
    def kind(self) -> tuple[str, np.dtype[Any]]:
        """Jobs of one kind can be computed together."""
        return self.model, self.images.dtype


STOP_SECONDS = 2.0
"""What a computation in hand may take when the worker ends; one that is stuck ends with the process."""


class Overloaded(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """Too many images of interactive callers are waiting."""


class Batcher:
    """Threads that compute; jobs wait in two lines, interactive and bulk, that take turns when both are full.

    With two batches under way, one fills the cores where the other waits: for its last thread at the end of each
    operation, while decoding and publishing take a core now and then; or, on a GPU, for its images to be copied.

    Args:
        predictors: by model name.
        max_batch: largest batch by model name.
        observe: called after each batch with the model, the number of images and the seconds it took.
        max_interactive: images that may wait in the interactive line. The bulk line is bounded by who fills it.
        streams: batches that are computed at the same time.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        max_batch: Mapping[str, int],
        observe: Callable[[str, int, float], None],
        max_interactive: int,
        streams: int = 1,
    ) -> None:
        self._predictors = predictors
        self._max_batch = max_batch
        self._observe = observe
        self._max_interactive = max_interactive
        self._interactive: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._interactive_images = 0
        self._bulk_turn = False
        self._changed = threading.Condition()
        self._stopping = False
        self._began: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"compute-{number}", daemon=True)
            for number in range(streams)
        ]

    @property
    def longest_computing(self) -> float:
        """Seconds for which the oldest of the batches in hand has been computed; 0 if there is none."""
        now = time.monotonic()
        return max((now - began for began in [*self._began.values()]), default=0.0)

    def start(self) -> None:
        """Start computing."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the batches in hand, if they end soon; jobs still waiting are cancelled."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        until = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for job in (*self._interactive, *self._bulk):
            if job.future.cancel():
                job.future.set_running_or_notify_cancel()  # wakes who waits for several futures at once

    def submit(self, job: Job) -> "Future[Answer]":
        """Put a job in its line.

        Raises:
            Overloaded: it is interactive and its line is full.
        """
        with self._changed:
            if job.interactive:
                if self._interactive_images + len(job.images) > self._max_interactive:
                    raise Overloaded(
                        f"{self._interactive_images} images are waiting; at most {self._max_interactive} may"
                    )
                self._interactive_images += len(job.images)
                self._interactive.append(job)
            else:
                self._bulk.append(job)
            self._changed.notify()
        return job.future

    def _run(self, number: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._interactive or self._bulk)
                if self._stopping:
                    return
                jobs = self._take()
            self._began[number] = time.monotonic()
            self._compute([job for job in jobs if job.future.set_running_or_notify_cancel()])
            del self._began[number]

    def _take(self) -> list[Job]:
        """The oldest job of the line whose turn it is, and every waiting job that fits into its batch."""
        bulk_first = bool(self._bulk) and (self._bulk_turn or not self._interactive)
        lines = (self._bulk, self._interactive) if bulk_first else (self._interactive, self._bulk)
        first = lines[0].popleft()
        jobs, room = [first], self._max_batch[first.model] - len(first.images)
        for line in lines:
            for job in [job for job in line if job.kind == first.kind]:
                if len(job.images) <= room:
                    line.remove(job)
                    jobs.append(job)
                    room -= len(job.images)
        self._bulk_turn = all(job.interactive for job in jobs)
        self._interactive_images -= sum(len(job.images) for job in jobs if job.interactive)
        return jobs

    def _compute(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            answers = self._answers(jobs)
        except Exception as error:  # any failure of the framework belongs to the callers of this batch
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)

    def _answers(self, jobs: list[Job]) -> list[Answer]:
        started_at = time.time()
        live = [_live_rows(job, started_at) for job in jobs]
        parts = [job.images if rows is None else job.images[rows] for job, rows in zip(jobs, live, strict=True)]
        count = sum(len(part) for part in parts)
        began = time.perf_counter()
        outputs = self._predictors[jobs[0].model].predict(parts) if count else None
        seconds = time.perf_counter() - began
        if count:
            self._observe(jobs[0].model, count, seconds)
        answers, start = [], 0
        for job, rows, part in zip(jobs, live, parts, strict=True):
            own = None if outputs is None else outputs[start : start + len(part)]
            start += len(part)
            answers.append(_answer(job, rows, own, count, started_at, seconds))
        return answers


def _live_rows(job: Job, now: float) -> NDArray[np.bool_] | None:
    """Which rows are still wanted; None for all of them."""
    if job.deadlines is None:
        return None
    live: NDArray[np.bool_] = job.deadlines > now
    return None if live.all() else live


def _answer(job: Job, rows: Any, own: Any, count: int, started_at: float, seconds: float) -> Answer:
    if rows is None:
        return Answer(own, None, count, started_at, seconds)
    width = own.shape[1] if own is not None else 0
    outputs = np.zeros((len(job.images), width), dtype=np.float32)
    if own is not None:
        outputs[rows] = own
    return Answer(outputs, ~rows, count, started_at, seconds)
