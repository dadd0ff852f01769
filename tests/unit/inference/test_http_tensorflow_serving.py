"""TensorFlow Serving's REST API as its documentation shows it: every form of question, each answer's, and each error's.

The Python packages that speak it are for one model of their author's, or speak gRPC; so curl and plain HTTP ask here.
"""

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pybase64
import pytest

from schemas.payloads.encode import encode_png
from tests.serving import SHAPE, Served, serving

V1 = "/v1/models/pets"
DIM = np.full(SHAPE, 0.2)
BRIGHT = np.full(SHAPE, 0.8)
PNG = {"b64": pybase64.b64encode_as_string(encode_png(np.full(SHAPE, 204, np.uint8)))}
DIM_ROW, BRIGHT_ROW = pytest.approx([0.8, 0.2]), pytest.approx([0.2, 0.8])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


def ask(served: Served, path: str, document: Any = None, method: str | None = None) -> tuple[int, Any]:
    """POST the document, or GET without one; status and JSON."""
    connection = http.client.HTTPConnection(served.address, timeout=30)
    body = None if document is None else json.dumps(document)
    connection.request(method or ("GET" if document is None else "POST"), path, body)  # no content type, as `requests`
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


ROWS = {"instances": [DIM.tolist(), BRIGHT.tolist()]}


@pytest.mark.parametrize(
    ("document", "name", "expected"),
    [
        pytest.param(ROWS, "predictions", [DIM_ROW, BRIGHT_ROW], id="rows"),
        pytest.param({"instances": [{"image": BRIGHT.tolist()}]}, "predictions", [BRIGHT_ROW], id="named rows"),
        pytest.param({"instances": [PNG, PNG]}, "predictions", [BRIGHT_ROW] * 2, id="binary rows"),
        pytest.param({"instances": [{"image": PNG}]}, "predictions", [BRIGHT_ROW], id="named binary rows"),
        pytest.param({"inputs": [DIM.tolist(), BRIGHT.tolist()]}, "outputs", [DIM_ROW, BRIGHT_ROW], id="columns"),
        pytest.param({"inputs": {"image": [BRIGHT.tolist()]}}, "outputs", [BRIGHT_ROW], id="named columns"),
        pytest.param({"inputs": {"image": [PNG, PNG]}}, "outputs", [BRIGHT_ROW] * 2, id="binary columns"),
        pytest.param({"inputs": PNG}, "outputs", [BRIGHT_ROW], id="one binary"),
        pytest.param({"inputs": [PNG]}, "outputs", [BRIGHT_ROW], id="binary column"),
        pytest.param(
            {"signature_name": "serving_default"} | ROWS, "predictions", [DIM_ROW, BRIGHT_ROW], id="signature"
        ),
        pytest.param({"signature_name": ""} | ROWS, "predictions", [DIM_ROW, BRIGHT_ROW], id="no signature"),
    ],
)
def test_every_form_of_the_documentation_is_answered_in_its_own(
    served: Served, document: Any, name: str, expected: list[Any]
) -> None:
    for path in (f"{V1}:predict", f"{V1}/versions/7:predict"):
        assert ask(served, path, document) == (200, {name: expected})


def test_rows_of_a_table_may_stand_in_columns_too(served: Served) -> None:
    row = [0.1, 0.2, 0.3, 0.4]
    for document in ({"inputs": [row]}, {"inputs": row}, {"inputs": {"row": [row]}}):
        assert ask(served, "/v1/models/rows:predict", document) == (200, {"outputs": [pytest.approx([0.75, 0.25])]})


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_as_it_does_unless_told_otherwise(served: Served) -> None:
    document = json.dumps({"instances": [BRIGHT.tolist()]})
    command = ["curl", "-sS", "--noproxy", "*", "-d", document, f"http://{served.address}{V1}:predict"]
    found = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert json.loads(found.stdout) == {"predictions": [BRIGHT_ROW]}


def test_a_regression_model_answers_a_row_of_one_number(served: Served) -> None:
    assert ask(served, "/v1/models/people:predict", {"instances": [BRIGHT.tolist()]}) == (
        200,
        {"predictions": [[pytest.approx(0.8)]]},
    )


