"""SIGTERM and SIGINT as a request to stop."""

import os
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue

STOP = (signal.SIGTERM, signal.SIGINT)


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` in a thread of its own whenever the process is asked to stop. Call it in the main thread.

    A handler runs in the main thread between any two of its steps. Where that holds the lock of an event, a handler
    that sets the event waits for itself for ever; `SimpleQueue.put` may be called there.
    """
    received: SimpleQueue[int] = SimpleQueue()

    def wait() -> None:
        while True:
            received.get()
            stop()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    for number in STOP:
        signal.signal(number, lambda number, _frame: received.put(number))


def end_on_stop() -> None:
    """End at once whenever the process is asked to stop, while nothing is in hand and models load. Not by an exception:
    a framework's call-back could swallow it."""
    for number in STOP:
        signal.signal(number, lambda *_: os._exit(0))
