"""A request to stop is taken wherever the main thread is just then."""

import signal
import subprocess
import sys
import time

TIMES = 300
PROGRAM = f"""
import os, threading
from runtime.signals import on_stop

asked, taken = threading.Event(), []

def stop():
    asked.set()
    taken.append(1)

on_stop(stop)
print("ready", flush=True)
while len(taken) < {TIMES}:
    asked.clear()
print("ended", flush=True)
os._exit(0)
"""


def test_a_signal_that_comes_while_the_lock_of_an_event_is_held_ends_in_no_wait_without_end() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 120
            while not _ended(process) and time.monotonic() < deadline:
                process.send_signal(signal.SIGTERM)
            assert process.poll() == 0, "it waits for itself"
            assert process.stdout.read() == "ended\n"
        finally:
            process.kill()


def _ended(process: "subprocess.Popen[str]") -> bool:
    """Whether it ends within a thousandth of a second."""
    try:
        process.wait(0.001)
    except subprocess.TimeoutExpired:
        return False
    return True
