"""Counts by class, from sums: of a few classes the whole confusion matrix, of many the most frequent mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.confusion.sums import DENSE_CLASSES, LABELS, MAX_MISTAKES, Sums
from schemas.identity import labels_id
from schemas.messages import Mistake

CELL, MISTAKE, HIT, MISSED, FALSE = "cell", "mistake", "hit", "missed", "false"
CLASS_TERMS = (CELL, MISTAKE, HIT, MISSED, FALSE)


@dataclass(frozen=True, eq=False)
class Counts:
    """Of labelled pairs.

    Attributes:
        hits: right answers, by class; (classes,) int64, as the others.
        missed: wrong answers, by the class that was true.
        false: wrong answers, by the class that was answered.
        cells: counts by (truth, predicted); of a model of many classes not all of the wrong ones.
    """

    hits: NDArray[np.int64]
    missed: NDArray[np.int64]
    false: NDArray[np.int64]
    cells: dict[tuple[int, int], int]

    @cached_property
    def matrix(self) -> NDArray[np.int64]:
        """Counts (truth, predicted). For models of few classes."""
        size = len(self.hits)
        matrix = np.zeros((size, size), np.int64)
        for (truth, predicted), count in self.cells.items():
            matrix[truth, predicted] = count
        return matrix

    @property
    def dense(self) -> bool:
        """Whether the matrix is small enough to be told whole."""
        return len(self.hits) <= DENSE_CLASSES

    @property
    def total(self) -> int:
        """Labelled pairs."""
        return int(self.hits.sum() + self.missed.sum())

    def mistakes(self) -> tuple[Mistake, ...]:
        """The most frequent kinds, at most `MAX_MISTAKES`."""
        wrong = [(count, *cell) for cell, count in self.cells.items() if cell[0] != cell[1]]
        most = sorted(wrong, key=lambda one: (-one[0], one[1], one[2]))[:MAX_MISTAKES]
        return tuple(Mistake(truth=truth, predicted=predicted, count=count) for count, truth, predicted in most)


def counts_of(sums: Sums, classes: int) -> Counts:
    """Counts of a model with so many classes; see `fits`."""
    hits, missed, false = (np.zeros(classes, np.int64) for _ in range(3))
    cells: dict[tuple[int, int], int] = {}
    by_name = {HIT: hits, MISSED: missed, FALSE: false}
    for kind, numbers, count in _class_terms(sums):
        if kind in by_name:
            by_name[kind][numbers[0]] += count
            continue
        truth, predicted = numbers
        cells[truth, predicted] = cells.get((truth, predicted), 0) + count
        if kind == CELL and truth == predicted:
            hits[truth] += count
        elif kind == CELL:
            missed[truth] += count
            false[predicted] += count
    return Counts(hits, missed, false, cells)


def fits(sums: Sums, classes: Sequence[str]) -> bool:
    """Whether the sums are of a model with these classes; an earlier version may have had others, or none.

    Of pairs that do not say by which labels they were answered, as many or fewer are taken for these.
    """
    own = LABELS + labels_id(tuple(classes))
    if any(name.startswith(LABELS) and name != own and count > 0 for name, count in sums.items()):
        return False
    is_classifier = any(name.startswith(("estimate:", "confidence")) and count > 0 for name, count in sums.items())
    if not classes:
        return not is_classifier
    highest = max((max(numbers) for _, numbers, _ in _class_terms(sums)), default=0)
    return (is_classifier or not sums["pairs"]) and highest < len(classes)


def _class_terms(sums: Sums) -> list[tuple[str, tuple[int, ...], int]]:
    found = []
    for name, count in sums.items():
        kind, *numbers = name.split(":")
        if kind in CLASS_TERMS:
            found.append((kind, tuple(map(int, numbers)), count))
    return found