def test_status_is_that_of_the_one_version(served: Served) -> None:
    version = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (V1, f"{V1}/versions/7"):
        assert ask(served, path) == (200, {"model_version_status": [version]})


def test_metadata_names_the_signature_its_input_and_its_output(served: Served) -> None:
    status, metadata = ask(served, f"{V1}/metadata")
    assert (status, metadata) == ask(served, f"{V1}/versions/7/metadata")
    assert metadata["model_spec"] == {"name": "pets", "signature_name": "", "version": "7"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    sizes = {
        name: [dimension["size"] for dimension in tensor["tensor_shape"]["dim"]]
        for name, tensor in (signature["inputs"] | signature["outputs"]).items()
    }
    assert sizes == {"image": ["-1", "4", "5", "3"], "probabilities": ["-1", "2"]}


@pytest.mark.parametrize(
    ("path", "document", "status", "words"),
    [
        ("/v1/models/nobody:predict", ROWS, 404, ("unknown_model", "'nobody'", "pets")),
        ("/v1/models/nobody", None, 404, ("unknown_model", "'nobody'")),
        ("/v1/models/nobody/metadata", None, 404, ("unknown_model", "'nobody'")),
        (f"{V1}/versions/8:predict", ROWS, 404, ("unknown_model", "'8'", "known: 7")),
        (f"{V1}/versions/8", None, 404, ("unknown_model", "'8'", "known: 7")),
        (f"{V1}/labels/stable:predict", ROWS, 400, ("version label", "stable")),
        (f"{V1}/labels/stable", None, 400, ("version label", "stable")),
        (f"{V1}:classify", {"examples": [{}]}, 400, (":classify", ":predict")),
        (f"{V1}/versions/7:regress", {"examples": [{}]}, 400, (":regress", ":predict")),
        (f"{V1}:predict", None, 405, ("GET",)),
        (f"{V1}:explain", ROWS, 404, (":explain",)),
        (f"{V1}:predict", {"signature_name": "other"} | ROWS, 400, ("'other'", "serving_default")),
        (f"{V1}:predict", {"instances": [{"pixels": DIM.tolist()}]}, 400, ("pixels", "'image'")),
        (f"{V1}:predict", {"instances": [{"image": 1, "mask": 2}]}, 400, ("mask", "'image'")),
        (f"{V1}:predict", {"instances": [PNG, DIM.tolist()]}, 400, ("invalid_field", "b64")),
        (f"{V1}:predict", {"inputs": {"pixels": [DIM.tolist()]}}, 400, ("pixels", "'image'")),
        (f"{V1}:predict", {"inputs": {}}, 400, ("invalid_field", "'image'")),
        (f"{V1}:predict", {"inputs": [1]}, 400, ("wrong_shape", "4, 5, 3")),
        (f"{V1}:predict", {"inputs": [[]]}, 400, ("wrong_shape", "4, 5, 3")),
        (f"{V1}:predict", {"inputs": {"image": "text"}}, 400, ("invalid_field", "text")),
        (f"{V1}:predict", {"instances": []}, 400, ("wrong_shape",)),
        (f"{V1}:predict", {"instances": [], "inputs": []}, 400, ("invalid_field", "send one")),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_protocols_form(
    served: Served, path: str, document: Any, status: int, words: tuple[str, ...]
) -> None:
    found, answer = ask(served, path, document)
    assert (found, list(answer)) == (status, ["error"]), answer
    assert all(word in answer["error"] for word in words), answer


def test_head_answers_as_get_without_a_body(served: Served) -> None:
    connection = http.client.HTTPConnection(served.address, timeout=30)
    for path, status in ((V1, 200), ("/v2/health/live", 200), ("/v2/models/nobody", 404)):
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
    connection.close()


def test_an_id_of_cloudevents_http_binding_is_percent_decoded(served: Served) -> None:
    connection = http.client.HTTPConnection(served.address, timeout=30)
    for name, sent, kept in (("ce-id", "caf%C3%A9%201", "café 1"), ("ce_id", "a%20b", "a%20b")):
        connection.request("POST", f"{V1}:predict", json.dumps({"instances": [DIM.tolist()]}), {name: sent})
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
        assert served.recorder.request_ids[-1] == kept
    connection.close()
