"""Pairs become arrays by model and type; what does not fit its model is refused alone."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from agents.pairs import ReadPair, groups, read_pairs, unwatched
from schemas.model_spec import InputSpec, ModelSpec, WeightsSpec
from schemas.pairs import PairWriter
from schemas.refusal import Reason, Refusal

LABELS = ("a", "b", "c")


@dataclass
class Message:
    value: bytes | None
    partition: int = 0
    offset: int = 0
    timestamp: float = field(default_factory=time.time)
    headers: list[Any] = field(default_factory=list)


def read(messages: Iterable[Any], specs: dict[str, ModelSpec]) -> tuple[list[ReadPair], list[tuple[Any, Refusal]]]:
    return read_pairs(messages, specs, time.time(), 300.0)


def spec(name: str, shape: tuple[int, ...] = (4, 4, 3)) -> ModelSpec:
    weights = WeightsSpec(framework="null")
    return ModelSpec(name=name, version="1", input=InputSpec(shape=shape), labels=LABELS, weights=weights)


def pair(
    model: str,
    dtype: Any = np.uint8,
    shape: tuple[int, ...] = (4, 4, 3),
    answered: bool = True,
    fill: int = 1,
    ahead: float = 0.0,
) -> bytes:
    images = np.full((1, *shape), fill, dtype)
    probabilities = np.full((1, 3), 1 / 3, np.float32) if answered else None
    writer, now = PairWriter(model, "1", "ab" * 32, LABELS, "CPU:0"), time.time() + ahead
    [value] = writer.encode(
        ["id"], images, [{}], [now], [None], probabilities, [0.0], [0.0], 0.0, 1 if answered else 0, now
    )
    return value


def test_groups_are_by_model_and_type_and_remember_their_places() -> None:
    values = [pair("m"), pair("n"), pair("m", np.float32), pair("m", fill=7)]
    pairs, refused = read(map(Message, values), {"m": spec("m"), "n": spec("n")})
    found = {(group.model, group.images.dtype.name): group for group in groups(pairs, ["m", "n"])}
    assert refused == []
    assert found["m", "uint8"].rows == [0, 3]
    assert found["m", "uint8"].images[1, 0, 0, 0] == 7
    assert found["m", "float32"].rows == [2]
    assert found["n", "uint8"].probabilities.shape == (1, 3)


def test_expired_pairs_and_models_nobody_asked_for_are_in_no_group() -> None:
    pairs, refused = read(map(Message, [pair("m", answered=False), pair("unknown")]), {"m": spec("m")})
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
    pairs, refused = read([Message(value("n", 3.5)), Message(value("n", -1.0))], {"n": numbers})
    [group] = groups(pairs, ["n"])
    assert refused == [] and [read.pair.response.value for read in pairs] == [3.5, -1.0]
    assert (group.images.shape, group.probabilities.shape) == ((2, 4, 4, 3), (2, 0))


def test_an_answer_of_the_other_kind_than_the_models_is_refused() -> None:
    numbers = spec("n").model_copy(update={"task": "regression", "labels": ("people",)})
    _, refused = read([Message(value("m", 3.5)), Message(pair("n"))], {"m": spec("m"), "n": numbers})
    assert [refusal.reason for _, refusal in refused] == [Reason.INVALID_FIELD] * 2
    assert "m has 3 classes" in refused[0][1].detail and "n has 0 classes" in refused[1][1].detail


def test_what_is_no_pair_or_does_not_fit_its_model_is_refused_alone() -> None:
    wrong = orjson.loads(pair("m"))
    wrong["response"]["probabilities"] = [0.5, 0.5]
    messages = [Message(None), Message(b"{"), Message(pair("m", shape=(5, 4, 3))), Message(orjson.dumps(wrong))]
    pairs, refused = read([*messages, Message(pair("m"))], {"m": spec("m")})
    assert len(pairs) == 1
    assert [refusal.reason for _, refusal in refused] == [
        Reason.EMPTY_VALUE,
        Reason.INVALID_JSON,
        Reason.WRONG_SHAPE,
        Reason.INVALID_FIELD,
    ]
    assert [message for message, _ in refused] == messages


def test_an_answer_from_the_future_is_refused_and_names_no_index() -> None:
    early = orjson.loads(pair("m"))
    early["response"]["answered_at"] = "9999-12-31T00:00:00Z"
    messages = [Message(orjson.dumps(early)), Message(pair("m", ahead=400)), Message(pair("unknown", ahead=400))]
    pairs, refused = read([*messages, Message(pair("m", ahead=200))], {"m": spec("m")})
    assert [refusal.reason for _, refusal in refused] == [Reason.IN_FUTURE] * 3
    assert len(pairs) == 1
    assert "response.answered_at" in refused[0][1].detail


def test_a_timestamp_of_kafka_ahead_of_the_readers_clock_is_refused() -> None:
    now = time.time()
    messages = [Message(pair("m"), timestamp=now + ahead) for ahead in (200, 400, 9e15)]
    pairs, refused = read(messages, {"m": spec("m")})
    assert len(pairs) == 1
    assert [(refusal.reason, "Kafka" in refusal.detail) for _, refusal in refused] == [(Reason.IN_FUTURE, True)] * 2


def test_a_pair_without_a_timestamp_is_measured_by_the_readers_clock_and_stands_at_its_answer() -> None:
    messages = [Message(pair("m"), timestamp=-0.001), Message(pair("m", ahead=400), timestamp=-0.001)]
    [found], [(_, refusal)] = read(messages, {"m": spec("m")})
    assert found.time == found.pair.response.answered_at.timestamp()
    assert refusal.reason is Reason.IN_FUTURE


def test_pairs_of_unknown_models_are_told_from_those_without_a_detector() -> None:
    pairs, _ = read([Message(pair("m")), Message(pair("other")), Message(pair("another"))], {"m": spec("m")})
    assert unwatched(pairs) == {"unknown_model": 2}


def test_pairs_of_a_version_of_another_shape_or_with_other_classes_are_no_bad_messages_and_in_no_group() -> None:
    fewer = spec("m").model_copy(update={"version": "2", "labels": ("a", "b")})
    smaller = spec("n", (2, 2, 3)).model_copy(update={"version": "2"})
    pairs, refused = read([Message(pair("m")), Message(pair("n"))], {"m": fewer, "n": smaller})
    assert (refused, unwatched(pairs)) == ([], {"other_version": 2})
    assert groups(pairs, ["m", "n"]) == []
    pairs, refused = read([Message(pair("m"))], {"m": spec("m").model_copy(update={"version": "2"})})
    assert (refused, unwatched(pairs), len(groups(pairs, ["m"]))) == ([], {}, 1)  # one that fits is looked at


def test_a_version_so_long_that_no_record_can_be_named_by_it_is_refused() -> None:
    long = orjson.loads(pair("m"))
    long["response"] |= {"model_version": "1" * 600, "primary": False}
    _, [(_, refusal)] = read([Message(orjson.dumps(long))], {"m": spec("m")})
    assert refusal.reason is Reason.INVALID_ID
