"""A model folder is taken only if its specification is valid and every listed file is the listed one."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import yaml

from runtime.errors import ConfigurationError
from runtime.model_folder import (
    CHUNK_BYTES,
    ModelFolder,
    load_model_folder,
    load_model_folders,
    sha256_of,
    write_checksums,
)

WEIGHTS = bytes(range(256)) * (CHUNK_BYTES // 256) + b"and a little more than one chunk"
SPEC = {
    "name": "digits",
    "version": "1",
    "input": {"shape": [8, 8, 1]},
    "labels": ["even", "odd"],
    "weights": {"file": "weights.keras"},
}


def make_folder(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump({**SPEC, **changes}), encoding="utf-8")
    (folder / "weights.keras").write_bytes(WEIGHTS)
    (folder / "detectors").mkdir(exist_ok=True)
    (folder / "detectors" / "reference.npy").write_bytes(b"reference")
    (folder / "MODEL_CARD.md").write_text("A card.", encoding="utf-8")
    write_checksums(folder)
    return folder


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_model_folder(folder).verify()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_whole_folder_is_accepted_and_identified_by_its_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    models = load_model_folders(tmp_path)
    assert models == {"digits": load_model_folder(folder)}
    model = models["digits"]
    model.verify(required=["detectors/reference.npy"])
    assert model.weights_sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert model.file("detectors/reference.npy").read_bytes() == b"reference"


def test_the_root_itself_may_be_a_model_beside_its_sub_folders(tmp_path: Path) -> None:
    make_folder(tmp_path, name="outer")
    make_folder(tmp_path / "inner", name="inner")
    (tmp_path / "no-model").mkdir()
    assert {name: model.path for name, model in load_model_folders(tmp_path).items()} == {
        "outer": tmp_path,
        "inner": tmp_path / "inner",
    }


def test_sha256sum_accepts_the_written_list_and_finds_a_changed_file(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    command = ["sha256sum", "--check", "--strict", "checksums.txt"]
    passed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert passed.returncode == 0
    assert passed.stdout.splitlines() == ["detectors/reference.npy: OK", "model.yaml: OK", "weights.keras: OK"]
    (folder / "weights.keras").write_bytes(b"other")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 1


def test_a_list_written_by_sha256sum_is_accepted_in_text_and_binary_form(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    for form in ("--text", "--binary"):
        command = ["sha256sum", form, "weights.keras", "./model.yaml"]
        (folder / "checksums.txt").write_bytes(subprocess.run(command, cwd=folder, capture_output=True).stdout)
        load_model_folder(folder).verify()


@pytest.mark.parametrize("name", ["weights.keras", "detectors/reference.npy", "model.yaml"])
def test_one_changed_byte_in_any_listed_file_is_refused_with_both_hashes(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "digits")
    expected = sha256_of(folder / name)
    with (folder / name).open("ab") as stream:
        stream.write(b" ")
    refused(folder, name, expected, sha256_of(folder / name))


def test_the_card_may_change_without_stopping_the_model(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "MODEL_CARD.md").write_text("A better card.", encoding="utf-8")
    load_model_folder(folder).verify()


def test_unlisted_weights_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "checksums.txt").write_text(f"{sha256_of(folder / 'model.yaml')}  model.yaml\n")
    refused(folder, "checksums.txt", "does not list weights.keras")


def test_an_unlisted_required_file_is_refused(tmp_path: Path) -> None:
    model = load_model_folder(make_folder(tmp_path / "digits"))
    (model.path / "late.npy").write_bytes(b"late")
    with pytest.raises(ConfigurationError, match=r"does not list late\.npy"):
        model.verify(required=["late.npy"])


@pytest.mark.parametrize("name", ["weights.keras", "detectors/reference.npy"])
def test_a_missing_listed_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / name).unlink()
    refused(folder, name, "No such file")


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "checksums.txt").unlink()
    refused(folder, "checksums.txt", "sha256sum")


@pytest.mark.parametrize("line", ["", "abc  weights.keras", "0" * 64 + " weights.keras", "\\" + "0" * 64 + "  a\\nb"])
def test_a_line_that_sha256sum_does_not_write_is_refused_by_number(tmp_path: Path, line: str) -> None:
    folder = make_folder(tmp_path / "digits")
    with (folder / "checksums.txt").open("a") as stream:
        stream.write(line + "\n")
    refused(folder, "checksums.txt, line 4")


@pytest.mark.parametrize("name", ["../weights.keras", "/etc/hostname", "detectors/../../weights.keras"])
def test_a_path_out_of_the_folder_is_refused_as_weights_and_in_the_list(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.keras").write_bytes(WEIGHTS)
    folder = make_folder(tmp_path / "digits", weights={"file": name})
    refused(folder, repr(name), "leads out")
    make_folder(folder)
    with (folder / "checksums.txt").open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")
    refused(folder, repr(name), "leads out")


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(WEIGHTS)
    folder = make_folder(tmp_path / "digits")
    (folder / "weights.keras").unlink()
    (folder / "weights.keras").symlink_to(folder / "detectors" / "reference.npy")
    write_checksums(folder)
    load_model_folder(folder).verify()
    (folder / "weights.keras").unlink()
    (folder / "weights.keras").symlink_to(tmp_path / "elsewhere")
    refused(folder, "weights.keras", "leads out")


def test_two_models_of_one_name_are_refused_naming_both_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "first")
    make_folder(tmp_path / "second")
    with pytest.raises(ConfigurationError, match=r"named digits: .*first and .*second"):
        load_model_folders(tmp_path)


@pytest.mark.parametrize("root", ["empty", "absent"])
def test_no_model_is_refused_naming_the_folder_and_the_setting(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=rf"{tmp_path / root}.*MODELWATCH_MODELS"):
        load_model_folders(tmp_path / root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": []}, ["labels", "at least 1 item"]),
        ({"labels": ["a", "a"]}, ["labels must be distinct"]),
        ({"labels": ["a", " "]}, ["labels.1", "found ' '"]),
        ({"labels": [True, 3]}, ["labels.0", "write it in quotes (found True)", "labels.1"]),
        ({"version": 1}, ["version", "valid string", "in quotes", "found 1"]),
        ({"input": {"kind": "image", "shape": [2, 2, 1], "scale": 1e-300}}, ["input", "scale 1e-300", "127.5"]),
        ({"input": {"kind": "image", "shape": [2, 2, 1], "offset": 1e9}}, ["input", "offset 1e+09"]),
        ({"task": "regression"}, ["task regression has one label", "even, odd"]),
        (
            {
                "task": "regression",
                "labels": ["people"],
                "calibration": {"temperature": 1.1, "images": 10},
                "drift": {"answers": {"kind": "probabilities", "reference": "r.npz"}},
                "explanations": {"policies": {"one_in": 100}},
            },
            ["regression has no classes", "drift.answers, calibration, explanations.policies"],
        ),
        ({"input": {"kind": "sound", "shape": [1]}}, ["input.kind", "'sound'"]),
        ({"weights": {"framework": "keras"}}, ["weights", "weights.file is missing"]),
        ({"name": None, "batch_sizes": ["many"]}, ["name", "batch_sizes.0", "'many'"]),
    ],
)
def test_each_wrong_field_is_named_in_one_line(tmp_path: Path, changes: dict[str, object], words: list[str]) -> None:
    refused(make_folder(tmp_path / "digits", **changes), "model.yaml", *words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"name: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "the whole file"),
        (b"- 1", "the whole file"),
        (b"name: a\nwindow:\n  stride: 1\n  stride: 2\n", "stride is there twice, in lines 3 and 4"),
    ],
)
def test_a_file_that_is_no_specification_is_refused(tmp_path: Path, content: bytes, word: str) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "model.yaml").write_bytes(content)
    refused(folder, "model.yaml", word)


def test_yaml_cannot_construct_python_objects(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "model.yaml").write_text("name: !!python/object/apply:os.getcwd []\n")
    refused(folder, "not valid YAML")


def test_a_model_without_weights_is_identified_by_its_specification_and_needs_no_list(tmp_path: Path) -> None:
    folder = tmp_path / "echo"
    folder.mkdir()
    content = yaml.safe_dump({**SPEC, "weights": {"framework": "null"}}).encode()
    (folder / "model.yaml").write_bytes(content)
    model = load_model_folder(folder)
    assert isinstance(model, ModelFolder)
    assert model.weights_sha256 == hashlib.sha256(content).hexdigest()
    model.verify()
    (folder / "checksums.txt").write_text(f"{'0' * 64}  model.yaml\n")
    refused(folder, "model.yaml", "0" * 64, model.weights_sha256)


def test_every_unknown_field_is_refused_with_the_nearest_at_every_level(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "digits",
        batch_size=[1],
        windows={"window_size": 100},
        outlier={},
        input={"shape": [8, 8, 1], "scal": 255},
        drift={"one": {"kind": "probabilities", "reference": "r.npz", "pvalue": 0.1}},
        explanations={"policies": {"outlier": True}},
        labels=[],
    )
    refused(
        folder,
        "batch_size: there is no such field; did you mean batch_sizes?",
        "windows: there is no such field; did you mean window?",
        "outlier: there is no such field; did you mean outliers?",
        "input.scal: there is no such field; did you mean scale?",
        "drift.one.pvalue: there is no such field; did you mean p_value?",
        "explanations.policies.outlier: there is no such field; did you mean outliers?",
        "labels: ",
    )


def test_every_folder_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_folder(tmp_path / name, version="")
    make_folder(tmp_path / "three")
    with pytest.raises(ConfigurationError) as caught:
        load_model_folders(tmp_path)
    assert f"{tmp_path / 'one'}" in str(caught.value) and f"{tmp_path / 'two'}" in str(caught.value)


def test_every_file_that_is_not_as_listed_is_told_at_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "digits")
    (folder / "weights.keras").write_bytes(b"other")
    (folder / "detectors" / "reference.npy").unlink()
    with pytest.raises(ConfigurationError, match=r"reference\.npy cannot be read.*weights\.keras is not the file"):
        load_model_folder(folder).verify()


def test_a_detectors_file_outside_the_folder_is_one_problem_among_others(tmp_path: Path) -> None:
    drift = {"one": {"kind": "probabilities", "reference": "../../etc/passwd"}}
    folder = make_folder(tmp_path / "digits", drift=drift)
    (folder / "weights.keras").write_bytes(b"other")
    model = load_model_folder(folder)
    texts = list(model.problems(model.detector_files))
    assert len(texts) == 2 and "is not the file" in texts[0] and "leads out of the model's folder" in texts[1]
