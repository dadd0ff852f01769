"""The last stage: pairs and dead letters out, input offsets committed, in one Kafka transaction.

Lost or twice? A pair becomes visible only with the commit that also moves the input offset, so a process that dies
anywhere leaves neither or both. Whoever takes over starts at the committed offset (KIP-98, KIP-447).

A request of a transaction that got lost with its connection is sent again by librdkafka, and the lost one may still
arrive, during a later transaction, and end that (KIP-890). A transaction whose connection broke is therefore the last
of its producer: the next producer has another epoch, and brokers refuse what comes of the one before.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from typing import Any

from confluent_kafka import KafkaException, Producer, TopicPartition

from inference.batcher import Answer
from inference.chunks import Chunk, Part, Refused, Source
from inference.outgoing import STAGE, encode_part, letter_of, unanswered
from inference.positions import RECORD_SECONDS, Positions
from inference.producer_errors import is_fatal, translated
from runtime.errors import FatalError, TransientError
from runtime.kafka import produce
from runtime.logging import get_logger
from runtime.metrics import WorkerMetrics, observe_many
from schemas.clock import elapsed
from schemas.headers import PAIR_TYPE, WORKER_SOURCE, event_headers, rfc3339
from schemas.pairs import PairWriter
from schemas.topics import DEAD_LETTERS, PAIRS

log = get_logger(__name__)

CALL_SECONDS = 15.0
"""What the brokers may take for one step of a transaction; far less than `transaction.timeout.ms`."""
OVERDUE_SECONDS = 1.0
"""How much longer a call may take before it counts as hung: when a broker restarts, librdkafka 2.16 may lose sight of
a transaction's coordinator, and then it does not keep to the time-out it was given."""
ABORT_SECONDS = 5.0
RETRY_SECONDS = 0.1
START_SECONDS = 30.0
START_TIMEOUT = 1.0
"""Of one attempt to begin: a signal is only seen between two."""


