"""How many bytes may be in memory at once, of all that is taken in."""

import threading


class Budget:
    """Bytes that are shared; any thread may take of them and give back.

    Args:
        total_bytes: what may be taken at once.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._taken = 0
        self._changed = threading.Condition()

    @property
    def total(self) -> int:
        """Bytes that may be taken at once."""
        return self._total

    @property
    def taken(self) -> int:
        """Bytes taken now."""
        return self._taken

    def acquire(self, nbytes: int, timeout: float) -> bool:
        """Take `nbytes`, waiting for at most `timeout` seconds; false if they were not to be had."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._taken + nbytes <= self._total, timeout):
                return False
            self._taken += nbytes
            return True

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back."""
        with self._changed:
            self._taken -= nbytes
            self._changed.notify_all()
