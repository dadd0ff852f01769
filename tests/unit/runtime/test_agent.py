"""How long the end of an agent may last, and what it says."""

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from runtime import agent as agents
from runtime.agent import AgentProcess, Context, ends_within
from runtime.batches import BatchStage
from runtime.errors import FatalError
from runtime.faust_app import create_app
from runtime.metrics import AgentMetrics
from runtime.settings import AgentSettings
from schemas.topics import FEEDBACK, PAIRS

NOWHERE = AgentSettings(kafka_bootstrap_servers="127.0.0.1:1")


async def stubborn() -> None:
    """As a service that takes its cancellation for something else."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


def test_what_will_not_be_cancelled_is_waited_for_no_longer() -> None:
    loop, began = asyncio.new_event_loop(), time.monotonic()
    assert not loop.run_until_complete(ends_within(0.1, stubborn()))
    assert time.monotonic() - began < 5


def test_a_thread_that_waits_for_a_server_is_waited_for_no_longer() -> None:
    server, loop, began = threading.Event(), asyncio.new_event_loop(), time.monotonic()
    assert not loop.run_until_complete(ends_within(0.1, asyncio.to_thread(server.wait, 60)))
    assert time.monotonic() - began < 5
    server.set()


def test_what_ends_in_time_has_ended_and_its_failure_is_told() -> None:
    async def fail() -> None:
        raise ArithmeticError

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(ends_within(5, asyncio.sleep(0)))
    with pytest.raises(ArithmeticError):
        loop.run_until_complete(ends_within(5, fail()))


class Broken:
    """A stream that fails with what it was given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def noack_take(self, *_arguments: Any, **_options: Any) -> Any:
        raise self._error


def test_whatever_fails_in_an_agent_ends_it_by_the_one_door() -> None:
    ended: list[BaseException] = []
    of_stream, of_timer = ArithmeticError("stream"), ArithmeticError("timer")

    again = asyncio.Event()

    async def fail() -> None:
        if of_timer in ended:
            again.set()
        raise of_timer

    async def both() -> None:
        app = create_app(NOWHERE, "test", 10)
        app.on_fatal = ended.append
        nothing: Any = None
        context = Context(NOWHERE, app, nothing, nothing, nothing, nothing)
        stage: Any = BatchStage()
        await context.subscribe(PAIRS, stage).run(Broken(of_stream))
        context.every(0.0, fail)
        await again.wait()
        context.timers[0].cancel()

    asyncio.run(both())
    assert ended[:2] == [of_stream, of_timer]


@pytest.mark.parametrize(
    ("missed", "said"), [({FEEDBACK.name}, "topics were deleted: inference.feedback"), (set(), "asserted")]
)
def test_an_end_names_the_topic_that_was_missing_when_no_broker_answers(
    missed: set[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException] = []
    monkeypatch.setattr(agents, "end_process", ended.append)
    monkeypatch.setattr(agents, "END_SECONDS", 0.1)
    metrics, nothing = AgentMetrics(CollectorRegistry(), "test"), lambda: SimpleNamespace()
    process: Any = AgentProcess("test", NOWHERE, "test", metrics, nothing)
    process._missing = missed
    process._end(SimpleNamespace(topics=[FEEDBACK, PAIRS]), FatalError("asserted"))
    assert str(ended[0]).startswith(said)
