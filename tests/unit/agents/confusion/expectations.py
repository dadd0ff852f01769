"""What the join's counts must be: by the plainest reading of the rules, and by scikit-learn."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, mean_absolute_error, mean_squared_error

from agents.confusion.counts import counts_of
from agents.confusion.entries import Answer, PairHalf, Truth
from agents.confusion.figures import figures
from agents.confusion.partition import PartitionJoin
from agents.confusion.sums import Sums, add
from agents.confusion.truth import resolve
from schemas.refusal import Refusal
from tests.unit.agents.confusion.world import NUMBERS, SPEC, SPECS, Input


def expected(inputs: list[Input]) -> list[tuple[PairHalf, Answer | None]]:
    """Every answer with its final truth, None if it has none, by the plainest reading of the rules."""
    answers = {(name, part.identity): part for name, part in inputs if isinstance(part, PairHalf)}
    return [(pair, truth_about(name, pair, inputs)) for (name, _), pair in answers.items()]


def truth_about(name: str, pair: PairHalf, inputs: list[Input]) -> Answer | None:
    told = [part for other, part in inputs if other == name and isinstance(part, Truth)]
    for truth in sorted(told, key=lambda one: (one.given_at, one.offset), reverse=True):
        if truth.model in (None, pair.model):
            try:
                return resolve(truth.form, SPECS[pair.model])
            except Refusal:
                continue
    return None


def check_classes(
    total: Sums, known: list[tuple[PairHalf, Any]], labels: tuple[str, ...] = SPEC.labels, by_value: bool = True
) -> None:
    """The counts of a version of the classifier are scikit-learn's, over all pairs and by value."""
    joined = [(pair, truth) for pair, truth in known if truth is not None]
    truths, predicted = [truth for _, truth in joined], [pair.predicted for pair, _ in joined]
    size = len(labels)
    matrix = confusion_matrix(truths, predicted, labels=range(size)) if truths else np.zeros((size, size))
    assert (counts_of(total, size).matrix == matrix).all()
    assert total["pairs"] == len(known)
    assert total["labelled"] == len(truths)
    if not by_value:
        return
    values = figures(total, labels)["by_value"]
    assert values.keys() == {pair.value for pair, _ in known} <= set(SPEC.breakdown_values)
    for value, one in values.items():
        assert one.size == sum(pair.value == value for pair, _ in known)
        assert one.labelled == sum(pair.value == value for pair, _ in joined)
        assert one.correct == sum(pair.value == value and pair.predicted == truth for pair, truth in joined)


def check_errors(total: Sums, known: list[tuple[PairHalf, Any]], by_value: bool = True) -> None:
    """The figures of the regression model are scikit-learn's, over all pairs and by value."""
    found = figures(total, NUMBERS.classes)
    parts = [(found["size"], found["labelled"], found["rmse"], found["mae"], known)]
    assert not by_value or found["by_value"].keys() == {pair.value for pair, _ in known}
    for value, one in found["by_value"].items() if by_value else ():
        parts.append((one.size, one.labelled, one.rmse, one.mae, [pair for pair in known if pair[0].value == value]))
    for size, labelled, rmse, mae, own in parts:
        joined = [(truth, pair.predicted) for pair, truth in own if truth is not None]
        assert (size, labelled) == (len(own), len(joined))
        if not joined:
            assert rmse is mae is None
            continue
        truths, predicted = zip(*joined, strict=True)
        assert rmse == pytest.approx(mean_squared_error(truths, predicted) ** 0.5, rel=1e-12, abs=1e-12)
        assert mae == pytest.approx(mean_absolute_error(truths, predicted), rel=1e-12, abs=1e-12)


def check_sums(join: PartitionJoin) -> None:
    """What is counted of a version's lifetime is in its windows or in the fold, each once."""
    for group, total in join.totals.items():
        parts = Sums()
        for key, sums in [*join.windows.items(), *join.fold.sums.items()]:
            add(parts, sums if key[:2] == group else Sums())
        assert parts == total
