"""TensorFlow Serving's predict bodies: `instances`, a row an image, and `inputs`, a column an input of the model.

Source: TensorFlow Serving, RESTful API, "Predict API": row format, column format, "Encoding binary values".
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from schemas.model_spec import InputSpec
from schemas.payloads.body import AnswerOptions, Body, brief, input_name
from schemas.payloads.json_fields import base64_pictures
from schemas.payloads.numbers import NumberText, read_numbers
from schemas.payloads.tensors import count_items, to_images
from schemas.refusal import Reason, Refusal

_BINARY = "b64"


def v1_rows(document: dict[str, Any]) -> Body:
    """A body with `instances`: numbers, pictures, or objects that name the input of each."""
    instances = document["instances"]
    if not isinstance(instances, list | NumberText):
        raise Refusal(Reason.INVALID_FIELD, f"instances must be a list; found {brief(instances)}")
    return Body(images=partial(_rows, instances), options=_options(document, columns=False))


def v1_columns(document: dict[str, Any]) -> Body:
    """A body with `inputs`: an object with the one input's name, or its value alone."""
    return Body(images=partial(_column, document["inputs"]), options=_options(document, columns=True))


def _options(document: dict[str, Any], columns: bool) -> AnswerOptions:
    return AnswerOptions(
        parameters=document.get("parameters"), signature=document.get("signature_name"), columns=columns
    )


def _rows(instances: list[object] | NumberText, spec: InputSpec) -> NDArray[Any]:
    if isinstance(instances, list) and any(isinstance(one, dict) and _BINARY not in one for one in instances):
        instances = [_named(one, "instances", spec) for one in instances]
    return _values(instances, "instances", spec)


def _column(inputs: object, spec: InputSpec) -> NDArray[Any]:
    if isinstance(inputs, dict) and _BINARY not in inputs:
        inputs = _named(inputs, "inputs", spec)
    return _values([inputs] if isinstance(inputs, dict) else inputs, "inputs", spec)


def _named(value: object, field: str, spec: InputSpec) -> object:
    """The value of the model's only input in an object of inputs by name."""
    name = input_name(spec)
    if not isinstance(value, dict) or list(value) != [name]:
        raise Refusal(
            Reason.INVALID_FIELD,
            f'{field} must be nested numbers, {{"{_BINARY}": "..."}}, or an object with the model\'s one input, '
            f"{name!r}; found {brief(value)}",
        )
    return value[name]


def _values(values: object, field: str, spec: InputSpec) -> NDArray[Any]:
    """Images of numbers or of pictures, `(n, *spec.shape)`."""
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        return base64_pictures(_texts(values, field), field, spec)
    numbers, shape = read_numbers(values, spec.shape)
    return to_images(numbers, count_items(shape, spec.shape), spec)


def _texts(values: Sequence[object], field: str) -> list[str]:
    texts = []
    for value in values:
        text = value.get(_BINARY) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise Refusal(
                Reason.INVALID_FIELD,
                f'{field} must be nested numbers or {{"{_BINARY}": "..."}}; found {brief(value)}',
            )
        texts.append(text)
    return texts
