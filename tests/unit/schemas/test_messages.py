"""The messages: what earlier versions wrote still parses, and what is wrong is refused with a clear reason."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from schemas.base import Message, utc_now
from schemas.json_schema import message_schemas
from schemas.messages import MESSAGES, Feedback, ImageDtype, InferencePair, InferenceRequest, InferenceResponse, Tensor
from schemas.topics import TOPICS

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
BY_NAME = {model.__name__: model for model in MESSAGES}
FILES = sorted(GOLDEN.glob("v*/*.json"))


def golden(name: str, version: int = 1) -> Any:
    return json.loads((GOLDEN / f"v{version}" / f"{name}.json").read_text())


def model_of(path: Path) -> type[Message]:
    return BY_NAME[path.stem.partition("-")[0]]


def tensor(data: object, shape: tuple[int, ...] = (2, 2, 3), dtype: str = "uint8") -> Tensor:
    return Tensor.model_validate({"dtype": dtype, "shape": shape, "data": data})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_message_of_every_earlier_version_parses_and_survives_being_written_again(path: Path) -> None:
    model = model_of(path)
    message = model.model_validate_json(path.read_bytes())
    assert f"v{message.schema_version}" == path.parent.name
    assert model.model_validate_json(message.model_dump_json()) == message
    assert model.model_validate(message.model_dump()) == message


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_a_golden_message_says_is_what_the_model_holds(path: Path) -> None:
    """Each field of the file comes out of the model as it went in, up to another spelling of the same moment."""
    written = json.loads(path.read_text())
    held = json.loads(model_of(path).model_validate(written).model_dump_json())
    assert _moments_dropped(held, like=written) == _moments_dropped(written, like=written)


def _moments_dropped(value: Any, like: Any) -> Any:
    moments = {"sent_at", "deadline", "answered_at", "given_at", "time", "scored_at", "asked_at"} | {
        "reported_at",
        "explained_at",
        "replayed_at",
        "written_at",
    }
    if isinstance(like, dict):
        return {name: _moments_dropped(value[name], part) for name, part in like.items() if name not in moments}
    if isinstance(like, list):
        assert len(value) == len(like)
        return [_moments_dropped(one, part) for one, part in zip(value, like, strict=True)]
    return value


@pytest.mark.parametrize("model", MESSAGES, ids=lambda model: model.__name__)
def test_every_version_of_every_message_has_a_golden_file(model: type[Message]) -> None:
    current = model.model_fields["schema_version"].default
    for version in range(1, current + 1):
        assert [path for path in FILES if path.parent.name == f"v{version}" and model_of(path) is model]


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic.message], ids=lambda topic: topic.name)
def test_the_message_of_every_topic_is_among_the_messages(topic: Any) -> None:
    assert topic.message in MESSAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fields_of_a_later_version_are_ignored(path: Path) -> None:
    model, written = model_of(path), json.loads(path.read_text())
    newer = written | {"schema_version": 99, "field_of_a_later_version": {"any": ["thing"]}}
    expected = model.model_validate(written).model_copy(update={"schema_version": 99})
    assert model.model_validate(newer) == expected


def test_unknown_fields_of_nested_parts_are_ignored_too() -> None:
    written = golden("InferencePair")
    written["response"]["timings"]["network"] = 0.1
    written["request"]["image"]["colour_space"] = "sRGB"
    assert InferencePair.model_validate(written) == InferencePair.model_validate(golden("InferencePair"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_message_cannot_be_changed(path: Path) -> None:
    message = model_of(path).model_validate_json(path.read_bytes())
    with pytest.raises(ValidationError, match="frozen"):
        message.schema_version = 2  # type: ignore[misc]


@given(st.binary(max_size=200))
def test_any_bytes_survive_base64_in_the_standard_alphabet(data: bytes) -> None:
    image = Tensor(dtype=ImageDtype.UINT8, shape=(len(data),), data=data)
    written = json.loads(image.model_dump_json())["data"]
    assert written == base64.standard_b64encode(data).decode()
    assert Tensor.model_validate_json(image.model_dump_json()) == image


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-_8A", "URL alphabet"),
        ("+/8", "padding missing"),
        ("+/8A====", "padding in excess"),
        ("+/ 8A", "space"),
        ("+/8A\n", "line end"),
        ("truck!", "not base64"),
        ("é/8A", "not ASCII"),
    ],
    ids=lambda value: repr(value),
)
def test_base64_of_any_other_kind_is_refused_and_the_field_named(text: str, why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        tensor(text, (3,))
    (problem,) = refused.value.errors()
    assert problem["loc"] == ("data",), why
    assert problem["type"] == "value_error"
    assert problem["msg"]


def test_the_standard_alphabet_with_plus_and_slash_is_accepted() -> None:
    assert tensor("+/8A", (3,)).data == b"\xfb\xff\x00"


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("uint8", (2, 2, 3), 11), ("uint8", (2, 2, 3), 13), ("float32", (3,), 3), ("float32", (3,), 13), ("uint8", (), 0)],
)
def test_a_tensor_whose_length_does_not_fit_its_shape_is_refused(dtype: str, shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(ValidationError, match=rf"data has {size} bytes; shape .* of {dtype} has \d+"):
        tensor(bytes(size), shape, dtype)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"), [("uint8", (2, 2, 3), 12), ("float32", (3,), 12), ("uint8", (), 1)]
)
def test_a_tensor_whose_length_fits_its_shape_is_accepted(dtype: str, shape: tuple[int, ...], size: int) -> None:
    assert len(tensor(bytes(size), shape, dtype).data) == size


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValidationError, match="uint8"):
        tensor(bytes(24), (3,), "float64")


TRUTHS: dict[str, Any] = {
    "truth_index": 1,
    "truth_label": "truck",
    "truth_one_hot": [0, 1],
    "truth_probabilities": [0.5, 0.5],
    "truth_value": -2.5,
}


@given(st.sets(st.sampled_from(sorted(TRUTHS))))
def test_feedback_has_exactly_one_form_of_truth(forms: set[str]) -> None:
    fields = {"request_id": "truck-1", "given_at": utc_now()} | {form: TRUTHS[form] for form in forms}
    if len(forms) == 1:
        assert Feedback.model_validate(fields).truth_index in (1, None)
        return
    with pytest.raises(ValidationError, match="give exactly one of") as refused:
        Feedback.model_validate(fields)
    got = str(refused.value.errors()[0]["msg"]).partition("; got ")[2]
    assert set(got.split(", ")) == (forms or {"none"})


def test_a_moment_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        InferenceRequest.model_validate(golden("InferenceRequest") | {"sent_at": "2026-03-01T12:00:00"})


def test_an_expired_response_has_no_prediction() -> None:
    response = InferenceResponse.model_validate(golden("InferenceResponse-expired"))
    assert response.predicted is response.label is response.confidence is response.probabilities is None
    assert response.batch_size == 0


@pytest.mark.parametrize("outcome", ["ok", "expired"])
@pytest.mark.parametrize("probabilities", [None, [0.25, 0.75]])
@pytest.mark.parametrize("value", [None, 0.0, -21.5])
def test_an_answer_has_probabilities_or_a_value_and_an_expired_one_has_neither(
    outcome: str, probabilities: Any, value: Any
) -> None:
    written = golden("InferenceResponse-expired") | {"outcome": outcome, "probabilities": probabilities, "value": value}
    given = (probabilities is not None) + (value is not None)
    check = Draft202012Validator(message_schemas()["InferenceResponse"])
    if given == (outcome == "ok"):
        assert InferenceResponse.model_validate(written).value == value
        assert check.is_valid(written)
        return
    assert not check.is_valid(written)
    with pytest.raises(ValidationError, match=f"outcome {outcome} comes with (exactly one|none) of"):
        InferenceResponse.model_validate(written)


@pytest.mark.parametrize("value", [1e39, -1e39, float("inf"), float("nan"), "many"])
def test_a_value_is_a_number_that_a_float32_holds(value: Any) -> None:
    with pytest.raises(ValidationError, match="value"):
        InferenceResponse.model_validate(golden("InferenceResponse-value") | {"value": value})


@pytest.mark.parametrize("request_id", ["", "x" * 513, "画" * 171])
def test_an_id_that_is_empty_or_too_long_is_refused(request_id: str) -> None:
    with pytest.raises(ValidationError, match="request_id"):
        InferenceRequest.model_validate(golden("InferenceRequest") | {"request_id": request_id})


def test_more_attributes_than_allowed_are_refused() -> None:
    attributes = {f"name-{number}": "value" for number in range(17)}
    with pytest.raises(ValidationError, match="attributes"):
        InferenceRequest.model_validate(golden("InferenceRequest") | {"attributes": attributes})
