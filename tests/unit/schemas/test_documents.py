"""The generated documents: fresh, the same each time, valid, and telling apart what the models tell apart."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from schemas import documents, generated_files, headers
from schemas.asyncapi import EVENT_HEADERS, asyncapi_document
from schemas.base import Message
from schemas.generated_files import replace_section, write_or_check
from schemas.json_schema import TRUTH_FORMS, message_schemas
from schemas.letters import OURS, dead_letter
from schemas.messages import MESSAGES, Feedback
from schemas.model_spec import ModelSpec
from schemas.payloads import CONTENT_TYPES, DecodedRequest, decode_request
from schemas.refusal import Reason, Refusal
from schemas.request_formats import REQUEST_FORMATS
from schemas.services import SERVICES
from schemas.topics import TOPICS, topic_configs

PROJECT = Path(__file__).resolve().parents[3]
GOLDEN = sorted((PROJECT / "tests" / "golden").glob("v*/*.json"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def by_name(path: Path) -> type[Message]:
    return next(model for model in MESSAGES if model.__name__ == path.stem.partition("-")[0])


def validator(model: type[Message]) -> Draft202012Validator:
    return Draft202012Validator(read(documents.GENERATED / f"{model.__name__}.json"))


def decode(document: Any) -> DecodedRequest:
    """Decode a JSON request for a model that takes `(2, 2, 3)`."""
    spec = ModelSpec.model_validate(
        {"name": "m", "version": "1", "input": {"shape": (2, 2, 3)}, "labels": ["a"], "weights": {"framework": "null"}}
    )
    found = [("content-type", b"application/json")]
    return decode_request(json.dumps(document).encode(), None, found, 0.0, {"m": spec}, "m")


# --- staleness ---


def test_the_committed_documents_are_what_the_contracts_generate() -> None:
    assert documents.main(["--check"]) == 0, "run `python -m schemas.documents` and commit what it writes"


def test_generating_again_in_another_process_gives_the_same_bytes() -> None:
    program = "import sys; from schemas.documents import documents; sys.stdout.write(repr(sorted(documents().items())))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_a_stale_a_missing_and_a_leftover_file_are_named_and_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, old, missing, leftover = (tmp_path / name for name in ("fresh", "old", "folder/missing", "leftover"))
    for path in (fresh, old, leftover):
        path.write_text("a\n")
    wanted = {fresh: "a\n", old: "b\n", missing: "c\n"}

    assert write_or_check(wanted, ["--check"], "make it", [leftover]) == 1
    said = capsys.readouterr().err
    assert [str(path) in said for path in (fresh, old, missing, leftover)] == [False, True, True, True]
    assert "run `make it`" in said
    assert old.read_text() == "a\n"
    assert not missing.exists()

    assert write_or_check(wanted, [], "make it", [leftover]) == 0
    assert {path: path.read_text() for path in wanted} == wanted
    assert not leftover.exists()
    assert write_or_check(wanted, ["--check"], "make it") == 0


def test_unknown_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_or_check({tmp_path / "file": "a"}, ["--chekc"], "make it") == 2
    assert "--chekc" in capsys.readouterr().err
    assert not (tmp_path / "file").exists()


def test_a_changed_contract_makes_its_documents_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    schemas = message_schemas()
    schemas["Feedback"]["properties"]["note"] = {"type": "string"}
    monkeypatch.setattr(documents, "message_schemas", lambda: schemas)
    stale = generated_files.stale(documents.documents())
    assert stale == [documents.GENERATED / "Feedback.json"]


@pytest.mark.parametrize("page", ["", "<!-- generated: a -->", "<!-- end of generated: a --><!-- generated: a -->"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="generated: a"):
        replace_section(page, "a", "content")


def test_a_section_is_replaced_and_the_rest_of_the_page_kept() -> None:
    page = "head\n<!-- generated: a -->old<!-- end of generated: a -->\ntail"
    once = replace_section(page, "a", "new")
    assert once == "head\n<!-- generated: a -->\n\nnew\n\n<!-- end of generated: a -->\ntail"
    assert replace_section(once, "a", "new") == once


# --- JSON Schemas ---


@pytest.mark.parametrize("model", MESSAGES, ids=lambda model: model.__name__)
def test_a_schema_is_valid_names_its_version_and_refers_to_nothing_outside_itself(model: type[Message]) -> None:
    text = (documents.GENERATED / f"{model.__name__}.json").read_text()
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    version = {"JoinEntry": 2}.get(model.__name__, 1)
    assert schema["$id"] == f"urn:modelwatch:{model.__name__}:{version}"
    assert text.endswith("}\n")
    assert all(reference.startswith("#/$defs/") for reference in re.findall(r'"\$ref": "([^"]*)"', text))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_messages_and_what_the_models_write_are_valid(path: Path) -> None:
    model = by_name(path)
    check = validator(model)
    check.validate(read(path))
    check.validate(json.loads(model.model_validate_json(path.read_bytes()).model_dump_json()))


def mutations(model: type[Message], message: Any) -> Iterator[tuple[str, Any]]:
    """Messages that are each wrong in one way."""
    for field in model.model_json_schema().get("required", []):
        yield f"without {field}", {name: value for name, value in message.items() if name != field}
    for field, value in message.items():
        if value is not None:
            yield f"{field} is an object of nothing known", message | {field: {"?": {}}}
        if field == "schema_version":
            yield "version 0", message | {field: 0}


@pytest.mark.parametrize("path", [path for path in GOLDEN if "-" not in path.stem] + GOLDEN[:1], ids=lambda p: p.stem)
def test_whatever_the_schema_refuses_in_a_mutated_message_the_model_refuses_and_the_reverse(path: Path) -> None:
    model, message = by_name(path), read(path)
    check, refused = validator(model), 0
    for what, mutant in mutations(model, message):
        try:
            model.model_validate(mutant)
            accepted = True
        except ValidationError:
            accepted = False
        assert check.is_valid(mutant) == accepted, what
        refused += not accepted
    assert refused >= 2


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("InferencePair", ("request", "image", "dtype"), "float64"),
        ("InferencePair", ("request", "image", "data"), 12),
        ("InferencePair", ("response", "confidence"), 1.5),
        ("InferencePair", ("response", "timings", "queue"), -1),
        ("InferencePair", ("response", "outcome"), "late"),
        ("DriftReport", ("closed_by",), "boredom"),
        ("DriftReport", ("detectors", "ks-encoder", "p_values"), [2]),
        ("DriftReport", ("size",), 0),
        ("FeatureVector", ("position", "offset"), -1),
        ("PerformanceReport", ("confusion",), [[0.5]]),
        ("Explanation", ("outcome",), "maybe"),
    ],
)
def test_wrong_values_deep_inside_are_refused_by_schema_and_model(name: str, path: tuple[str, ...], value: Any) -> None:
    file = PROJECT / "tests" / "golden" / "v1" / f"{name}.json"
    message = read(file)
    part = message
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    assert not validator(by_name(file)).is_valid(message)
    with pytest.raises(ValidationError):
        by_name(file).model_validate(message)


@pytest.mark.parametrize("count", range(len(TRUTH_FORMS) + 1))
def test_the_schema_knows_that_feedback_has_exactly_one_form_of_truth(count: int) -> None:
    values: dict[str, Any] = dict(zip(TRUTH_FORMS, (1, "truck", [0, 1], [0.5, 0.5], 2.5, [3], [3, 4]), strict=True))
    message = {"request_id": "truck-1", "given_at": "2026-03-02T09:30:00Z"}
    message |= {form: values[form] if index < count else None for index, form in enumerate(TRUTH_FORMS)}
    assert validator(Feedback).is_valid(message) == (count == 1)


# --- AsyncAPI ---


def test_every_topic_is_a_channel_with_the_configuration_it_is_created_with() -> None:
    channels = asyncapi_document()["channels"]
    assert list(channels) == [topic.name for topic in TOPICS]
    for topic, config in topic_configs():
        channel = channels[topic.name]
        assert channel["address"] == topic.name
        configured = channel["bindings"]["kafka"]["topicConfiguration"]
        assert configured == {
            "cleanup.policy": [config["cleanup.policy"]],
            "retention.ms": int(config["retention.ms"]),
            "max.message.bytes": int(config["max.message.bytes"]),
        }


def test_every_reference_resolves() -> None:
    document = read(documents.GENERATED / "asyncapi.json")
    references = re.findall(r'"\$ref": "([^"]*)"', json.dumps(document))
    assert references
    for reference in references:
        part = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_every_topic_has_a_sender_and_a_receiver_and_every_service_but_those_of_people_writes_dead_letters() -> None:
    assert {topic for service in SERVICES for topic in service.sends} == set(TOPICS)
    assert {topic for service in SERVICES for topic in service.receives} == set(TOPICS)
    silent = [service.name for service in SERVICES if "inference.dead-letters" not in {t.name for t in service.sends}]
    assert silent == ["operators", "callers"]


def test_the_headers_are_those_that_we_write() -> None:
    event = headers.event_headers("id", "type", "/source", "2026-03-01T12:00:00Z", "model", None)
    assert {name for name, _ in event} == set(EVENT_HEADERS)
    refusal = Refusal(Reason.OVERSIZE, "too large")
    letter = dead_letter(b"k", b"v", [("model", b"m")], ("topic", 0, 1), "inference", refusal)
    assert tuple(name for name, _ in letter.headers) == ("model", *OURS)


def test_there_is_a_message_for_every_content_type_and_no_other() -> None:
    assert {form.content_type for form in REQUEST_FORMATS} == set(CONTENT_TYPES)


@pytest.mark.parametrize("form", [form for form in REQUEST_FORMATS if form.example], ids=lambda form: form.name)
def test_the_examples_are_valid_and_the_worker_would_take_them(form: Any) -> None:
    Draft202012Validator(form.schema).validate(form.example)
    assert decode(form.example).images.shape == (1, 2, 2, 3)


@pytest.mark.parametrize("form", [form for form in REQUEST_FORMATS if form.example], ids=lambda form: form.name)
def test_what_the_schema_of_a_request_calls_required_the_worker_refuses_without(form: Any) -> None:
    (field,) = form.schema["required"]
    without = copy.deepcopy(form.example)
    del without[field]
    assert not Draft202012Validator(form.schema).is_valid(without)
    with pytest.raises(Refusal) as refused:
        decode(without)
    assert refused.value.reason is Reason.MISSING_FIELD
