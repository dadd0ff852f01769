"""Batches of raw messages from a Faust stream: computed one by one, made safe together, acknowledged in order."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from faust.types import TP

from runtime.errors import FatalError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Messages that were read under one assignment.

    Attributes:
        messages: Faust's `Message`: topic, partition, offset, timestamp (seconds), headers, key, value (bytes).
        generation: the assignment's number.
    """

    messages: list[Any]
    generation: int

    def ends(self) -> dict[TP, int]:
        """The offset behind the last message, for each partition."""
        return {message.tp: message.offset + 1 for message in self.messages}


class Stage(Protocol[Result]):
    """The work of an agent on one topic."""

    def compute(self, batch: Batch) -> Result:
        """Runs in a thread of its own, one batch after another, in order."""

    async def deliver(self, result: Result) -> None:
        """Make the results safe. Later batches may be computed and delivered meanwhile; all are begun in order."""

    def safe(self, batch: Batch, result: Result) -> Mapping[TP, int]:
        """Up to where nothing need be read again once this and all earlier batches are delivered, by partition."""


class BatchStage:
    """Base of stages whose results for a batch stand by themselves: all of it is safe when it is delivered."""

    def safe(self, batch: Batch, _result: Any) -> Mapping[TP, int]:
        """The batch's ends."""
        return batch.ends()


class Pipeline(Generic[Result]):
    """Takes a stream's batches through a stage.

    Args:
        app: the Faust app, see `runtime.faust_app`.
        size: most messages in a batch.
        within: seconds after which a batch that is not full is taken, counted from the batch before.
        depth: most batches whose delivery is under way.
        on_fatal: gets what `compute` or `deliver` raised; must not return to normal work.
    """

    def __init__(
        self,
        app: Any,
        stage: Stage[Result],
        size: int,
        within: float,
        depth: int,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._stage = stage
        self._size = size
        self._within = within
        self._slots = asyncio.Semaphore(depth)
        self._on_fatal = on_fatal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=type(stage).__name__)
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self._stopping = False
        self._computing = threading.Event()
        self._taken: dict[TP, int] = {}
        self._taken_under = -1
        self.delivered = 0
        self.processed: dict[TP, int] = {}

    @property
    def busy(self) -> bool:
        """Whether a batch is in hand."""
        return bool(self._tasks) or self._computing.is_set()

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent. It never raises: whatever goes wrong ends the process."""
        try:
            async for batch in self._batches(stream):
                if self._stopping:
                    continue  # not acknowledged, so it is read again
                await self._take(batch)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._on_fatal(error)

    async def finish(self, timeout: float) -> None:
        """Take no more batches, and wait until those in hand are safe; what takes longer is read again later."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function between two batches, where the stage's state is at rest."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def _batches(self, stream: Any) -> AsyncIterator[Batch]:
        async for events in stream.noack_take(self._size, within=self._within):
            # A rebalance leaves old messages in the buffer; who owns their partitions now reads them again.
            generation = self._app.consumer_generation_id
            current = [event.message for event in events if event.message.generation_id == generation]
            if current:
                self._check_chain(current, generation)
                yield Batch(current, generation)

    def _check_chain(self, messages: list[Any], generation: int) -> None:
        """Each message follows the one that the consumer read before it.

        Raises:
            FatalError: one was lost on the way through Faust. Better down, and all read again, than a hole.
        """
        if generation != self._taken_under:
            self._taken_under, self._taken = generation, {}
        for message in messages:
            previous = message.previous_offset
            if previous is not None and previous != self._taken.get(message.tp):
                raise FatalError(
                    f"{message.topic} [{message.partition}]: offset {message.offset} follows {previous}, but "
                    f"{self._taken.get(message.tp)} was the last to arrive; all is read again from the committed offset"
                )
            self._taken[message.tp] = message.offset

    async def _take(self, batch: Batch) -> None:
        await self._slots.acquire()
        self._computing.set()
        result = await self.in_thread(self._stage.compute, batch)
        self._computing.clear()
        task = asyncio.get_running_loop().create_task(self._deliver(batch, result, self._last))
        self._last = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, batch: Batch, result: Result, before: "asyncio.Task[None] | None") -> None:
        try:
            await self._stage.deliver(result)
            if before is not None:
                await before  # acknowledged in order, so that the safe offset never passes work in hand
            for tp, offset in self._stage.safe(batch, result).items():
                self._app.consumer.mark_safe(tp, offset, batch.generation)
            self.processed.update(batch.ends())
            self.delivered += 1
        except Exception as error:
            self._on_fatal(error)
        finally:
            self._slots.release()
