"""Settings: documented completely, read from the environment, and explained when wrong without giving secrets away."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from cli import settings_documents as command
from runtime.errors import ConfigurationError
from runtime.settings import Settings, read_settings, unknown_variables
from runtime.settings_documents import environment_example, settings_page, variables
from schemas.asyncapi import DEFAULT_PARTITIONS

SECRETS = ("kafka_sasl_password", "kafka_ssl_key_password", "elasticsearch_api_key")


class ExampleSettings(Settings):
    """What a process of its own might add."""

    port: int = 9000
    """Another default than the common one."""
    batch: int = Field(8, ge=1)
    """Items at a time. Either one | or many."""
    api_password: SecretStr = Field(SecretStr("hunter2-by-default"), min_length=8)
    """Password of the API."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MODELWATCH_") or name in ("KAFKA_BOOTSTRAP_SERVERS", "ELASTICSEARCH_URL"):
            monkeypatch.delenv(name)


# --- documents ---


def test_the_committed_documents_are_what_the_settings_generate() -> None:
    assert command.main(["--check"]) == 0, "run `python -m cli.settings_documents` and commit what it writes"


def test_every_variable_of_every_process_is_in_both_documents() -> None:
    for path, text in command.documents().items():
        assert path.is_file()
        for _, cls in command.SECTIONS:
            for field in cls.model_fields:
                assert f"{field}".upper() in text, f"{field} in {path}"


def test_a_changed_default_makes_the_documents_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SECTIONS", [*command.SECTIONS, ("Example", ExampleSettings)])
    assert command.main(["--check"]) == 1


def test_a_section_lists_what_its_class_adds_or_changes_and_nothing_else() -> None:
    assert [variable.name for variable in variables(ExampleSettings)] == [
        "MODELWATCH_PORT",
        "MODELWATCH_BATCH",
        "MODELWATCH_API_PASSWORD",
    ]


def test_a_secret_has_no_value_in_any_document_even_if_it_has_a_default() -> None:
    sections = [("Common", Settings), ("Example", ExampleSettings)]
    example, page = environment_example(sections, "make it", {}), settings_page(sections, "make it")
    for field in (*SECRETS, "api_password"):
        assert f"#MODELWATCH_{field.upper()}=\n" in example
        assert f"| `MODELWATCH_{field.upper()}` | not set; secret |" in page
    assert "hunter2" not in example + page


def test_what_is_otherwise_on_another_machine_is_described_instead_of_written() -> None:
    texts = list(command.documents().values())
    assert all("this machine's host name" in text and "the project's `models/`" in text for text in texts)
    assert not [text for text in texts if socket.gethostname() in text or str(command.PROJECT) in text]


def test_a_computed_default_or_a_path_of_this_machine_without_description_is_refused() -> None:
    class Computed(Settings):
        cores: int = Field(default_factory=lambda: 2)
        """Cores to use."""

    class Elsewhere(Settings):
        folder: Path = Path("/somewhere/else")
        """Where."""

    class Silent(Settings):
        silent: int = 1

    for cls, text in ((Computed, "cores"), (Elsewhere, "/somewhere/else"), (Silent, "no docstring")):
        with pytest.raises(ValueError, match=text):
            list(variables(cls))


def test_a_bar_in_a_meaning_does_not_end_the_cell() -> None:
    assert "Either one \\| or many." in settings_page([("Example", ExampleSettings)], "make it")


