"""Pairs become arrays by model and type; what does not fit its model is refused alone."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from agents.pairs import groups, read_pairs
from schemas.model_spec import InputSpec, ModelSpec, WeightsSpec
from schemas.pairs import PairWriter
from schemas.refusal import Reason

LABELS = ("a", "b", "c")


@dataclass
class Message:
    value: bytes | None
    partition: int = 0
    offset: int = 0
    headers: list[Any] = field(default_factory=list)


def spec(name: str, shape: tuple[int, ...] = (4, 4, 3)) -> ModelSpec:
    weights = WeightsSpec(framework="null")
    return ModelSpec(name=name, version="1", input=InputSpec(shape=shape), labels=LABELS, weights=weights)


def pair(
    model: str, dtype: Any = np.uint8, shape: tuple[int, ...] = (4, 4, 3), answered: bool = True, fill: int = 1
) -> bytes:
    images = np.full((1, *shape), fill, dtype)
    probabilities = np.full((1, 3), 1 / 3, np.float32) if answered else None
    writer, now = PairWriter(model, "1", "ab" * 32, LABELS, "CPU:0"), time.time()
    [value] = writer.encode(
        ["id"], images, [{}], [now], [None], probabilities, [0.0], [0.0], 0.0, 1 if answered else 0, now
    )
    return value


def test_groups_are_by_model_and_type_and_remember_their_places() -> None:
    values = [pair("m"), pair("n"), pair("m", np.float32), pair("m", fill=7)]
    pairs, refused = read_pairs(map(Message, values), {"m": spec("m"), "n": spec("n")})
    found = {(group.model, group.images.dtype.name): group for group in groups(pairs, ["m", "n"])}
    assert refused == []
    assert found["m", "uint8"].rows == [0, 3]
    assert found["m", "uint8"].images[1, 0, 0, 0] == 7
    assert found["m", "float32"].rows == [2]
    assert found["n", "uint8"].probabilities.shape == (1, 3)


def test_expired_pairs_and_models_nobody_asked_for_are_in_no_group() -> None:
    pairs, refused = read_pairs(map(Message, [pair("m", answered=False), pair("unknown")]), {"m": spec("m")})
    assert (len(pairs), refused) == (2, [])
    assert groups(pairs, ["m"]) == []


def value(model: str, number: float) -> bytes:
    writer, now = PairWriter(model, "1", "ab" * 32, ["people"], "CPU:0", "regression"), time.time()
    outputs = np.array([[number]], np.float32)
    [pair] = writer.encode(
        ["id"], np.ones((1, 4, 4, 3), np.uint8), [{}], [now], [None], outputs, [0.0], [0.0], 0.0, 1, now
    )
    return pair


def test_pairs_of_a_regression_model_have_images_to_look_at_and_no_probabilities() -> None:
    numbers = spec("n").model_copy(update={"task": "regression", "labels": ("people",)})
    pairs, refused = read_pairs([Message(value("n", 3.5)), Message(value("n", -1.0))], {"n": numbers})
    [group] = groups(pairs, ["n"])
    assert refused == [] and [read.pair.response.value for read in pairs] == [3.5, -1.0]
    assert (group.images.shape, group.probabilities.shape) == ((2, 4, 4, 3), (2, 0))


def test_an_answer_of_the_other_kind_than_the_models_is_refused() -> None:
    numbers = spec("n").model_copy(update={"task": "regression", "labels": ("people",)})
    _, refused = read_pairs([Message(value("m", 3.5)), Message(pair("n"))], {"m": spec("m"), "n": numbers})
    assert [refusal.reason for _, refusal in refused] == [Reason.INVALID_FIELD] * 2
    assert "m has 3 classes" in refused[0][1].detail and "n has 0 classes" in refused[1][1].detail


def test_what_is_no_pair_or_does_not_fit_its_model_is_refused_alone() -> None:
    wrong = orjson.loads(pair("m"))
    wrong["response"]["probabilities"] = [0.5, 0.5]
    messages = [Message(None), Message(b"{"), Message(pair("m", shape=(5, 4, 3))), Message(orjson.dumps(wrong))]
    pairs, refused = read_pairs([*messages, Message(pair("m"))], {"m": spec("m")})
    assert len(pairs) == 1
    assert [refusal.reason for _, refusal in refused] == [
        Reason.EMPTY_VALUE,
        Reason.INVALID_JSON,
        Reason.WRONG_SHAPE,
        Reason.INVALID_FIELD,
    ]
    assert [message for message, _ in refused] == messages
