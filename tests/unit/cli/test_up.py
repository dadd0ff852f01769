"""`modelwatch up` proposes commands that work with the models that there are."""

from pathlib import Path

import pytest
import yaml

from cli.up import first_steps
from runtime.settings import Settings


def model(root: Path, name: str, shape: tuple[int, ...]) -> None:
    (root / name).mkdir(parents=True)
    spec = {"name": name, "version": "1", "input": {"shape": list(shape)}, "labels": ["a", "b"]}
    (root / name / "model.yaml").write_text(yaml.safe_dump(spec | {"weights": {"framework": "null"}}))


@pytest.mark.parametrize(
    ("shapes", "chosen", "produced"),
    [
        ({"only": (32, 32, 3)}, None, "produce cifar10 --count 1000 --prefix try"),
        ({"b": (32, 32, 3), "c": (32, 32, 3), "a": (4,)}, None, "produce cifar10 --count 1000 --prefix try --model b"),
        ({"b": (32, 32, 3), "c": (32, 32, 3)}, "c", "produce cifar10 --count 1000 --prefix try"),
        ({"b": (32, 32, 3), "a": (4,)}, "a", "produce cifar10 --count 1000 --prefix try --model b"),
        ({"wide": (64, 64, 3)}, None, "produce FILE-OR-FOLDER --model wide"),
    ],
)
def test_the_first_commands_name_a_model_where_one_must_be_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], chosen: str | None, produced: str
) -> None:
    for name, shape in shapes.items():
        model(tmp_path, name, shape)
    steps = first_steps(Settings(models=tmp_path, default_model=chosen))
    assert f"modelwatch {produced}" in steps


def test_the_other_terminal_is_told_where_the_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, "a", (4,))
    monkeypatch.setenv("MODELWATCH_MODELS", str(tmp_path))
    assert f"export MODELWATCH_MODELS={tmp_path}" in first_steps(Settings(models=tmp_path))