class Publisher:
    """Publishes chunks in order, on its own thread.

    Args:
        transactional: a transactional producer on which nothing was called yet.
        positions: which offsets are to be recorded, beside being committed.
        depth: chunks that may wait to be published; `put` blocks beyond that.
        transaction_seconds: least time between commits while there is work.
    """

    def __init__(
        self,
        transactional: Producer,
        writers: Mapping[str, PairWriter],
        metrics: WorkerMetrics,
        positions: Positions,
        depth: int,
        transaction_seconds: float,
    ) -> None:
        self._producer = transactional
        self._writers = writers
        self._metrics = metrics
        self._positions = positions
        self._unrecorded: dict[tuple[str, int], int] = {}
        self._group: Any = None
        self._interval = transaction_seconds
        self._queue: queue.Queue[Chunk | threading.Event | None] = queue.Queue(depth)
        self._uncommitted: list[Chunk] = []
        self._last_commit = 0.0
        self._call_deadline = math.inf
        self._indefinite = False
        self._failing = threading.Lock()
        self._thread = threading.Thread(target=self._guarded_run, name="publish", daemon=True)
        self.failure: Exception | None = None

    def start(self, wanted: Callable[[], bool]) -> bool:
        """Fence an earlier process of this name, which also aborts its open transaction, then begin to publish.

        Args:
            wanted: asked about once a second while the brokers do not answer.

        Returns:
            False if it is not wanted any more; nothing was begun.

        Raises:
            TransientError: the brokers are not ready for transactions yet.
            FatalError: they refuse.
        """
        deadline = time.monotonic() + START_SECONDS
        while wanted():
            try:
                self._producer.init_transactions(START_TIMEOUT)
            except KafkaException as raised:
                with contextlib.suppress(KafkaException):  # the same, once it is fatal
                    self._producer.poll(0)  # for the client's error callback
                if raised.args[0].retriable() and time.monotonic() < deadline:
                    continue
                raise translated(raised) from raised
            self._thread.start()
            return True
        return False

    def on_broken_connection(self) -> None:
        """The producer's client says so, from within its `poll`: what it sent last may have come, or may yet come."""
        self._indefinite = True

    def put(self, chunk: Chunk, timeout: float) -> bool:
        """Hand a chunk over; False if there was no room within `timeout` seconds."""
        try:
            self._queue.put(chunk, timeout=timeout)
        except queue.Full:
            return False
        return True

    def flush(self, timeout: float) -> bool:
        """Commit all that was put so far; False if that took longer than `timeout` seconds or failed."""
        done = threading.Event()
        deadline = time.monotonic() + timeout
        while self.failure is None and time.monotonic() < deadline:
            try:
                self._queue.put(done, timeout=0.1)
                break
            except queue.Full:
                continue
        while self.failure is None and time.monotonic() < deadline:
            if done.wait(0.05):
                return True
        return False

    def check(self) -> None:
        """Raise why nothing more will be committed, if that is so."""
        if time.monotonic() > self._call_deadline + OVERDUE_SECONDS:
            self.abandon(TransientError(f"the brokers did not finish a step of a transaction in {CALL_SECONDS:g} s"))
        if self.failure is not None:
            raise self.failure

    def abandon(self, cause: Exception) -> None:
        """Publish and commit nothing more: what is not committed is somebody else's now. A fatal cause prevails."""
        with self._failing:
            if self.failure is None or (isinstance(cause, FatalError) and not isinstance(self.failure, FatalError)):
                self.failure = cause
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # wakes the thread where it waits for work

    def close(self, timeout: float) -> None:
        """Wait, after `abandon`, until the thread has aborted its transaction and ended; nobody need wait for it then.

        A thread that the brokers hold for longer than `timeout` seconds is left behind: the next producer of this name
        fences it.
        """
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _guarded_run(self) -> None:
        try:
            self._run()
        except KafkaException as raised:  # of `produce` and `poll`, which tell of fatal errors as well
            self.abandon(translated(raised))
        except Exception as error:  # handed to the thread that supervises this one
            self.abandon(error)
        if self.failure is not None:
            self._abort()

    def _run(self) -> None:
        while self.failure is None:
            try:
                item = self._queue.get(timeout=self._time_to_act())
            except queue.Empty:
                if self._uncommitted:
                    self._commit()
                else:
                    self._record()
                continue
            if item is None:
                return
            if isinstance(item, threading.Event):
                self._commit()
                self._record()
                item.set()
                continue
            self._await_answers(item)
            self._publish(item)
            if self._time_to_commit() == 0.0:
                self._commit()

    def _time_to_commit(self) -> float | None:
        """Seconds until the open transaction should be committed; None if there is none."""
        if not self._uncommitted:
            return None
        return max(0.0, self._last_commit + self._interval - time.monotonic())

    def _time_to_act(self) -> float | None:
        """Seconds until the open transaction should be committed, or what is committed recorded; None for neither."""
        return RECORD_SECONDS if self._unrecorded and not self._uncommitted else self._time_to_commit()

    def _await_answers(self, chunk: Chunk) -> None:
        """Wait for the chunk's computation, but commit earlier chunks meanwhile when they are due."""
        futures = [part.job.future for part in chunk.parts]
        if wait(futures, timeout=self._time_to_commit()).not_done:
            self._commit()
            wait(futures)

    def _publish(self, chunk: Chunk) -> None:
        if self.failure is not None:
            return
        if self._uncommitted and self._uncommitted[-1].group is not chunk.group:
            self._commit()  # the brokers check a transaction against one assignment: that under which all was read
        if not self._uncommitted:
            self._begin_transaction()
        self._uncommitted.append(chunk)
        failed: dict[Source, list[str]] = {}
        for part in chunk.parts:
            for source, request_id in self._publish_part(part, part.job.future.result(), chunk.received_at):
                failed.setdefault(source, []).append(request_id)
        models = {source: part.job.model for part in chunk.parts for source in part.sources} if failed else {}
        chunk.refused += [Refused(one, unanswered(models[one], names), len(names)) for one, names in failed.items()]
        for refused in chunk.refused:
            produce(self._producer, DEAD_LETTERS.name, **letter_of(refused))
        self._producer.poll(0)

    def _publish_part(self, part: Part, answer: Answer, received_at: float) -> list[tuple[Source, str]]:
        """Publish its pairs; returns the message and id of each request that has no usable answer."""
        answered_at = time.time()
        values = encode_part(self._writers[part.job.model], part, answer, received_at, answered_at)
        ce_time = rfc3339(answered_at)
        for request_id, value, traceparent in zip(part.request_ids, values, part.traceparents, strict=True):
            if value is None:
                continue
            headers = event_headers(request_id, PAIR_TYPE, WORKER_SOURCE, ce_time, part.job.model, traceparent)
            produce(self._producer, PAIRS.name, value=value, key=request_id, headers=headers)
        waited = elapsed(received_at, answer.started_at)
        observe_many(self._metrics.queue.labels(part.job.model), [waited] * len(values))
        part.unusable = values.count(None)
        if not part.unusable:
            return []
        found = zip(part.sources, part.request_ids, values, strict=True)
        return [(source, request_id) for source, request_id, value in found if value is None]

    def _commit(self) -> None:
        if not self._uncommitted or self.failure is not None:
            return
        offsets: dict[tuple[str, int], int] = {}
        for chunk in self._uncommitted:
            offsets.update(chunk.offsets)
        if self._group is not self._uncommitted[-1].group:
            self._group, self._unrecorded = self._uncommitted[-1].group, {}
        self._end_transaction(offsets, everything=False)
        self._last_commit = time.monotonic()
        self._metrics.transactions.labels("committed").inc()
        for chunk in self._uncommitted:
            self._count(chunk)
            chunk.on_end()
        self._uncommitted = []
        self._check_connections()

    def _record(self) -> None:
        """Record the positions that are committed and not recorded yet, when nothing else is to be done."""
        if not self._unrecorded or self.failure is not None:
            return
        self._begin_transaction()
        self._end_transaction(self._unrecorded, everything=True)
        self._check_connections()

    def _begin_transaction(self) -> None:
        self._producer.poll(0)  # for the client's log, which tells of connections
        self._indefinite = False  # what broke while nothing was under way has lost nothing
        self._call(self._producer.begin_transaction)

    def _end_transaction(self, offsets: Mapping[tuple[str, int], int], everything: bool) -> None:
        """Commit, with these offsets, and with a record of those that are due."""
        recorded = list(self._positions.due(offsets, everything))
        for message in recorded:
            produce(self._producer, **message)
        positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        self._call(self._producer.send_offsets_to_transaction, positions, self._group, CALL_SECONDS)
        self._call(self._producer.commit_transaction, CALL_SECONDS)
        self._unrecorded = {} if everything else {**self._unrecorded, **offsets}

    def _check_connections(self) -> None:
        self._producer.poll(0)
        if self._indefinite:
            raise TransientError("a connection broke during a transaction, which is committed; a new producer goes on")

    def _count(self, chunk: Chunk) -> None:
        """Metrics of committed work only, so that a retry is not counted twice."""
        now = time.time()
        for part in chunk.parts:
            expired_rows = part.job.future.result().expired
            expired = 0 if expired_rows is None else int(expired_rows.sum())
            model, count = part.job.model, len(part.request_ids)
            if expired:
                self._metrics.requests.labels(model, "expired", "kafka").inc(expired)
            self._metrics.requests.labels(model, "ok", "kafka").inc(count - expired - part.unusable)
            latencies = [elapsed(sent_at, now) for sent_at in part.sent_at]
            observe_many(self._metrics.request_latency.labels(model, "kafka"), latencies)
        for refused in chunk.refused:
            self._metrics.dead_letters.labels(STAGE, refused.refusal.reason.value).inc()
            model = refused.refusal.model or "unknown"
            self._metrics.requests.labels(model, "refused", "kafka").inc(refused.images)

    def _abort(self) -> None:
        if not self._uncommitted:
            return
        self._metrics.transactions.labels("aborted").inc()
        if isinstance(self.failure, FatalError):
            return  # this producer can do nothing more; the next one of its name aborts
        try:
            self._producer.abort_transaction(ABORT_SECONDS)
        except KafkaException as raised:
            if is_fatal(raised):
                self.abandon(translated(raised))
            else:
                log.warning("transaction_abort_failed", error=raised.args[0].str(), remedy="none needed: the next does")

    def _call(self, function: Any, *arguments: Any) -> None:
        """Call the transactional producer; repeat what may be repeated, translate the rest to our errors."""
        self._call_deadline = time.monotonic() + CALL_SECONDS
        try:
            while True:
                try:
                    function(*arguments)
                    return
                except KafkaException as raised:
                    self._indefinite = True
                    if not raised.args[0].retriable() or time.monotonic() > self._call_deadline:
                        raise translated(raised) from raised
                time.sleep(RETRY_SECONDS)
        finally:
            self._call_deadline = math.inf
