"""A server in a child process: started, waited for, stopped, killed, frozen, and started again on its data."""

import abc
import contextlib
import signal
import subprocess
import time
from pathlib import Path

from runtime.embedded import dying_with_parent

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class ServerProcess(abc.ABC):
    """What is common to the real servers of our tests; it ends with the thread that started it.

    Args:
        folder: for configuration, data and logs; its own.
    """

    title: str
    """As its errors name it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._child: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Write its configuration and make room for its data; called where neither is there yet."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """The command line that runs it in the foreground until SIGTERM."""

    @abc.abstractmethod
    def _answers(self) -> bool:
        """Whether it is ready for clients."""

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start, on the data of an earlier run if there is any, and return when the server answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; names its logs and quotes their end.
        """
        self.launch()
        self.wait(timeout)

    def launch(self) -> None:
        """Start; does not wait until it answers."""
        if not (self.folder / "data").exists():
            self._prepare()
        with (self.logs / "console.log").open("ab") as output:
            self._child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )

    def wait(self, timeout: float = START_SECONDS) -> None:
        """Wait until it answers; raises as `start`."""
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._child is None or self._child.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.title} did not start; {self._last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut the server down as an operator would; kill it if that takes longer than 10 s."""
        if self._child is None:
            return
        self._child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def freeze(self) -> None:
        """Let the server do nothing, while its connections stay open and take in what is sent."""
        if self._child is not None:
            self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)

    def _last_words(self) -> str:
        lines = [line for file in sorted(self.logs.glob("*.log")) for line in file.read_text().splitlines()[-10:]]
        return "\n".join([f"its logs are in {self.logs}:", *lines])
