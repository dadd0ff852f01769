"""TensorFlow Serving V1's forms: status, metadata and predictions.

Source: TensorFlow Serving, RESTful API: "Model status API", "Model Metadata API", "Predict API".
"""

from typing import Any

from inference.predictor import Outputs
from schemas.model_spec import ModelSpec
from schemas.payloads.body import AnswerOptions, brief, input_name
from schemas.refusal import Reason, Refusal

SIGNATURE = "serving_default"


def model_status(spec: ModelSpec, ready: bool) -> dict[str, Any]:
    """Of `GET /v1/models/M`: its one version."""
    status = {"error_code": "OK", "error_message": ""}
    state = "AVAILABLE" if ready else "LOADING"
    return {"model_version_status": [{"version": spec.version, "state": state, "status": status}]}


def model_metadata(spec: ModelSpec) -> dict[str, Any]:
    """Of `GET /v1/models/M/metadata`: one signature with one input and one output; -1 is the number of images."""
    output = "probabilities" if spec.classes else "value"
    signature = {
        "inputs": {input_name(spec.input): _tensor(input_name(spec.input), spec.input.shape)},
        "outputs": {output: _tensor(output, (len(spec.labels),))},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": spec.name, "signature_name": "", "version": spec.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in (-1, *shape)]
    return {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": name}


def check_signature(options: AnswerOptions, spec: ModelSpec) -> None:
    """Refuse with INVALID_FIELD a signature that the model does not have."""
    if options.signature not in (None, "", SIGNATURE):
        raise Refusal(
            Reason.INVALID_FIELD,
            f"model {spec.name} has no signature {brief(options.signature)}; its only one is {SIGNATURE!r}",
        )


def predictions(options: AnswerOptions, outputs: Outputs) -> dict[str, Any]:
    """A row an image, under the name that belongs to the form of the question."""
    return {"outputs" if options.columns else "predictions": outputs.tolist()}
