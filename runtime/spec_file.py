"""Reading a `model.yaml`: everything that is wrong with it, in one line, each with what was probably meant."""

from itertools import chain
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from runtime.errors import ConfigurationError
from runtime.spelling import nearest
from schemas.model_spec import ModelSpec
from schemas.payloads.body import brief

SPEC_FILE = "model.yaml"
YAML_SLIPS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML lets through of values that do not fit their tag, such as the date 2026-99-99, and of deep nesting."""
MAX_DEPTH = 50
MAX_PROBLEMS = 10
"""Of a `model.yaml`, told at once."""


def read_spec(file: Path) -> ModelSpec:
    """A `model.yaml`, validated.

    Raises:
        ConfigurationError: in one line, each field that is wrong, why, and the value found.
    """
    try:
        return ModelSpec.model_validate(_read_yaml(file))
    except ValidationError as error:
        raise ConfigurationError(f"{file} is not a valid model specification: {_one_line(error)}") from None


class _StrictLoader(yaml.SafeLoader):
    """PyYAML takes seconds for a thousand levels, which no specification has; and of a field that stands there twice,
    it keeps the last one in silence."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for name, _ in node.value:
            line = name.start_mark.line + 1
            if isinstance(name, yaml.ScalarNode) and name.value in lines:
                raise yaml.YAMLError(f"{name.value} is there twice, in lines {lines[name.value]} and {line}")
            lines[str(name.value)] = line
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_bytes(), _StrictLoader)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, *YAML_SLIPS) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigurationError(f"{file} is not valid YAML: {reason}") from error


def _one_line(error: ValidationError) -> str:
    problems = []
    wrong = error.errors(include_url=False)
    places = [problem["loc"] for problem in wrong]
    # A list whose items are wrong is told to be too short as well.
    told = [one for one in wrong if one["type"] != "too_short" or not any(one["loc"] == at[:-1] for at in places if at)]
    for problem in told[:MAX_PROBLEMS]:
        field = ".".join(str(part) for part in problem["loc"]) or "the whole file"
        found = "" if problem["type"] == "missing" or not problem["loc"] else f" (found {brief(problem['input'])})"
        said = problem["msg"]
        if problem["type"] == "string_type":
            said = f"{said}; write it in quotes"
        if problem["type"] == "extra_forbidden":
            said, found = (
                f"there is no such field{nearest(str(problem['loc'][-1]), _fields_beside(problem['loc']))}",
                "",
            )
        problems.append(f"{field}: {said}{found}")
    more = len(told) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more else "")


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """The fields that stand where an unknown one was found."""
    kinds: list[Any] = [ModelSpec]
    for part in location[:-1]:
        fields = [kind.model_fields[part] for kind in kinds if str(part) in kind.model_fields]
        kinds = list(chain.from_iterable(_models_in(field.annotation) for field in fields)) or kinds
    return sorted({name for kind in kinds for name in kind.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as `dict[str, Model] | None` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(chain.from_iterable(map(_models_in, get_args(annotation))))
