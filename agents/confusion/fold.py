"""What the join's state no longer holds: sums, and the marks that tell what is in them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agents.confusion.entries import PAIRS_LANE, PairHalf
from agents.confusion.sums import Sums
from schemas.messages import JoinFold, ModelSums

Group = tuple[str, str]
"""Model and version."""


@dataclass(slots=True)
class Fold:
    """Everything up to the marks, by lane, is in these sums and nowhere else.

    Attributes:
        epoch: number of the ownership of the partition: `base`, and the offset behind the owner's claim in the log, so
            that nobody else can have it. What a former owner, not yet aware of that, writes has a lower number.
        base: 0, unless there were epochs already when the log was new.
        marks: highest offset that is in the sums, by lane.
        era: how often the topics of the lanes were made anew. What was answered in an earlier one is all in the sums.
        era_began: when the last of them was seen to have begun, seconds since the epoch.
        topic_ids: of the topics that the marks are about, where the brokers have ids.
        closed: by model version, the highest window of which a pair is in the sums.
    """

    partition: int
    epoch: int = 0
    base: int = 0
    marks: list[int] = field(default_factory=lambda: [-1, -1])
    sums: dict[Group, Sums] = field(default_factory=dict)
    closed: dict[Group, int] = field(default_factory=dict)
    era: int = 0
    era_began: float = 0.0
    topic_ids: dict[str, str] = field(default_factory=dict)

    def has(self, half: PairHalf) -> bool:
        """Whether an answer is counted here."""
        return half.era < self.era or (half.era == self.era and half.offset <= self.marks[half.lane])

    def has_left(self, offset: int, time: float) -> bool:
        """Whether the pair at an offset of `inference.pairs`, answered at a time, has left the state."""
        return time < self.era_began or offset <= self.marks[PAIRS_LANE]

    def is_of_other_topics(self, topic_ids: Mapping[str, str], end: int) -> bool:
        """Whether the topics of the lanes were made anew, or are those of another cluster, since this was made.

        Args:
            topic_ids: as far as the brokers have any.
            end: offset behind the last message of `inference.pairs`.
        """
        return end <= self.marks[PAIRS_LANE] or any(
            topic_ids.get(name, known) != known for name, known in self.topic_ids.items()
        )


def encode_fold(fold: Fold) -> bytes:
    """A `JoinFold`."""
    models = tuple(_model_sums(fold, group) for group in sorted(fold.sums))
    pairs_mark, feedback_mark = fold.marks
    message = JoinFold(
        partition=fold.partition,
        epoch=fold.epoch,
        base=fold.base,
        pairs_mark=pairs_mark,
        feedback_mark=feedback_mark,
        era=fold.era,
        era_began=fold.era_began,
        topic_ids=fold.topic_ids,
        models=models,
    )
    return message.model_dump_json().encode()


def _model_sums(fold: Fold, group: Group) -> ModelSums:
    model, version = group
    return ModelSums(model=model, version=version, sums=dict(fold.sums[group]), closed=fold.closed.get(group, -1))


def decode_fold(value: bytes) -> Fold:
    """What `encode_fold` wrote."""
    message = JoinFold.model_validate_json(value)
    sums = {(one.model, one.version): Sums(one.sums) for one in message.models}
    closed = {(one.model, one.version): one.closed for one in message.models}
    marks = [message.pairs_mark, message.feedback_mark]
    return Fold(
        message.partition,
        message.epoch,
        message.base,
        marks,
        sums,
        closed,
        message.era,
        message.era_began,
        dict(message.topic_ids),
    )


def fold_key(fold: Fold) -> str:
    """With the epoch, so that what a former owner writes does not take the place of what holds."""
    return f"{fold.partition}/{fold.epoch}"


def claimed(fold: Fold, offset: int, alone: bool) -> Fold:
    """The fold that was found, under the epoch of a new owner.

    Args:
        offset: of its claim in the log.
        alone: whether no other claim came after it. Then an epoch that is not above the fold's says that the log is
            new (made anew, or copied to another cluster), or that epochs were once numbered by other means.
    """
    base = fold.epoch if alone and fold.base + offset < fold.epoch else fold.base
    return replace(fold, epoch=base + offset + 1, base=base)


def latest(folds: Iterable[Fold], partition: int) -> Fold:
    """The one that holds: of the last owner, and of its own the furthest; an empty one if there is none."""
    return max(folds, key=lambda one: (one.epoch, one.era, one.marks), default=Fold(partition))


def bring_back(fold: Fold, now: float, window_seconds: float) -> None:
    """Windows that lie ahead cannot have been closed: a pair of a wrong clock did that, when such were still taken."""
    for group, number in fold.closed.items():
        fold.closed[group] = min(number, int(now // window_seconds))
