"""The table of topics: name, key, message, partitions, retention. `modelwatch setup` creates exactly these."""

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.base import Message
from schemas.messages import (
    DriftReport,
    DriftState,
    Explanation,
    ExplanationRequest,
    FeatureVector,
    Feedback,
    InferencePair,
    JoinEntry,
    JoinFold,
    LetterReplay,
    OutlierVerdict,
    PerformanceReport,
    PerformanceSums,
    RequestPosition,
)

DAY_MS = 86_400_000
MIB = 1 << 20
MAX_REQUEST_BYTES = 8 * MIB
"""A request larger than this is refused with reason `oversize`."""
MAX_MESSAGE_BYTES = 32 * MIB
"""What the request topic and the dead letters hold, so that an over-size request is refused whole, never cut."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic.

    Attributes:
        joined: whether its partition count must equal that of the other joined topics, so that one id is on one
            partition of each of them.
        message: the model of its values; None where the value is not one of ours (requests, dead letters).
        compacted: only the last message of each key is kept, for as long as the topic lives.
    """

    name: str
    key: str
    written_by: str
    description: str
    message: type[Message] | None
    joined: bool
    retention_ms: int
    max_message_bytes: int = 2 * MIB
    compacted: bool = False


REQUESTS = Topic(
    "inference.requests",
    "request id",
    "anyone",
    "Images and tensors to classify, in the payload formats of docs/messages.md",
    None,
    True,
    7 * DAY_MS,
    MAX_MESSAGE_BYTES,
)
PAIRS = Topic(
    "inference.pairs",
    "request id",
    "worker",
    "Each request with its response, once; written in the transaction that commits the request's offset",
    InferencePair,
    True,
    7 * DAY_MS,
    MAX_MESSAGE_BYTES,
)
FEEDBACK = Topic("inference.feedback", "request id", "anyone", "The truth about requests", Feedback, True, 7 * DAY_MS)
EXPLANATION_REQUESTS = Topic(
    "explanation.requests",
    "request id",
    "anyone, and agents by policy",
    "Questions why a model answered as it did",
    ExplanationRequest,
    True,
    DAY_MS,
    MAX_MESSAGE_BYTES,
)
FEATURES = Topic(
    "monitoring.features",
    "model",
    "drift agent, first stage",
    "Compact features of each pair. A message without a value says that time has passed",
    FeatureVector,
    False,
    7 * DAY_MS,
)
DRIFT_STATE = Topic(
    "monitoring.drift-state",
    "model/instance",
    "drift agent, second stage",
    "Where the drift windows of each model stand; on the partition of its features. Earlier versions: a `WindowStart`",
    DriftState,
    False,
    -1,
    compacted=True,
)
OUTLIERS = Topic(
    "monitoring.outliers",
    "request id",
    "outliers agent",
    "Verdicts on flagged pairs",
    OutlierVerdict,
    False,
    30 * DAY_MS,
)
DRIFT = Topic("monitoring.drift", "model", "drift agent", "One report a window", DriftReport, False, 30 * DAY_MS)
PERFORMANCE = Topic(
    "monitoring.performance", "model", "confusion agent", "One report a window", PerformanceReport, False, 30 * DAY_MS
)
JOINS = Topic(
    "monitoring.joins",
    "request id",
    "confusion agent, first stage",
    "State of the join, an entry each time one changes. No value: nothing waits under this id any more",
    JoinEntry,
    True,
    7 * DAY_MS,
)
JOIN_FOLDS = Topic(
    "monitoring.join-folds",
    "partition/epoch",
    "confusion agent, first stage",
    "What the state of the join no longer holds, as sums; on the partition of its pairs",
    JoinFold,
    True,
    -1,
    MAX_MESSAGE_BYTES,
    compacted=True,
)
PERFORMANCE_SUMS = Topic(
    "monitoring.performance-sums",
    "model/version/window/partition",
    "confusion agent, first stage",
    "Each partition's part of the windows; all of one model on one partition. No value: nothing is left of the window",
    PerformanceSums,
    False,
    -1,
    compacted=True,
)
EXPLANATIONS = Topic(
    "monitoring.explanations",
    "request id",
    "explanations agent",
    "Answers to questions",
    Explanation,
    False,
    30 * DAY_MS,
)
DEAD_LETTERS = Topic(
    "inference.dead-letters",
    "original key",
    "everyone",
    "Unreadable messages, unchanged; headers say topic, partition, offset, stage, reason, error, time",
    None,
    False,
    30 * DAY_MS,
    MAX_MESSAGE_BYTES + MIB,
)
POSITIONS = Topic(
    "inference.positions",
    "group/partition",
    "inference worker",
    "How far each partition of requests is answered, for when the brokers have forgotten the committed offsets",
    RequestPosition,
    False,
    -1,
    compacted=True,
)
LETTER_REPLAYS = Topic(
    "inference.letter-replays",
    "topic/partition/offset/digest",
    "modelwatch letters",
    "Which dead letters were sent again; written in the transaction that sends them",
    LetterReplay,
    False,
    60 * DAY_MS,
)

TOPICS: tuple[Topic, ...] = (
    REQUESTS,
    PAIRS,
    FEEDBACK,
    EXPLANATION_REQUESTS,
    FEATURES,
    DRIFT_STATE,
    OUTLIERS,
    DRIFT,
    JOINS,
    JOIN_FOLDS,
    PERFORMANCE_SUMS,
    PERFORMANCE,
    EXPLANATIONS,
    DEAD_LETTERS,
    POSITIONS,
    LETTER_REPLAYS,
)


def topic_configs() -> Iterator[tuple[Topic, dict[str, str]]]:
    """Each topic with its broker configuration."""
    for topic in TOPICS:
        yield (
            topic,
            {
                "cleanup.policy": "compact" if topic.compacted else "delete",
                "retention.ms": str(topic.retention_ms),
                "max.message.bytes": str(topic.max_message_bytes),
            },
        )
