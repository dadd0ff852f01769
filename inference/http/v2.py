"""Open Inference Protocol V2's forms: metadata, the tensors of an answer, and the binary extension.

Sources: Open Inference Protocol V2, REST; Triton's extensions "Binary Tensor Data", "Model Configuration" and "Model
Repository".
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from inference.predictor import Outputs
from schemas.headers import HEADER_LENGTH
from schemas.model_spec import ModelSpec
from schemas.payloads.body import AnswerOptions, brief, input_datatype, input_name
from schemas.payloads.tensors import MAX_IMAGES
from schemas.refusal import Reason, Refusal

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
_NOT_OFFERED = {
    "shared_memory_region": "the answer goes over the connection; leave it out",
    "classification": "ask for the outputs `predicted` and `label` instead",
}
_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor of the answer, by its name, and whether its data follows the JSON in binary."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class V2Answer:
    """An answer's body and the headers that say how it is laid out."""

    body: bytes
    content_type: str
    headers: dict[str, str]


def server_metadata() -> dict[str, Any]:
    """Of `GET /v2`."""
    return {"name": "modelwatch", "version": version("modelwatch"), "extensions": EXTENSIONS}


def model_metadata(spec: ModelSpec) -> dict[str, Any]:
    """Of `GET /v2/models/M`; -1 stands for the number of images."""
    shape = [-1, *spec.input.shape]
    return {
        "name": spec.name,
        "versions": [spec.version],
        "platform": f"tensorflow_{spec.weights.framework}",
        "inputs": [{"name": input_name(spec.input), "datatype": input_datatype(spec.input), "shape": shape}],
        "outputs": output_metadata(spec),
    }


def output_metadata(spec: ModelSpec) -> list[dict[str, Any]]:
    """The tensors of a model's answers."""
    name = "probabilities" if spec.classes else "value"
    numbers: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": [-1, len(spec.labels)]}
    if not spec.classes:
        return [numbers]
    return [
        numbers,
        {"name": "predicted", "datatype": "INT64", "shape": [-1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


def model_config(spec: ModelSpec) -> dict[str, Any]:
    """Of `GET /v2/models/M/config`, as far as Triton's form fits: its shapes leave the number of images out."""
    image = {
        "name": input_name(spec.input),
        "data_type": _TYPES[input_datatype(spec.input)],
        "dims": list(spec.input.shape),
    }
    outputs = []
    for one in output_metadata(spec):
        own = {"name": one["name"], "data_type": _TYPES[one["datatype"]], "dims": one["shape"][1:]}
        # A number an image has no shape of its own, which Triton writes so.
        outputs.append(own if own["dims"] else own | {"dims": [1], "reshape": {"shape": []}})
    return {
        "name": spec.name,
        "platform": f"tensorflow_{spec.weights.framework}",
        "backend": "modelwatch",
        "max_batch_size": MAX_IMAGES,
        "input": [image],
        "output": outputs,
    }


def repository_index(specs: list[ModelSpec], ready: bool) -> list[dict[str, str]]:
    """Of `POST /v2/repository/index`."""
    state = "READY" if ready else "UNAVAILABLE"
    reason = "" if ready else "the worker is not ready; /health/ready says why"
    return [{"name": spec.name, "version": spec.version, "state": state, "reason": reason} for spec in specs]


def wanted_outputs(options: AnswerOptions, spec: ModelSpec) -> list[Wanted]:
    """What the caller wants of the answer, in the order asked; everything unless it names some.

    Raises:
        Refusal: INVALID_FIELD, also for another input's name than the model's.
    """
    expected = input_name(spec.input)
    if options.input_name not in (None, expected):
        raise _invalid(f"model {spec.name} has no input {brief(options.input_name)}; its only input is {expected!r}")
    parameters = options.parameters if isinstance(options.parameters, dict) else {}
    binary = _flag(parameters, "binary_data_output", False)
    known = [tensor["name"] for tensor in output_metadata(spec)]
    if options.outputs is None or options.outputs == []:
        return [Wanted(name, binary) for name in known]
    if not isinstance(options.outputs, list):
        raise _invalid(f"outputs must be a list of objects; found {brief(options.outputs)}")
    wanted = [_wanted(one, known, binary, spec) for one in options.outputs]
    if len({one.name for one in wanted}) < len(wanted):
        raise _invalid(f"outputs names one twice: {', '.join(one.name for one in wanted[:10])}")
    return wanted


def _wanted(output: object, known: list[str], binary: bool, spec: ModelSpec) -> Wanted:
    name = output.get("name") if isinstance(output, dict) else None
    if not isinstance(output, dict) or name not in known:
        raise _invalid(f"model {spec.name} has no output {brief(name or output)}; its outputs: {', '.join(known)}")
    parameters = output.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _invalid(f"outputs[].parameters must be an object; found {brief(parameters)}")
    for parameter, remedy in _NOT_OFFERED.items():
        if parameter in parameters:
            raise _invalid(f"{parameter} of output {name!r} is not offered here: {remedy}")
    return Wanted(str(name), _flag(parameters, "binary_data", binary))


def _flag(parameters: dict[str, Any], name: str, otherwise: bool) -> bool:
    value = parameters.get(name, otherwise)
    if not isinstance(value, bool):
        raise _invalid(f"parameter {name} must be true or false; found {brief(value)}")
    return value


def _invalid(detail: str) -> Refusal:
    return Refusal(Reason.INVALID_FIELD, detail)


def encode_answer(spec: ModelSpec, answer_id: str, outputs: Outputs, wanted: list[Wanted]) -> V2Answer:
    """The answer in JSON, with the data wanted in binary behind it.

    Args:
        outputs: (images, labels) float32.
    """
    described = {tensor["name"]: tensor for tensor in output_metadata(spec)}
    tensors, binary = [], []
    for one in wanted:
        tensor = described[one.name] | {"shape": [len(outputs), *described[one.name]["shape"][1:]]}
        values = _VALUES[one.name](spec, outputs)
        if one.binary:
            data = _raw(values)
            binary.append(data)
            tensors.append(tensor | {"parameters": {"binary_data_size": len(data)}})
        else:
            tensors.append(tensor | {"data": values.tolist() if isinstance(values, np.ndarray) else values})
    document = {"model_name": spec.name, "model_version": spec.version, "id": answer_id, "outputs": tensors}
    text = orjson.dumps(document)
    if not binary:
        return V2Answer(text, "application/json", {})
    return V2Answer(b"".join([text, *binary]), "application/octet-stream", {HEADER_LENGTH: str(len(text))})


def _labels(spec: ModelSpec, outputs: Outputs) -> list[str]:
    return [spec.classes[index] for index in outputs.argmax(axis=1).tolist()]


_VALUES: dict[str, Callable[[ModelSpec, Outputs], Any]] = {
    "probabilities": lambda _spec, outputs: outputs.ravel(),
    "value": lambda _spec, outputs: outputs.ravel(),
    "predicted": lambda _spec, outputs: outputs.argmax(axis=1),
    "label": _labels,
}
"""How each output is made of the model's numbers: an array, or a list of texts."""


def _raw(values: Any) -> bytes:
    """Numbers little endian; texts each behind their length in four bytes."""
    if isinstance(values, np.ndarray):
        return values.astype(values.dtype.newbyteorder("<")).tobytes()
    texts = [text.encode() for text in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
