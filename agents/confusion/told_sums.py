"""Messages of `monitoring.performance-sums`: whatever stands there ends nothing, and makes no figure impossible."""

import re
import zlib
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agents.confusion.sums import Sums
from schemas.messages import PerformanceSums
from schemas.model_spec import MAX_CLASSES
from schemas.refusal import Reason, Refusal

LIFETIME = -2
"""Number that stands for all pairs ever, in the place of a window's."""
KEY = re.compile(r"(?P<group>.+)/(?P<window>-2|[0-9]{1,12})/(?P<partition>[0-9]{1,5})", re.ASCII | re.DOTALL)
TERM = re.compile(
    r"pairs|labelled|log_loss|brier|confidence|absolute|squared|(cell|mistake):[0-9]{1,5}:[0-9]{1,5}"
    r"|(hit|missed|false):[0-9]{1,5}|bin:[0-9]{1,3}:(confidence|correct|count)|estimate:[0-9.e+-]{1,24}:(pairs|confidence)"
    r"|labels:[0-9a-f]{16}|value:(pairs|labelled|correct|absolute|squared):.{0,256}",
    re.ASCII | re.DOTALL,
)
"""Others are of a later version of this program, and left out."""
REAL = (
    "log_loss",
    "brier",
    "confidence",
    "absolute",
    "squared",
    "bin:",
    "estimate:",
    "value:absolute",
    "value:squared",
)
BY_CLASS = ("cell:", "mistake:", "hit:", "missed:", "false:")
MAX_VERSION = 256
MESSAGE_BYTES = 1024
"""That a message takes beside key and value."""
MAX_UNREADABLE_BYTES = 32 << 20
MAX_COUNT = 1 << 48
MAX_REAL = 1 << 512
"""Far above what can be counted; sums of as many partitions as there can be still fit a record and a double."""


@dataclass(frozen=True, slots=True)
class ToldSums:
    """What one message says.

    Attributes:
        sums: None: the window has left the state of the partition.
        closed: with a lifetime: the highest window of which a pair has left the state.
    """

    model: str
    version: str
    window: int
    partition: int
    epoch: int = 0
    sums: Sums | None = None
    closed: int = -1


class Unreadable:
    """The last message of each key, where that could not be read, until it becomes a dead letter.

    Not at once: in what is read of the topic after a start, a later message may have taken it away.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[Any, bytes | None], tuple[Any, Refusal]] = {}
        self._bytes = 0

    def put(self, message: Any, refusal: Refusal) -> bool:
        """False if there is no room: it is found when the topic is read again."""
        if self._bytes + _size(message) > MAX_UNREADABLE_BYTES:
            return False
        self._held[message.tp, message.key] = (message, refusal)
        self._bytes += _size(message)
        return True

    def replaced(self, message: Any) -> None:
        """There is a later one under the key."""
        held = self._held.pop((message.tp, message.key), None)
        self._bytes -= _size(held[0]) if held else 0

    def take(self) -> list[tuple[Any, Refusal]]:
        """All, and begin anew."""
        taken, self._held, self._bytes = list(self._held.values()), {}, 0
        return taken


def _size(message: Any) -> int:
    return len(message.key or b"") + len(message.value or b"") + MESSAGE_BYTES


def partition_of(model: str, partitions: int) -> int:
    """On which partition of the topic all sums of a model are."""
    return zlib.crc32(model.encode()) % partitions


def key_of(model: str, version: str, window: int, partition: int) -> str:
    """Key of a message."""
    return f"{model}/{version}/{window}/{partition}"


def read_sums(message: Any, partitions: int) -> ToldSums | None:
    """Look at a consumed message as at one from a stranger. None if it only takes away what never was sums.

    Args:
        partitions: of the topic.

    Raises:
        Refusal: INVALID_ID: the key names no window; INVALID_FIELD, INVALID_JSON: the value holds no possible sums.
    """
    try:
        return _read(message, partitions)
    except Refusal:
        if message.key and message.value is None:
            return None
        raise


def _read(message: Any, partitions: int) -> ToldSums:
    told = _of_key(message.key)
    if message.value is not None:
        told = _of_value(message.value)
        if message.key != key_of(told.model, told.version, told.window, told.partition).encode():
            raise Refusal(Reason.INVALID_ID, f"key {_shown(message.key)} is not that of the sums in its value")
    if message.partition != (expected := partition_of(told.model, partitions)):
        raise Refusal(
            Reason.INVALID_ID, f"sums of {told.model[:80]!r} on partition {message.partition}; expected {expected}"
        )
    return told


def _of_key(key: bytes | None) -> ToldSums:
    try:
        found = KEY.fullmatch((key or b"").decode())
    except UnicodeDecodeError:
        found = None
    model, slash, version = found["group"].partition("/") if found else ("", "", "")
    if found is None or not (model and slash and 0 < len(version) <= MAX_VERSION):
        raise Refusal(Reason.INVALID_ID, f"key {_shown(key)}; expected model/version/window/partition")
    return ToldSums(model, version, int(found["window"]), int(found["partition"]))


def _of_value(value: bytes) -> ToldSums:
    try:
        told = PerformanceSums.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = Reason.INVALID_JSON if first["type"] == "json_invalid" else Reason.INVALID_FIELD
        where = ".".join(map(str, first["loc"]))[:80]
        raise Refusal(reason, f"not PerformanceSums: {where}: {first['msg'][:300]}") from error
    sums = Sums({name: number for name, number in told.sums.items() if TERM.fullmatch(name)})
    _check_possible(sums)
    return ToldSums(told.model, told.version, told.window, told.partition, told.epoch, sums, told.closed)


def _check_possible(sums: Sums) -> None:
    """Nothing is less than nothing, and classes have as many labelled pairs as there are."""
    for name, number in sums.items():
        most = MAX_REAL if name.startswith(REAL) else MAX_COUNT
        # Of a value, a late correction may take away what it did not bring: the spec may have listed others then.
        if not (-most if name.startswith("value:") else 0) <= number < most:
            raise Refusal(Reason.INVALID_FIELD, f"sums: {name[:80]} has {number.bit_length()} bits, or is negative")
        if name.startswith(BY_CLASS) and max(map(int, name.split(":")[1:])) >= MAX_CLASSES:
            raise Refusal(Reason.INVALID_FIELD, f"sums: {name} is of a class beyond {MAX_CLASSES}")
    judged, false, missed = (_sum(sums, kinds) for kinds in (("cell:", "hit:", "missed:"), ("false:",), ("missed:",)))
    if sums["labelled"] > sums["pairs"] or false != missed or judged not in (0, sums["labelled"]):
        raise Refusal(
            Reason.INVALID_FIELD,
            f"sums: {sums['labelled']} labelled of {sums['pairs']} pairs, {judged} with a class, {missed} missed and "
            f"{false} false: not the sums of any pairs",
        )


def _sum(sums: Sums, kinds: tuple[str, ...]) -> int:
    return sum(number for name, number in sums.items() if name.startswith(kinds))


def _shown(key: bytes | None) -> str:
    return repr(key[:80] if key else key)
