"""What the hardened consumer does when partitions are taken away at an awkward moment."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from runtime.faust_app import ExplicitConsumer, create_app
from runtime.settings import Settings

GONE = TP("monitoring.performance-sums", 1)


class LosingThread:
    """A consumer's thread whose partitions are no longer its own."""

    def __init__(self) -> None:
        self.sought: list[Any] = []

    async def seek_to_beginning(self, *partitions: Any) -> None:
        self.sought.extend(partitions)
        raise IllegalStateError(f"Partitions {partitions} are not assigned")


class LosingConsumer(ExplicitConsumer):
    """It has just sought what was committed, when its partition goes to somebody else."""

    def __init__(self) -> None:  # no brokers here
        self._thread: Any = LosingThread()
        self._handed = {GONE: 7}
        self._read_offset = defaultdict(lambda: None)

    def assignment(self) -> set[TP]:
        return {GONE}

    async def perform_seek(self) -> None:
        return None


def test_partitions_that_are_taken_away_between_two_seeks_end_nothing() -> None:
    consumer = LosingConsumer()
    asyncio.run(consumer._begin_again())
    assert [one.topic for one in consumer._thread.sought] == [GONE.topic]
    assert consumer._handed == {}


def test_a_partition_whose_leader_moved_is_found_again_soon() -> None:
    app = create_app(Settings(kafka_bootstrap_servers="127.0.0.1:1"), "test", 10)
    assert app.conf.consumer_metadata_max_age_ms <= 10_000  # ms; aiokafka asks the former leader until then


class Ends:
    """A consumer's thread that knows the place of the fetch and the end of the partition."""

    def __init__(self, position: int | None, end: int | None) -> None:
        self.place = position, end

    def ends(self, _tp: TP) -> tuple[int | None, int | None]:
        return self.place


class Reading(ExplicitConsumer):
    def __init__(self, position: int | None, end: int | None, *handed: int) -> None:  # no brokers here
        self._thread: Any = Ends(position, end)
        self._handed, self._began = {}, {}
        self._chained_under = self.app.consumer_generation_id
        for offset in handed:
            self._chain(GONE, SimpleNamespace(offset=offset))

    app = SimpleNamespace(consumer_generation_id=3)


@pytest.mark.parametrize(
    ("consumer", "processed", "lag"),
    [
        (Reading(None, None), None, None),
        (Reading(None, 1050), None, None),  # right after a start
        (Reading(1000, 1050), None, 50),
        (Reading(1050, 1050), None, 0),
        (Reading(1050, 1050, 1000, 1001), None, 50),  # in hand, the first of this assignment
        (Reading(1050, 1050, 1000, 1001), 1001, 49),
        (Reading(1050, 1050, 1000, 1048), 1049, 0),  # the last is a transaction's marker
        (Reading(1040, 1050, 1000, 1039), 1040, 10),
    ],
)
def test_lag_counts_from_where_the_present_assignment_began(
    consumer: Reading, processed: int | None, lag: int | None
) -> None:
    assert consumer.lag(GONE, processed) == lag
