"""The process of an agent: health, servers, Faust and its pipelines, from the first signal to the last commit."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from elasticsearch import AsyncElasticsearch
from runtime import kafka, tensorflow_environment
from runtime.batches import Bounds, Pipeline, Stage
from runtime.byte_room import ByteRoom
from runtime.elasticsearch_sink import RecordSink, client_from_settings
from runtime.errors import FatalError, ModelwatchError, TransientError
from runtime.faust_app import create_app, end_process, raw_topic
from runtime.health import Health, HttpServer
from runtime.logging import get_logger
from runtime.metrics import AgentMetrics
from runtime.record_indices import templates_are_there
from runtime.results import DeadLetters, Results
from runtime.settings import AgentSettings
from runtime.signals import STOP, end_on_stop
from runtime.tls import server_context
from runtime.topic_check import check_topics
from schemas.topics import Topic

log = get_logger(__name__)

WAIT_SECONDS = 1.0
WATCH_SECONDS = 1.0
TOPICS_SECONDS = 5.0
"""Between two looks at whether the topics are still there; the second that misses one ends the process."""
LOOP_MAX_AGE = 30.0
MEMBER_MAX_AGE = 180.0
PROGRESS_MAX_AGE = 600.0
"""A lag without any batch in hand for this long is a stuck consumer. A batch that waits for a server is in hand."""
END_SECONDS = 5.0
EXPIRY_SECONDS = 10.0
FINISH_SECONDS = 4.0
COMMIT_SECONDS = 1.5
STOP_SECONDS = 2.0
RESULTS_SECONDS = 1.5
STORE_SECONDS = 0.5
"""Together under the 10 s that a stop may last."""


@dataclass
class Context:
    """What an agent works with, inside the event loop."""

    settings: AgentSettings
    app: Any
    results: Results
    letters: DeadLetters
    store: AsyncElasticsearch
    metrics: AgentMetrics
    pipelines: list[Pipeline[Any]] = field(default_factory=list)
    timers: list[asyncio.Task[None]] = field(default_factory=list)

    def sink(self) -> RecordSink:
        """A writer of records; what the store refuses becomes a dead letter."""
        return RecordSink(self.store, self.metrics, self.letters.send_record)

    def subscribe(
        self, topics: Topic | Sequence[Topic], stage: Stage[Any], depth: int | None = None, **bounds: int
    ) -> Pipeline[Any]:
        """Take the messages of a topic, or of several as one stream, through a stage.

        Args:
            depth: batches at a time; None: as many as is set.
            bounds: others than are set, by the names that they have in `Bounds`.
        """
        settings = self.settings
        own = Bounds(
            settings.batch_size, settings.batch_seconds, depth or settings.batches_in_flight, settings.batch_bytes
        )
        room = ByteRoom(settings.bytes_in_flight)
        pipeline = Pipeline(self.app, stage, replace(own, **bounds), room, self.app.on_fatal)

        async def take(stream: Any) -> None:
            await pipeline.run(stream)

        names = [topic.name for topic in ([topics] if isinstance(topics, Topic) else topics)]
        self.app.rooms |= dict.fromkeys(names, room)
        self.app.agent(raw_topic(self.app, names), name=f"{type(stage).__name__}")(take)
        self.pipelines.append(pipeline)
        return pipeline

    def every(self, seconds: float, job: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine function again and again, `seconds` after it has ended; what it raises ends the process."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await job()
                except Exception as error:
                    self.app.on_fatal(error)

        self.timers.append(asyncio.get_running_loop().create_task(repeat()))


class Agent(Protocol):
    """What an agent is to its process."""

    @property
    def topics(self) -> Sequence[Topic]:
        """What it reads and writes; all must exist before it starts."""

    def wire(self, context: Context) -> None:
        """Subscribe to topics. Called once, in the event loop, before anything is read."""


class AgentProcess:
    """Runs one agent until SIGTERM.

    Args:
        name: the agent's, in logs and metrics.
        group: consumer group.
        build: makes the agent: loads and warms its models, which takes its time.
    """

    def __init__(
        self, name: str, settings: AgentSettings, group: str, metrics: AgentMetrics, build: Callable[[], Agent]
    ) -> None:
        self._name = name
        self._settings = settings
        self._group = group
        self._metrics = metrics
        self._build = build
        self._health = Health("models", "kafka", "elasticsearch")
        self._delivered = -1
        self._epoch = 0
        self._shown: set[Any] = set()
        self._uncommitted: dict[Any, int] = {}
        self._missing: set[str] = set()
        self._topics = kafka.Topics(settings)
        self._began = time.monotonic()

    def run(self) -> None:
        """Serve until stopped.

        Raises:
            FatalError: the process must end; it is safe to start it again unless it is a `ConfigurationError`.
        """
        tensorflow_environment.prepare()
        end_on_stop()
        host, port, tls = self._settings.host, self._settings.port, server_context(self._settings)
        server = HttpServer(host, port, self._metrics.registry, health=self._health, tls=tls)
        server.start()
        try:
            agent = self._build()
            self._health.ready("models", True)
            # Not `asyncio.run`: that waits at its end for threads, of which one may wait for a server.
            asyncio.new_event_loop().run_until_complete(self._serve(agent))
        finally:
            server.stop()
        log.info("stopped")
        os._exit(0)  # threads of Faust's that wait for a server must not hold the end up

    async def _serve(self, agent: Agent) -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in STOP:
            loop.add_signal_handler(number, stopping.set)
        store = client_from_settings(self._settings)
        if not await self._wait_for_servers(agent, store, stopping):
            return
        results = Results(self._settings, loop)
        settings = self._settings
        app = create_app(settings, self._group, 2 * settings.batch_size, settings.session_timeout_ms / 1000)
        letters = DeadLetters(results, self._metrics, self._name)
        context = Context(settings, app, results, letters, store, self._metrics)
        app.on_fatal = partial(self._end, agent)
        agent.wire(context)
        await app.start()
        context.every(WATCH_SECONDS, lambda: self._watch(context))
        context.every(TOPICS_SECONDS, lambda: self._watch_topics(agent))
        await stopping.wait()
        for task in context.timers:
            task.cancel()
        await self._stop(context)

    async def _wait_for_servers(self, agent: Agent, store: AsyncElasticsearch, stopping: asyncio.Event) -> bool:
        """Wait until topics and index templates are there; False if told to stop before.

        Raises:
            ConfigurationError: the brokers or the store refuse us.
        """
        said = ""
        while not stopping.is_set():
            try:
                await self._check_servers(agent, store)
                if not said or not await self._is_remembered():
                    return True
                raise TransientError("the consumer group remembers this instance from before; it joins anew")
            except TransientError as error:
                if str(error) != said:
                    log.warning("waiting_for_servers", reason=str(error))
                said = str(error)
                self._health.ready("kafka", False, said)
            self._health.beat("loop", LOOP_MAX_AGE)
            await asyncio.sleep(WAIT_SECONDS)
        return False

    async def _is_remembered(self) -> bool:
        """Whether a static member of our name has not expired yet: it would be given the partitions that it had, and
        those were dealt out while topics were missing. Not asked for longer than brokers may remember it."""
        if time.monotonic() > self._began + self._settings.session_timeout_ms / 1000 + EXPIRY_SECONDS:
            return False
        return await asyncio.to_thread(kafka.is_member, self._settings, self._group)

    async def _check_servers(self, agent: Agent, store: AsyncElasticsearch) -> None:
        found = await asyncio.to_thread(self._topics.read, 5.0)
        check_topics(found, agent.topics)
        if not await templates_are_there(store):
            raise TransientError("the record store lacks our index templates; put them there with `modelwatch setup`")
        self._health.ready("elasticsearch", True)

    async def _watch(self, context: Context) -> None:
        """Say that the loop goes round, and measure membership, progress and lag."""
        self._health.beat("loop", LOOP_MAX_AGE)
        consumer, rebalancing = context.app.consumer, context.app.rebalancing
        member = consumer.is_member() and not rebalancing
        if member or rebalancing:
            self._health.beat("membership", MEMBER_MAX_AGE)
        self._health.ready("kafka", member, "" if member else "not a member of the consumer group")
        self._count_assignments(context.app.consumer_generation_id)
        lags = {tp: lag for tp in consumer.assignment() if (lag := self._lag(context, tp)) is not None}
        for tp in self._shown - lags.keys():
            self._metrics.consumer_lag.remove(tp.topic, str(tp.partition))
        for tp, lag in lags.items():
            self._metrics.consumer_lag.labels(tp.topic, str(tp.partition)).set(lag)
        self._shown = set(lags)
        self._beat_progress(context, sum(lags.values()))

    async def _watch_topics(self, agent: Agent) -> None:
        """End when a topic was deleted: a consumer would wait in silence, and take a new topic's offsets for old.

        Raises:
            FatalError: it was missing the last time, too; the next process waits for it before it reads.
        """
        try:
            found = await asyncio.to_thread(self._topics.read, 5.0)
        except TransientError:
            return  # brokers that are away have deleted nothing
        missing = {topic.name for topic in agent.topics} - found.keys()
        self._health.ready("topics", not missing, _deleted(missing) if missing else "")
        if missing & self._missing:
            raise FatalError(_deleted(missing))
        if missing:
            log.warning("topics_missing", reason=_deleted(missing))
        self._missing = missing

    def _end(self, agent: Agent, reason: BaseException) -> None:
        """End the process at once, and tell the true reason if it is a deleted topic: of all that fails then, any may
        be the first, and aiokafka only asserts."""
        missing = self._missing
        with contextlib.suppress(ModelwatchError):  # then what was missing the last time is all that is known
            missing = {topic.name for topic in agent.topics} - self._topics.read(END_SECONDS).keys()
        end_process(FatalError(_deleted(missing)) if missing else reason)

    def _count_assignments(self, epoch: int) -> None:
        self._metrics.assignments.inc(epoch - self._epoch)
        self._epoch = epoch

    def _lag(self, context: Context, tp: Any) -> int | None:
        processed = [pipeline.processed[tp] for pipeline in context.pipelines if tp in pipeline.processed]
        lag: int | None = context.app.consumer.lag(tp, processed[0] if processed else None)
        return lag

    def _beat_progress(self, context: Context, lag: int) -> None:
        delivered = sum(pipeline.delivered for pipeline in context.pipelines)
        busy = any(pipeline.busy for pipeline in context.pipelines)
        if not lag or busy or delivered != self._delivered:
            self._health.beat("progress", PROGRESS_MAX_AGE)
        self._delivered = delivered
        pending = context.app.consumer.uncommitted()
        if not pending or pending != self._uncommitted:
            self._health.beat("commits", PROGRESS_MAX_AGE)
        self._uncommitted = pending

    async def _stop(self, context: Context) -> None:
        """Finish what is in hand, commit, and leave; what takes too long is read again by whoever comes next."""
        log.info("stopping")
        began = time.monotonic()
        await asyncio.gather(*(pipeline.finish(FINISH_SECONDS) for pipeline in context.pipelines))
        for name, step, seconds in (
            ("commit", context.app.consumer.commit(), COMMIT_SECONDS),
            ("leave", context.app.stop(), STOP_SECONDS),
            ("results", asyncio.to_thread(context.results.close), RESULTS_SECONDS),
            ("store", context.store.close(), STORE_SECONDS),
        ):
            if not await ends_within(seconds, step):
                log.warning("stop_step_took_too_long", step=name, seconds=time.monotonic() - began)


async def ends_within(seconds: float, step: Coroutine[Any, Any, Any]) -> bool:
    """Whether it ended in time. Unlike `asyncio.wait_for`, this waits no longer for what will not be cancelled."""
    task = asyncio.ensure_future(step)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


def _deleted(topics: set[str]) -> str:
    return f"topics were deleted: {', '.join(sorted(topics))}; create them with `modelwatch setup`"
