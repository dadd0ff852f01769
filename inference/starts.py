"""Where a partition of requests is begun: pure, from what the brokers and the log of positions say."""

from dataclasses import dataclass

FIRST = "begins_at_the_first_request"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `inference.positions` says of a partition.

    Attributes:
        offset: the next request to answer.
        same_topic: whether it speaks of the topic that is there now, or of one of the same name before it.
    """

    offset: int
    same_topic: bool


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin.

    Attributes:
        why: an event for the log; empty where it is the committed offset, as it nearly always is.
    """

    offset: int
    why: str = ""


def start_of(committed: int | None, low: int, high: int, recorded: Recorded | None) -> Start:
    """Where to begin a partition, so that no request is left out, and none answered twice if that can be known.

    Args:
        committed: the group's offset; None: brokers have none. They forget it when a group has been away for longer
            than `offsets.retention.minutes`, and when the topic is deleted.
        low, high: the first offset that the topic holds, and the one behind its last.
        recorded: None: nothing is recorded, or by another cluster.
    """
    if committed is None:
        if recorded is not None and recorded.same_topic:
            return Start(min(max(recorded.offset, low), high), "committed_offset_forgotten")
        return Start(low, FIRST)
    if recorded is not None and not recorded.same_topic:
        return Start(low, "topic_was_made_anew")
    if committed > high:
        return Start(high, "topic_was_cut_short") if recorded is not None else Start(low, "topic_was_made_anew")
    if committed < low:
        return Start(low, "requests_were_deleted_unanswered")
    return Start(committed)
