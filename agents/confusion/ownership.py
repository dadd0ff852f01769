"""Who owns a partition of the join: the last claim in its log does, and an owner sees by the log that it is outbid.

An owner is the only writer of its partition of `monitoring.joins`. It begins with a claim there. The offsets of its own
messages then follow one another; where they do not, somebody else has written, and if that was a claim, whatever this
owner wrote after it does not count. Group membership alone cannot tell: a process that was stopped for a while, or
whose claim was long on its way, takes itself for the owner still.
"""

import threading
from dataclasses import dataclass, field

import orjson

from schemas.messages import JoinEntry


def claim_message(instance: str) -> bytes:
    """What opens an ownership, in the log of the entries. Earlier versions read it as an entry of nothing."""
    return JoinEntry(request_id=instance, claim=instance).model_dump_json().encode()


def is_claim(value: bytes | None) -> bool:
    """Whether a message of the log is a claim."""
    if not value or b'"claim"' not in value:
        return False
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("claim") is not None


@dataclass(slots=True)
class Claim:
    """An ownership, as its owner knows it.

    Attributes:
        offset: of the claim's own message in the log.
        checked: no other claim lies between `offset` and here.
        top: behind the last message of our own.
        lost: somebody else has claimed after us.
    """

    offset: int
    checked: int
    top: int = 0
    lost: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def delivered(self, offset: int) -> None:
        """One of our messages stands in the log. Called in the order of the log, by the producer's thread.

        Args:
            offset: negative where the broker did not say.
        """
        with self._lock:
            if offset == self.checked:
                self.checked += 1
            self.top = max(self.top, offset + 1, self.checked + (offset < 0))

    @property
    def in_doubt(self) -> bool:
        """Whether somebody else's messages may lie between ours."""
        with self._lock:
            return self.top > self.checked

    def looked(self, end: int, found: bool) -> None:
        """The log was read up to `end`.

        Args:
            found: whether there was another's claim.
        """
        with self._lock:
            self.checked = max(self.checked, end)
            self.lost = self.lost or found