def test_the_example_read_back_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommenting every line that has a value changes nothing: the values are spelt as they are read."""
    lines = environment_example(command.SECTIONS, "make it", {}).splitlines()
    assigned = [line[1:].partition("=") for line in lines if line.startswith("#") and line[1:2].isalpha()]
    defaults = [read_settings(cls) for _, cls in command.SECTIONS]
    assert len(assigned) > 20
    for name, _, value in assigned:
        if value:
            monkeypatch.setenv(name, value)
    assert [read_settings(cls) for _, cls in command.SECTIONS] == defaults


def test_the_contracts_and_the_settings_agree_on_the_number_of_partitions() -> None:
    assert Settings.model_fields["kafka_partitions"].default == DEFAULT_PARTITIONS


# --- reading ---


def test_a_variable_is_read_and_an_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_PORT", "9999")
    assert read_settings(Settings).port == 9999
    assert read_settings(Settings, port=1).port == 1


@pytest.mark.parametrize(
    ("name", "field", "scheme"),
    [("KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers", ""), ("ELASTICSEARCH_URL", "elasticsearch_url", "http://")],
)
def test_the_servers_have_two_names_and_the_short_one_wins(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, scheme: str
) -> None:
    monkeypatch.setenv(f"MODELWATCH_{name}", f"{scheme}long:1")
    assert getattr(read_settings(Settings), field) == f"{scheme}long:1"
    monkeypatch.setenv(name, f"{scheme}short:1")
    assert getattr(read_settings(Settings), field) == f"{scheme}short:1"


@pytest.mark.parametrize(
    "value", ["127.0.0.1", "a:9092,b", "a:", ":9092", "http://a:9092", "::1", "a:9092 b:9092", "a:9,,"]
)
def test_a_broker_without_a_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The client would take port 9092, where a stranger's broker may be: set-up once made topics on one."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", value)
    with pytest.raises(ConfigurationError, match=r"KAFKA_BOOTSTRAP_SERVERS: '.*' is not host:port"):
        read_settings(Settings)


@pytest.mark.parametrize("value", ["a:9092", "a.b-c:1,10.0.0.1:2, [::1]:3"])
def test_brokers_with_ports_are_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", value)
    assert read_settings(Settings).kafka_bootstrap_servers == value


@pytest.mark.parametrize("value", ["localhost", "127.0.0.1:9200", "http://store", "http://user:secret@store"])
def test_a_record_store_without_scheme_or_port_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ELASTICSEARCH_URL", value)
    with pytest.raises(ConfigurationError, match=r"ELASTICSEARCH_URL: .*https://host:port") as caught:
        read_settings(Settings)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("ELASTICSEARCH_URL", "https://user:secret@store:9200")
    assert read_settings(Settings)


# --- misspelt variables ---


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODELWATCH_BATCHSIZE", "MODELWATCH_BATCH_SIZE"),
        ("MODELWATCH_PIPELINE_DEPHT", "MODELWATCH_PIPELINE_DEPTH"),
        ("MODELWATCH_KAFKA_BOOTSTRAP_SERVER", "MODELWATCH_KAFKA_BOOTSTRAP_SERVERS"),
        ("MODELWATCH_XYZZY", None),
    ],
)
def test_a_misspelt_variable_is_told_with_the_nearest(name: str, meant: str | None) -> None:
    [said] = unknown_variables({name: "abc", "PATH": "/bin"})
    assert said.startswith(f"{name} is set") and (f"did you mean {meant}?" in said if meant else "mean" not in said)


def test_a_variable_of_another_service_or_of_compose_is_no_misspelt_one() -> None:
    every = [name for _, cls in command.SECTIONS for variable in variables(cls) for name in (variable.name,)]
    more = ["MODELWATCH_KAFKA_IMAGE", "MODELWATCH_PUBLISH_WORKER", "MODELWATCH_CACHE", "MODELWATCH_ELASTICSEARCH_URL"]
    assert unknown_variables(dict.fromkeys([*every, *more], "1")) == []


def test_every_variable_of_the_project_is_known() -> None:
    """In manifests, documents and code: whoever copies a name from there is not told that nothing reads it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=command.PROJECT, capture_output=True, check=True, text=True)
    found = set()
    for name in listed.stdout.split("\0"):
        path = command.PROJECT / name
        if path.suffix in (".py", ".md", ".yml", ".yaml", ".env") and path.is_file() and not name.startswith("tests/"):
            found |= set(re.findall(r"\bMODELWATCH_[A-Z0-9_]*[A-Z0-9]\b(?!_|\{)", path.read_text(encoding="utf-8")))
    prefixes = {"MODELWATCH_PUBLISH", "MODELWATCH_KAFKA", "MODELWATCH_KAFKA_SASL", "MODELWATCH_KAFKA_SSL"}
    assert unknown_variables(dict.fromkeys(found - prefixes, "1")) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELWATCH_PORT", "eighty"),
        ("MODELWATCH_PORT", "65536"),
        ("MODELWATCH_PORT", "-1"),
        ("MODELWATCH_LOG_LEVEL", "loud"),
        ("MODELWATCH_KAFKA_PARTITIONS", "0"),
        ("MODELWATCH_KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("MODELWATCH_INSTANCE", "two words"),
    ],
)
def test_a_wrong_setting_is_named_with_the_value_found(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        read_settings(Settings)
    assert str(refused.value).startswith(f"{name}: ")
    assert f"(found {value!r})" in str(refused.value)


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_PORT", "eighty")
    monkeypatch.setenv("MODELWATCH_LOG_FORMAT", "xml")
    with pytest.raises(ConfigurationError, match=r"MODELWATCH_PORT: .*; MODELWATCH_LOG_FORMAT: "):
        read_settings(Settings)


def test_a_wrong_secret_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWATCH_API_PASSWORD", "s3cr3t")  # shorter than it must be
    with pytest.raises(ConfigurationError, match="MODELWATCH_API_PASSWORD: ") as refused:
        read_settings(ExampleSettings)
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_is_neither_in_the_text_nor_in_the_dump_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv(f"MODELWATCH_{field.upper()}", "s3cr3t-value")
    settings = read_settings(Settings)
    assert getattr(settings, field).get_secret_value() == "s3cr3t-value"
    assert "s3cr3t-value" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_cannot_be_changed_after_reading() -> None:
    settings = read_settings(Settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
