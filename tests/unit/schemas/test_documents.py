"""The generated documents: fresh, the same each time, valid, and telling apart what the models tell apart."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from pydantic import ValidationError

from schemas import documents, generated_files, headers
from schemas.asyncapi import DEAD_LETTER_HEADERS, EVENT_HEADERS, asyncapi_document
from schemas.base import Message
from schemas.generated_files import replace_section, write_or_check
from schemas.json_schema import TRUTH_FORMS, message_schemas
from schemas.markdown import REASON_MEANINGS, message_tables, reason_table, topic_table
from schemas.messages import MESSAGES, ExplanationRequest, Feedback
from schemas.model_spec import ModelSpec
from schemas.payloads import CONTENT_TYPES, decode_request
from schemas.refusal import Reason, Refusal
from schemas.request_formats import REQUEST_FORMATS
from schemas.services import SERVICES
from schemas.topics import MAX_REQUEST_BYTES, TOPICS, topic_configs

PROJECT = Path(__file__).resolve().parents[3]
GOLDEN = sorted((PROJECT / "tests" / "golden").glob("v*/*.json"))
PAGE = (PROJECT / "docs" / "messages.md").read_text()
COMMANDS = dict(re.findall(r"```sh name=(\w+)\n(.*?)```", PAGE, re.DOTALL))
BASH = shutil.which("bash") or "/bin/bash"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def by_name(path: Path) -> type[Message]:
    return next(model for model in MESSAGES if model.__name__ == path.stem.partition("-")[0])


def validator(model: type[Message]) -> Draft202012Validator:
    return Draft202012Validator(read(documents.GENERATED / f"{model.__name__}.json"))


def spec(shape: tuple[int, ...] = (32, 32, 3), name: str = "cifar10-resnet32") -> dict[str, ModelSpec]:
    return {
        name: ModelSpec.model_validate(
            {"name": name, "version": "1", "input": {"shape": shape}, "labels": ["a"], "weights": {"framework": "null"}}
        )
    }


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
    assert schema["$id"] == f"urn:modelwatch:{model.__name__}:1"
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
    values: dict[str, Any] = dict(zip(TRUTH_FORMS, (1, "truck", [0, 1], [0.5, 0.5]), strict=True))
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


def test_every_topic_has_a_sender_and_a_receiver_and_every_service_but_the_callers_writes_dead_letters() -> None:
    assert {topic for service in SERVICES for topic in service.sends} == set(TOPICS)
    assert {topic for service in SERVICES for topic in service.receives} == set(TOPICS)
    silent = [service.name for service in SERVICES if "inference.dead-letters" not in {t.name for t in service.sends}]
    assert silent == ["callers"]


def test_the_headers_are_those_that_we_write() -> None:
    event = headers.event_headers("id", "type", "/source", "2026-03-01T12:00:00Z", "model", None)
    assert {name for name, _ in event} == set(EVENT_HEADERS)
    letter = headers.dead_letter_headers([("model", b"m")], "topic", 0, 1, "inference", "oversize", "too large")
    assert tuple(name for name, _ in letter) == ("model", *DEAD_LETTER_HEADERS)


def test_there_is_a_message_for_every_content_type_and_no_other() -> None:
    assert {form.content_type for form in REQUEST_FORMATS} == set(CONTENT_TYPES)


@pytest.mark.parametrize("form", [form for form in REQUEST_FORMATS if form.example], ids=lambda form: form.name)
def test_the_examples_are_valid_and_the_worker_would_take_them(form: Any) -> None:
    Draft202012Validator(form.schema).validate(form.example)
    content_type = [("content-type", form.content_type.encode())]
    decoded = decode_request(json.dumps(form.example).encode(), None, content_type, 0.0, spec((2, 2, 3), "m"), "m")
    assert decoded.images.shape == (1, 2, 2, 3)


@pytest.mark.parametrize("form", [form for form in REQUEST_FORMATS if form.example], ids=lambda form: form.name)
def test_what_the_schema_of_a_request_calls_required_the_worker_refuses_without(form: Any) -> None:
    (field,) = form.schema["required"]
    without = copy.deepcopy(form.example)
    del without[field]
    assert not Draft202012Validator(form.schema).is_valid(without)
    with pytest.raises(Refusal) as refused:
        content_type = [("content-type", form.content_type.encode())]
        decode_request(json.dumps(without).encode(), None, content_type, 0.0, spec((2, 2, 3), "m"), "m")
    assert refused.value.reason is Reason.MISSING_FIELD


# --- the page ---


def test_every_reason_for_refusal_is_explained_and_no_other() -> None:
    assert set(REASON_MEANINGS) == {reason.value for reason in Reason}, "explain it in schemas/markdown.py"
    assert all(f"| `{reason.value}` |" in reason_table() for reason in Reason)
    assert f"larger than {MAX_REQUEST_BYTES >> 20} MiB" in reason_table()


def test_the_tables_name_every_topic_every_message_and_every_field() -> None:
    assert all(f"| `{topic.name}` |" in topic_table() for topic in TOPICS)
    tables = message_tables()
    for model in MESSAGES:
        section = tables.partition(f"### {model.__name__}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}`" in section for field in model.model_fields), model


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", PAGE))
    assert links
    assert links <= anchors


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures of the page's preparation, and a `kcat` that writes its message to files."""
    folder = tmp_path_factory.mktemp("page")
    pixels = np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    recorder = folder / "kcat"
    recorder.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$@" > arguments\n'
        'if [ -f "${@: -1}" ]; then cat "${@: -1}" > value; else head -c -1 <(cat; echo) > value; fi\n'
    )
    recorder.chmod(0o755)
    return folder


