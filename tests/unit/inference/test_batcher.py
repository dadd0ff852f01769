"""Laws of the batcher, with a predictor whose answers tell which rows it was given."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batcher import Answer, Batcher, Job, Overloaded
from inference.predictor import Images, Outputs
from inference.worker import report_progress
from runtime.health import Health

SECONDS = 120.0
MAX_BATCH = 8


class RowSums:
    """Answers each row with its sum and its first number; notes what it was given, and waits while told to."""

    device = "test"

    def __init__(self) -> None:
        self.batches: list[list[Images]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.entered = threading.Semaphore(0)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, parts: Sequence[Images]) -> Outputs:
        self.batches.append(list(parts))
        self.entered.release()
        assert self.may_go_on.wait(SECONDS)
        rows = np.concatenate(parts).astype(np.float32)
        if (rows < 0).any():
            raise ArithmeticError("a number is below 0")
        return np.stack([rows.sum(axis=1), rows[:, 0]], axis=1)

    @property
    def firsts(self) -> list[list[float]]:
        """The first number of each row, by batch."""
        return [[float(row[0]) for part in parts for row in part] for parts in self.batches]


class Bench:
    """A running batcher over the models `a` and `b`."""

    def __init__(self, max_interactive: int = 1000, streams: int = 1) -> None:
        self.predictors = {"a": RowSums(), "b": RowSums()}
        self.observed: list[tuple[str, int, float]] = []
        sizes = dict.fromkeys(self.predictors, MAX_BATCH)
        self.batcher = Batcher(
            self.predictors, sizes, lambda *seen: self.observed.append(seen), max_interactive, streams
        )
        self.batcher.start()

    def submit(self, first: float, count: int = 1, **job: Any) -> "Future[Answer]":
        return self.batcher.submit(Job(job.pop("model", "a"), rows_of(first, count), **job))

    def hold(self) -> "Future[Answer]":
        """Keep the thread busy with one bulk job of model `a`; what is submitted from now on waits."""
        self.predictors["a"].may_go_on.clear()
        plug = self.submit(0)
        assert self.predictors["a"].entered.acquire(timeout=SECONDS)
        return plug

    def release(self) -> None:
        self.predictors["a"].may_go_on.set()

    def stop_while_held(self) -> None:
        """Stop, which must last until what is being computed is released."""
        stopper = threading.Thread(target=self.batcher.stop)
        stopper.start()
        time.sleep(0.05)
        assert stopper.is_alive(), "stop returned while a batch was being computed"
        self.release()
        stopper.join(SECONDS)
        assert not stopper.is_alive()


def rows_of(first: float, count: int = 1, dtype: str = "float32") -> Images:
    """`count` rows, the first number of each `first`, all rows different."""
    return np.array([[first, row, 0.5 if dtype == "float32" else 1] for row in range(count)], dtype=dtype)


def sums_of(images: Images) -> Outputs:
    rows = images.astype(np.float32)
    return np.stack([rows.sum(axis=1), rows[:, 0]], axis=1)


@pytest.fixture
def bench() -> Iterator[Bench]:
    running = Bench()
    yield running
    running.release()
    running.batcher.stop()


def test_waiting_jobs_of_several_callers_share_a_batch_and_each_gets_its_own_rows(bench: Bench) -> None:
    bench.hold()
    jobs = [Job("a", rows_of(first, count)) for first, count in ((1, 3), (2, 1), (3, 4))]
    futures = [bench.batcher.submit(job) for job in jobs]
    bench.release()
    for job, future in zip(jobs, futures, strict=True):
        answer = future.result(SECONDS)
        assert np.array_equal(answer.outputs, sums_of(job.images))
        assert answer.expired is None
        assert answer.batch_size == 8
    assert bench.predictors["a"].firsts[1:] == [[1, 1, 1, 2, 3, 3, 3, 3]]
    assert [(model, count) for model, count, _ in bench.observed] == [("a", 1), ("a", 8)]


def test_interactive_work_and_bulk_work_take_turns_and_interactive_goes_first(bench: Bench) -> None:
    bench.hold()
    futures = [bench.submit(100 + number, MAX_BATCH) for number in range(5)]
    futures += [bench.submit(200 + number, MAX_BATCH, interactive=True) for number in range(5)]
    bench.release()
    wait(futures, SECONDS)
    order = [batch[0] for batch in bench.predictors["a"].firsts[1:]]
    assert order == [200, 100, 201, 101, 202, 102, 203, 103, 204, 104]


@pytest.mark.parametrize("flood_is_interactive", [True, False])
def test_one_line_does_not_starve_the_other_however_fast_it_is_filled(bench: Bench, flood_is_interactive: bool) -> None:
    bench.hold()
    submitted = 0

    def refill(_: Any = None) -> None:
        nonlocal submitted
        if submitted < 50:
            submitted += 1
            bench.submit(1, MAX_BATCH, interactive=flood_is_interactive).add_done_callback(refill)

    for _ in range(3):
        refill()
    patient = bench.submit(2, MAX_BATCH, interactive=not flood_is_interactive)
    bench.release()
    patient.result(SECONDS)
    assert [2] * MAX_BATCH in bench.predictors["a"].firsts[:3]


def test_an_interactive_job_rides_along_with_bulk_work_of_its_kind(bench: Bench) -> None:
    bench.hold()
    bulk, interactive = bench.submit(1, 6), bench.submit(2, 2, interactive=True)
    bench.release()
    assert (bulk.result(SECONDS).batch_size, interactive.result(SECONDS).batch_size) == (8, 8)
    assert bench.predictors["a"].firsts[1:] == [[2, 2, 1, 1, 1, 1, 1, 1]]


def test_a_job_that_does_not_fit_waits_and_smaller_ones_behind_it_fill_the_batch(bench: Bench) -> None:
    bench.hold()
    futures = [bench.submit(number, count) for number, count in ((1, 5), (2, 4), (3, 3))]
    bench.release()
    wait(futures, SECONDS)
    assert bench.predictors["a"].firsts[1:] == [[1] * 5 + [3] * 3, [2] * 4]


def test_kinds_are_not_mixed(bench: Bench) -> None:
    bench.hold()
    futures = [bench.submit(1), bench.submit(2, model="b"), bench.submit(3)]
    futures.append(bench.batcher.submit(Job("a", rows_of(4, 1, "uint8"))))
    bench.release()
    wait(futures, SECONDS)
    assert bench.predictors["a"].firsts[1:] == [[1, 3], [4]]
    assert bench.predictors["b"].firsts == [[2]]
    assert [batch[0].dtype for batch in bench.predictors["a"].batches[1:]] == [np.float32, np.uint8]


def test_too_many_waiting_interactive_images_are_refused_until_there_is_room_again() -> None:
    bench = Bench(max_interactive=5)
    bench.hold()
    first = bench.submit(1, 3, interactive=True)
    with pytest.raises(Overloaded, match="3 images are waiting; at most 5"):
        bench.submit(2, 3, interactive=True)
    second = bench.submit(3, 2, interactive=True)
    with pytest.raises(Overloaded):
        bench.submit(4, 1, interactive=True)
    bulk = [bench.submit(5, MAX_BATCH) for _ in range(10)]  # bulk work is bounded by who submits it
    bench.release()
    wait([first, second, *bulk], SECONDS)
    bench.hold()
    assert bench.submit(6, 5, interactive=True) is not None
    bench.release()
    bench.batcher.stop()


def test_refused_and_failed_jobs_leave_no_count_behind() -> None:
    bench = Bench(max_interactive=4)
    for _ in range(20):
        with pytest.raises(ArithmeticError):
            bench.submit(-1, 4, interactive=True).result(SECONDS)
    for _ in range(20):
        with pytest.raises(Overloaded):
            bench.submit(1, 5, interactive=True)
    assert bench.submit(1, 4, interactive=True).result(SECONDS).batch_size == 4
    bench.batcher.stop()


def test_rows_whose_deadline_passed_are_not_computed_and_the_others_are_right(bench: Bench) -> None:
    now = time.time()
    images = rows_of(7, 4)
    deadlines = np.array([now - 1, now + 600, np.inf, now - 0.001])
    answer = bench.batcher.submit(Job("a", images, deadlines)).result(SECONDS)
    assert answer.expired is not None
    assert answer.expired.tolist() == [True, False, False, True]
    assert np.array_equal(answer.outputs[[1, 2]], sums_of(images[[1, 2]]))
    assert not answer.outputs[[0, 3]].any()
    assert answer.batch_size == 2
    assert bench.predictors["a"].firsts == [[7, 7]]
    assert np.array_equal(bench.predictors["a"].batches[0][0], images[[1, 2]])


def test_a_deadline_counts_when_the_computation_begins_not_when_the_job_comes(bench: Bench) -> None:
    bench.hold()
    job = Job("a", rows_of(1), np.array([time.time() + 0.05]))
    future = bench.batcher.submit(job)
    time.sleep(0.1)
    bench.release()
    assert future.result(SECONDS).expired is not None
    assert bench.predictors["a"].firsts == [[0]]


def test_a_batch_of_nothing_but_expired_rows_asks_no_model(bench: Bench) -> None:
    bench.hold()
    expired = [bench.batcher.submit(Job("a", rows_of(1, 2), np.zeros(2))) for _ in range(2)]
    bench.release()
    for future in expired:
        answer = future.result(SECONDS)
        assert answer.expired is not None
        assert answer.expired.all()
        assert (answer.batch_size, len(answer.outputs)) == (0, 2)
    assert bench.predictors["a"].firsts == [[0]]
    assert [count for _, count, _ in bench.observed] == [1]


def test_a_job_with_deadlines_that_all_hold_is_answered_as_one_without(bench: Bench) -> None:
    answer = bench.batcher.submit(Job("a", rows_of(3, 2), np.full(2, np.inf))).result(SECONDS)
    assert answer.expired is None
    assert answer.batch_size == 2


def test_a_predictors_error_reaches_every_caller_of_the_batch_and_the_next_batch_is_computed(bench: Bench) -> None:
    bench.hold()
    together = [bench.submit(1), bench.submit(-1), bench.submit(2, interactive=True)]
    bench.release()
    for future in together:
        with pytest.raises(ArithmeticError, match="below 0"):
            future.result(SECONDS)
    assert bench.submit(5).result(SECONDS).outputs[0, 1] == 5


def test_the_answers_times_are_those_of_its_batch(bench: Bench) -> None:
    before = time.time()
    bench.hold()
    future = bench.submit(1)
    time.sleep(0.05)
    released = time.time()
    bench.release()
    answer = future.result(SECONDS)
    assert before < released <= answer.started_at <= time.time()
    assert 0 < answer.compute_seconds < SECONDS


def test_a_job_that_its_caller_cancelled_is_not_computed(bench: Bench) -> None:
    bench.hold()
    given_up, other = bench.submit(1), bench.submit(2)
    assert given_up.cancel()
    bench.release()
    assert other.result(SECONDS).batch_size == 1
    assert bench.predictors["a"].firsts == [[0], [2]]


def test_stop_ends_after_the_batch_in_hand_and_cancels_what_waits() -> None:
    bench = Bench()
    in_hand = bench.hold()
    waiting = [bench.submit(1), bench.submit(2, interactive=True), bench.submit(3, model="b")]
    bench.stop_while_held()
    assert in_hand.result(0).batch_size == 1
    # As the publisher waits for them: a future only marked as cancelled would hold it up for ever.
    assert not wait(waiting, timeout=5).not_done
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(0)
    assert bench.predictors["b"].batches == []


def test_two_streams_compute_two_batches_at_the_same_time_and_stop_waits_for_both() -> None:
    bench = Bench(streams=2)
    first = bench.hold()
    second = bench.submit(1)
    assert bench.predictors["a"].entered.acquire(timeout=SECONDS), "the second batch waits for the first"
    third = bench.submit(2)
    assert not bench.predictors["a"].entered.acquire(timeout=0.05), "three batches in two streams"
    bench.stop_while_held()
    assert first.result(0).outputs[0, 1] == 0
    assert second.result(0).outputs[0, 1] == 1
    with pytest.raises(CancelledError):
        third.result(0)


JOBS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["uint8", "float32"]),
        st.integers(1, MAX_BATCH),
        st.booleans(),
        st.sampled_from(["none", "future", "past", "mixed"]),
    ),
    min_size=1,
    max_size=40,
)
DEADLINES = {
    "none": lambda n: None,
    "future": lambda n: np.full(n, np.inf),
    "past": np.zeros,
    "mixed": lambda n: np.where(np.arange(n) % 2 == 0, 0.0, np.inf),
}


@settings(max_examples=60)
@given(JOBS, st.booleans(), st.integers(1, 3))
def test_every_job_gets_exactly_its_own_rows(
    drawn: list[tuple[str, str, int, bool, str]], held: bool, streams: int
) -> None:
    bench = Bench(streams=streams)
    if held:
        bench.hold()
    jobs = [
        Job(model, rows_of(number + 1, count, dtype), DEADLINES[deadlines](count), interactive)
        for number, (model, dtype, count, interactive, deadlines) in enumerate(drawn)
    ]
    futures = [bench.batcher.submit(job) for job in jobs]
    bench.release()
    for job, future in zip(jobs, futures, strict=True):
        answer = future.result(SECONDS)
        live = np.ones(len(job.images), bool) if job.deadlines is None else job.deadlines > 1
        assert answer.expired is None if live.all() else np.array_equal(answer.expired, ~live)
        assert len(answer.outputs) == len(job.images)
        if live.any():
            assert np.array_equal(answer.outputs[live], sums_of(job.images[live]))
    bench.batcher.stop()
    for predictor in bench.predictors.values():
        for parts in predictor.batches:
            assert sum(map(len, parts)) <= MAX_BATCH
            assert len({part.dtype for part in parts}) == 1
    live_images = sum(1 if d is None else int((d > 1).sum()) for j in jobs for d in per_image(j))
    assert sum(count for _, count, _ in bench.observed) == live_images + held


def per_image(job: Job) -> list[Any]:
    """The deadline of each image of a job, as an array of one or None."""
    return [None] * len(job.images) if job.deadlines is None else list(job.deadlines.reshape(-1, 1))


def test_health_follows_the_computation_and_not_the_thread_that_reports_it(bench: Bench) -> None:
    now, limit = 0.0, 30.0
    health = Health("compute", clock=lambda: now)
    report_progress(health, bench.batcher, limit)
    assert health.readiness()[0]
    plug = bench.hold()
    report_progress(health, bench.batcher, limit)
    assert health.readiness()[0], "a batch may take its time"
    report_progress(health, bench.batcher, limit=0.0)
    assert not health.readiness()[0]
    assert health.liveness()[0]
    now = limit + 1
    report_progress(health, bench.batcher, limit=0.0)
    assert not health.liveness()[0]
    bench.release()
    plug.result(SECONDS)
    while bench.batcher.longest_computing:
        time.sleep(0.001)
    report_progress(health, bench.batcher, limit)
    assert health.readiness()[0]
    assert health.liveness()[0]


def test_a_stop_does_not_wait_for_a_computation_that_is_stuck(bench: Bench) -> None:
    bench.hold()
    bench.batcher.stop()
    assert bench.batcher.longest_computing > 0
