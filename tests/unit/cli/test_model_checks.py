"""`doctor` says all that is wrong with every folder at once; `produce` sends nothing that its model cannot take."""

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cli import doctor
from cli.doctor import Finding
from cli.produce import ProduceOptions, send
from runtime.errors import ConfigurationError
from runtime.model_folder import default_model, model_named, write_checksums
from runtime.settings import PROJECT_MODELS, Settings
from schemas.topics import REQUESTS

SPEC = {
    "name": "mine",
    "version": "1",
    "input": {"shape": [28, 28, 1]},
    "labels": ["a", "b"],
    "weights": {"framework": "null"},
}


def make(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "model.yaml").write_text(yaml.safe_dump(SPEC | {"name": folder.name} | changes))
    return folder


def found(models: Path, load: bool = False, default: str | None = None) -> dict[str, list[Finding]]:
    by_check: dict[str, list[Finding]] = {}
    for finding in doctor._models(Settings(models=models, default_model=default), load):
        by_check.setdefault(finding.check, []).append(finding)
    return by_check


def test_the_doctor_says_all_that_is_wrong_with_every_folder_at_once(tmp_path: Path) -> None:
    typed = make(tmp_path / "typed", windows={"window_size": 100}, outlier={}, version=3)
    make(tmp_path / "good")
    onnx = make(tmp_path / "onnx", weights={"framework": "keras", "file": "model.keras"})
    (onnx / "model.keras").write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.4.0")
    (onnx / "extra.npz").write_bytes(b"1")
    write_checksums(onnx)
    (onnx / "extra.npz").write_bytes(b"2")
    findings = found(tmp_path)
    [slips] = findings["model typed"]
    for said in ("windows: there is no such field; did you mean window?", "did you mean outliers?", "version"):
        assert said in slips.found
    assert [one.ok for one in findings["model good"]] == [True]
    texts = [one.found for one in findings["model onnx"]]
    assert any("extra.npz is not the file that checksums.txt lists" in text for text in texts)
    assert any("looks like ONNX" in text for text in texts)
    assert findings["default model"][0].ok is None  # a note: two models are whole, and none is the default
    assert typed.exists()


def test_the_doctor_names_missing_files_of_detectors(tmp_path: Path) -> None:
    drift = {"columns": {"kind": "probabilities", "reference": "drift/reference.npz"}}
    make(tmp_path / "mine", drift=drift, outliers={"files": "outliers", "threshold": 1.0})
    texts = " ".join(one.found for one in found(tmp_path)["model mine"])
    assert "checksums.txt cannot be read" in texts
    write_checksums(tmp_path / "mine")
    texts = " ".join(one.found for one in found(tmp_path)["model mine"])
    for file in ("drift/reference.npz", "outliers/config.json", "outliers/weights.npz"):
        assert f"does not list {file}" in texts


def test_the_doctor_compares_labels_with_what_a_model_answers(tmp_path: Path) -> None:
    folder = tmp_path / "cifar"
    folder.mkdir()
    source = PROJECT_MODELS / "cifar10-resnet32"
    (folder / "model.keras").write_bytes((source / "resnet32.keras").read_bytes())
    spec = SPEC | {"name": "cifar", "input": {"shape": [32, 32, 3]}, "weights": {"file": "model.keras"}}
    (folder / "model.yaml").write_text(json.dumps(spec))
    write_checksums(folder)
    [finding] = found(tmp_path, load=True)["model cifar"]
    assert finding.ok is False and "answers 10 numbers but model.yaml has 2 labels" in finding.found


def test_a_default_model_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    make(tmp_path / "mine")
    [finding] = found(tmp_path, default="min")["default model"]
    assert finding.ok is False and "did you mean mine?" in finding.found


def test_servers_that_refuse_us_are_no_note_but_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` would be refused as well."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "MODELWATCH_KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    said, remedy = "the brokers and this client do not accept each other", "check the MODELWATCH_KAFKA_SASL_ settings"

    def refuse(_: Settings) -> object:
        raise ConfigurationError(f"{said}; {remedy}")

    [finding] = doctor._attempt("broker", refuse, Settings(), "KAFKA_BOOTSTRAP_SERVERS")  # type: ignore[arg-type]
    assert (finding.ok, finding.found, finding.remedy) == (False, said, remedy)


def test_a_server_that_was_named_must_answer_and_another_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(elasticsearch_url="http://127.0.0.1:1")
    for variable in ("ELASTICSEARCH_URL", "MODELWATCH_ELASTICSEARCH_URL"):
        monkeypatch.delenv(variable, raising=False)
    [finding] = doctor._attempt("record store", doctor._store, settings, "ELASTICSEARCH_URL")
    assert finding.ok is None and "start one with `modelwatch up`" in finding.remedy
    monkeypatch.setenv("MODELWATCH_ELASTICSEARCH_URL", "http://127.0.0.1:1")
    [finding] = doctor._attempt("record store", doctor._store, settings, "ELASTICSEARCH_URL")
    assert finding.ok is False and "is ELASTICSEARCH_URL right" in finding.remedy


# --- the default model ---


def test_a_single_model_is_the_default_and_of_several_none_is(tmp_path: Path) -> None:
    assert default_model(None, ["mine"]) == "mine"
    assert default_model(None, ["mine", "other"]) is None
    assert default_model("other", ["mine", "other"]) == "other"
    make(tmp_path / "mine")
    assert model_named(None, Settings(models=tmp_path)).spec.name == "mine"
    make(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="several models, mine, other; say which"):
        model_named(None, Settings(models=tmp_path))
    with pytest.raises(ConfigurationError, match=r"no model 'othr'; there are mine, other; did you mean other\?"):
        model_named("othr", Settings(models=tmp_path))


# --- produce ---


@pytest.mark.parametrize("model", ["grey", None])
def test_images_that_the_model_does_not_take_are_refused_before_any_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str | None
) -> None:
    make(tmp_path / "grey")
    monkeypatch.setattr("cli.produce.cluster_topics", lambda _settings: {REQUESTS.name: 4})
    monkeypatch.setattr("cli.produce.producer", lambda _settings: pytest.fail("nothing may be sent"))
    with pytest.raises(ConfigurationError, match=r"model grey would refuse this: .*nothing was sent"):
        send(ProduceOptions("cifar10", count=5, model=model), Settings(models=tmp_path), Console(quiet=True))


def test_the_doctor_names_folders_that_are_no_models(tmp_path: Path) -> None:
    make(tmp_path / "good")
    (make(tmp_path / "slip") / "model.yaml").rename(tmp_path / "slip" / "model.yml")
    (tmp_path / "deep").mkdir()
    make(tmp_path / "deep" / "inner")
    (tmp_path / ".hidden").mkdir()
    findings = found(tmp_path)
    assert set(findings) == {"folder deep", "folder slip", "model good", "default model"}
    [slip] = findings["folder slip"]
    assert slip.ok is None and "holds no model.yaml" in slip.found
