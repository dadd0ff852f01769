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
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")
