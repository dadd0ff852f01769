"""The confusion agent: both of its stages in one process, wired to Faust."""

import time
from typing import Any

from faust.types import TP
from prometheus_client import CollectorRegistry

from agents.confusion.board_stage import BoardStage
from agents.confusion.entries import Entry
from agents.confusion.join_stage import JoinStage
from agents.confusion.joined import Upkeep
from agents.confusion.late import find_records, late_part
from agents.confusion.partition import Limits
from agents.confusion.recovery import JoinLoader
from agents.confusion.settings import ConfusionSettings
from runtime import kafka
from runtime.agent import AgentProcess, Context
from runtime.metrics import ConfusionMetrics
from runtime.model_folder import default_model, load_model_folders
from schemas.model_spec import ModelSpec
from schemas.topics import DEAD_LETTERS, FEEDBACK, JOIN_FOLDS, JOINS, PAIRS, PERFORMANCE, PERFORMANCE_SUMS

NAME = "confusion"


class ConfusionAgent:
    """The agent as its process knows it."""

    topics = (PAIRS, FEEDBACK, JOINS, JOIN_FOLDS, PERFORMANCE_SUMS, PERFORMANCE, DEAD_LETTERS)

    def __init__(
        self, joins: JoinStage, board: BoardStage, specs: dict[str, ModelSpec], settings: ConfusionSettings
    ) -> None:
        self._joins = joins
        self._board = board
        self._specs = specs
        self._settings = settings

    def wire(self, context: Context) -> None:
        """Subscribe to pairs and feedback as one stream, and to the sums; look at the clock now and then."""
        joining = context.subscribe((PAIRS, FEEDBACK), self._joins, depth=1)
        showing = context.subscribe(PERFORMANCE_SUMS, self._board, depth=1)
        sink = context.sink()

        def assignment() -> int | None:
            return None if context.app.rebalancing else int(context.app.consumer_generation_id)

        self._joins.connect(context.results, context.letters, sink, joining.in_thread, assignment)
        self._board.connect(context.results, context.letters, sink)
        found = kafka.cluster_topics(self._settings)
        self._joins.sums_partitions, self._joins.partitions = found[PERFORMANCE_SUMS.name], found[FEEDBACK.name]
        self._board.partitions = found[PERFORMANCE_SUMS.name]

        async def keep_up() -> None:
            consumer, generation = context.app.consumer, assignment()
            if generation is None:
                return
            own = {
                tp.partition: consumer.lag(tp, joining.processed.get(tp)) == 0
                for tp in sorted(consumer.assignment())
                if tp.topic == PAIRS.name
            }
            upkeep = await joining.in_thread(self._joins.upkeep, generation, own, time.time())
            await self._joins.keep(upkeep)
            if upkeep.waiting:
                await self._settle(context, joining, upkeep)

        async def show() -> None:
            consumer, generation = context.app.consumer, context.app.consumer_generation_id
            if context.app.rebalancing:
                return
            ends: dict[TP, int | None] = {
                tp: consumer._thread.ends(tp)[1] for tp in consumer.assignment() if tp.topic == PERFORMANCE_SUMS.name
            }
            reports = await showing.in_thread(self._board.reports, generation, ends)
            await self._board.publish(reports)

        context.every(self._settings.performance_tick_seconds, keep_up)
        context.every(self._settings.performance_tick_seconds, show)

    async def _settle(self, context: Context, joining: Any, upkeep: Upkeep) -> None:
        """Look for the pairs of waiting truths among the records."""
        names = [name for waiting in upkeep.waiting.values() for name, _ in waiting]
        records = await find_records(context.store, names)
        if records is None:
            return
        found = {
            partition: [
                (name, part)
                for name, entry in waiting
                for record in records.get(name, ())
                if (part := self._late(partition, record, entry)) is not None
            ]
            for partition, waiting in upkeep.waiting.items()
        }
        joined, dropped = await joining.in_thread(self._joins.settle, found, upkeep)
        await self._joins.deliver(joined)
        await context.results.publish(dropped)

    def _late(self, partition: int, record: dict[str, Any], waiting: Entry) -> Entry | None:
        """Only if its pair has left the state: else that will come by its topic, and is counted then."""
        place = record.get("pair")
        part = late_part(record, waiting, self._specs)
        if place is None or part is None or not self._joins.is_folded(partition, place["offset"], part.pairs[0].time):
            return None
        return part


def run(settings: ConfusionSettings) -> None:
    """Run the agent until SIGTERM."""
    metrics = ConfusionMetrics(CollectorRegistry())
    specs = {name: folder.spec for name, folder in load_model_folders(settings.models).items()}
    limits = Limits(
        settings.performance_window_seconds,
        settings.join_keep_seconds,
        settings.join_max_entries,
        settings.join_lookup_seconds,
        settings.join_orphan_seconds,
        settings.max_ahead_seconds,
    )

    def count(topic: str) -> None:
        metrics.unreadable_state.labels(topic).inc()

    def build() -> ConfusionAgent:
        loader = JoinLoader(settings, specs, limits, settings.state_folder / settings.instance, count)
        joins = JoinStage(specs, metrics, loader, limits, default_model(settings.default_model, specs))
        return ConfusionAgent(joins, BoardStage(specs, metrics, settings), specs, settings)

    AgentProcess(NAME, settings, settings.confusion_group, metrics, build).run()
