"""Batches of raw messages from a Faust stream: computed one by one, made safe together, acknowledged in order."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from faust.types import TP

from runtime.byte_room import ByteRoom, size_of, split
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


@dataclass(frozen=True)
class Bounds:
    """What a pipeline has in hand at most.

    Attributes:
        size: messages in a batch.
        within: seconds after which a batch that is not full is taken, counted from the batch before.
        depth: batches that are not acknowledged.
        batch_bytes: of the messages in a batch; a larger message is a batch of its own.
        messages: that are being delivered; None: as many as there are in `depth` batches.
    """

    size: int
    within: float
    depth: int
    batch_bytes: int
    messages: int | None = None


class Pipeline(Generic[Result]):
    """Takes a stream's batches through a stage.

    Args:
        app: the Faust app, see `runtime.faust_app`.
        room: counts the bytes in hand.
        on_fatal: gets what `compute` or `deliver` raised; must not return to normal work.
    """

    def __init__(
        self,
        app: Any,
        stage: Stage[Result],
        bounds: Bounds,
        room: ByteRoom,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._stage = stage
        self._bounds = bounds
        self._room = room
        self._slots = asyncio.Semaphore(bounds.depth)
        self._on_fatal = on_fatal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=type(stage).__name__)
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: asyncio.Task[None] | None = None
        self._stopping = False
        self._computing = threading.Event()
        self._delivering = 0
        self._freed = asyncio.Event()
        self._taken: dict[TP, int] = {}
        self._taken_under = -1
        self._processed: dict[TP, int] = {}
        self._processed_under = -1
        self.delivered = 0

    @property
    def processed(self) -> Mapping[TP, int]:
        """The offset behind the last message processed under the present assignment, by partition.

        What was processed before says nothing: another owner may have gone on since.
        """
        return self._processed if self._processed_under == self._app.consumer_generation_id else {}

    @property
    def busy(self) -> bool:
        """Whether a batch is in hand."""
        return bool(self._tasks) or self._computing.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to finish: what is not safe soon is read again later."""
        return self._stopping

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
        async for events in stream.noack_take(self._bounds.size, within=self._bounds.within):
            # A rebalance leaves old messages in the buffer; who owns their partitions now reads them again.
            generation = self._app.consumer_generation_id
            current = [event.message for event in events if event.message.generation_id == generation]
            if current:
                self._check_chain(current, generation)
                for part in split(current, self._bounds.batch_bytes):
                    yield Batch(part, generation)

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
        await self._wait_for_turn(len(batch.messages))
        self._computing.set()
        result = await self.in_thread(self._stage.compute, batch)
        self._computing.clear()
        task = asyncio.get_running_loop().create_task(self._deliver(batch, result, self._last))
        self._last = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_for_turn(self, count: int) -> None:
        """Until so many more messages may be delivered; a batch larger than the bound goes alone."""
        most = self._bounds.messages
        while most is not None and self._delivering and self._delivering + count > most:
            self._freed.clear()
            await self._freed.wait()
        self._delivering += count

    async def _deliver(self, batch: Batch, result: Result, before: "asyncio.Task[None] | None") -> None:
        try:
            await self._stage.deliver(result)
            safe, ends, generation = self._stage.safe(batch, result), batch.ends(), batch.generation
            self._let_go(batch)
            del batch, result  # while earlier batches are waited for, they would take memory
            if before is not None:
                await before  # acknowledged in order, so that the safe offset never passes work in hand
            for tp, offset in safe.items():
                self._app.consumer.mark_safe(tp, offset, generation)
            self._note_processed(ends, generation)
            self.delivered += 1
        except Exception as error:
            self._on_fatal(error)
        finally:
            self._slots.release()

    def _note_processed(self, ends: Mapping[TP, int], generation: int) -> None:
        if generation == self._app.consumer_generation_id:
            if generation != self._processed_under:
                self._processed, self._processed_under = {}, generation
            self._processed.update(ends)

    def _let_go(self, batch: Batch) -> None:
        self._room.give_back(sum(map(size_of, batch.messages)), batch.generation)
        self._delivering -= len(batch.messages)
        self._freed.set()
