"""Ctrl-C while `modelwatch` is being imported, which on a busy machine takes seconds."""

import signal
import subprocess
import sys
from importlib.metadata import entry_points

IMPORTING = """
import sys, time
from importlib import import_module
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            print("importing", flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Slow())
getattr(import_module(sys.argv[1]), sys.argv[2])()
"""


def test_ctrl_c_while_it_is_imported_ends_the_command_in_silence_with_status_130() -> None:
    [script] = entry_points(group="console_scripts", name="modelwatch")
    command = [sys.executable, "-c", IMPORTING, script.module, script.attr]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_ctrl_c
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, "")


def listen_to_ctrl_c() -> None:
    """Whoever runs the tests in the background of a shell ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
