"""What the join's state no longer holds: sums, and the marks that tell what is in them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

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
        closed: by model version, the highest window of which a pair is in the sums.
    """

    partition: int
    epoch: int = 0
    base: int = 0
    marks: list[int] = field(default_factory=lambda: [-1, -1])
    sums: dict[Group, Sums] = field(default_factory=dict)
    closed: dict[Group, int] = field(default_factory=dict)

    def has(self, place: tuple[int, int]) -> bool:
        """Whether the pair at a place is counted here."""
        return place[1] <= self.marks[place[0]]


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
    return Fold(message.partition, message.epoch, message.base, marks, sums, closed)


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
    return max(folds, key=lambda one: (one.epoch, one.marks), default=Fold(partition))
