"""How long the end of an agent may last."""

import asyncio
import threading
import time

import pytest

from runtime.agent import ends_within


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