def run(shell: Path, commands: str) -> None:
    path = os.pathsep.join([str(shell), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run([BASH, "-ec", commands], cwd=shell, env=environment, check=True, timeout=60)


def sent(shell: Path) -> tuple[bytes, bytes | None, list[tuple[str, bytes | None]], str]:
    """Value, key, headers and topic of the message that `kcat` was asked to produce."""
    given = (shell / "arguments").read_text().splitlines()
    options = list(zip(given, given[1:], strict=False))
    keys = [value.encode() for option, value in options if option == "-k"]
    found: list[tuple[str, bytes | None]] = []
    for option, value in options:
        if option == "-H":
            name, _, content = value.partition("=")
            found.append((name, content.encode()))
    (topic,) = [value for option, value in options if option == "-t"]
    assert ("-X", "partitioner=murmur2_random") in options
    return (shell / "value").read_bytes(), keys[0] if keys else None, found, topic


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("png", "truck-1"),
        ("jpeg", "truck-2"),
        ("npy", "truck-3"),
        ("json", "truck-4"),
        ("v2", "truck-5"),
        ("v1", "truck-6"),
    ],
)
def test_the_commands_of_the_page_send_what_the_worker_takes(shell: Path, name: str, request_id: str) -> None:
    run(shell, COMMANDS["prepare"] + COMMANDS[name])
    value, key, found, topic = sent(shell)
    decoded = decode_request(value, key, found, 0.0, spec(), "cifar10-resnet32")
    assert topic == "inference.requests"
    assert decoded.request_ids == [request_id]
    pixels = np.load(shell / "truck.npy")
    received = decoded.images[0] if name != "jpeg" else pixels  # JPEG loses detail
    np.testing.assert_array_equal(received, pixels)


@pytest.mark.parametrize(("name", "model"), [("feedback", Feedback), ("question", ExplanationRequest)])
def test_feedback_and_questions_of_the_page_parse(shell: Path, name: str, model: type[Message]) -> None:
    run(shell, COMMANDS[name])
    value, key, _, topic = sent(shell)
    message = model.model_validate_json(value)
    assert key is not None
    assert key.decode() == message.request_id  # type: ignore[attr-defined]
    assert next(one for one in TOPICS if one.name == topic).message is model
