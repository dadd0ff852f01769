"""Open Inference Protocol V2 as its stock client speaks it, by default in binary."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from schemas.payloads.encode import encode_png
from tests.serving import PETS, SHAPE, Served, serving

IMAGES = np.stack([np.full(SHAPE, 51, np.uint8), np.full(SHAPE, 204, np.uint8)])
BRIGHTNESS = [[0.8, 0.2], [0.2, 0.8]]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(served.address)
    yield made
    made.close()


def tensor(data: NDArray[Any], datatype: str, binary: bool, name: str = "image") -> triton.InferInput:
    made = triton.InferInput(name, list(data.shape), datatype)
    return made.set_data_from_numpy(data, binary_data=binary)


def asked(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


@pytest.mark.parametrize("binary_output", [None, True, False], ids=["default", "binary", "json"])
@pytest.mark.parametrize("binary_input", [True, False], ids=["binary", "json"])
def test_the_answer_is_the_same_in_binary_and_in_json(
    client: triton.InferenceServerClient, binary_input: bool, binary_output: bool | None
) -> None:
    names = ("probabilities", "predicted", "label")
    outputs = None if binary_output is None else asked(*names, binary=binary_output)
    result = client.infer("pets", [tensor(IMAGES, "UINT8", binary_input)], outputs=outputs, request_id="two")
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("pets", "7", "two")
    assert [one["name"] for one in response["outputs"]] == list(names)
    assert all(("data" in one) == (binary_output is False) for one in response["outputs"])
    assert result.as_numpy("probabilities").dtype == np.float32
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-6)
    assert result.as_numpy("predicted").tolist() == [0, 1]
    labels = [text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("label").tolist()]
    assert labels == ["dark", "bright"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("UINT8", "u1"),
        ("UINT16", "u2"),
        ("UINT32", "u4"),
        ("UINT64", "u8"),
        ("INT16", "i2"),
        ("INT32", "i4"),
        ("INT64", "i8"),
    ],
)
def test_an_integer_of_any_width_is_a_value_before_scaling(
    client: triton.InferenceServerClient, datatype: str, dtype: str, binary: bool
) -> None:
    result = client.infer("pets", [tensor(IMAGES.astype(dtype), datatype, binary)])
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-6)


@pytest.mark.parametrize(
    ("datatype", "dtype", "binary"),
    [("FP16", "f2", True), ("FP32", "f4", True), ("FP32", "f4", False), ("FP64", "f8", True), ("FP64", "f8", False)],
)
def test_a_floating_point_number_is_what_the_model_takes(
    client: triton.InferenceServerClient, datatype: str, dtype: str, binary: bool
) -> None:
    result = client.infer("pets", [tensor((IMAGES / 255).astype(dtype), datatype, binary)])
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-3)


@pytest.mark.parametrize("binary", [True, False])
def test_a_bool_is_zero_or_one(client: triton.InferenceServerClient, binary: bool) -> None:
    image = np.zeros((1, *SHAPE), bool)
    image[0, 0] = True  # one row of four
    result = client.infer("pets", [tensor(image, "BOOL", binary)])
    np.testing.assert_allclose(result.as_numpy("probabilities"), [[0.75, 0.25]], atol=1e-6)


def test_bytes_are_picture_files(client: triton.InferenceServerClient) -> None:
    files = np.array([encode_png(image) for image in IMAGES], object)
    result = client.infer("pets", [tensor(files, "BYTES", True)])
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_is_unpacked(client: triton.InferenceServerClient, algorithm: str) -> None:
    result = client.infer("pets", [tensor(IMAGES, "UINT8", True)], request_compression_algorithm=algorithm)
    assert result.as_numpy("predicted").tolist() == [0, 1]


def test_only_what_is_asked_for_is_answered_in_the_order_asked(client: triton.InferenceServerClient) -> None:
    outputs = [*asked("label", binary=False), *asked("probabilities", binary=True)]
    result = client.infer("pets", [tensor(IMAGES, "UINT8", True)], outputs=outputs)
    label, probabilities = result.get_response()["outputs"]
    assert (label["name"], label["data"]) == ("label", ["dark", "bright"])
    assert probabilities == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": 16},
    }
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-6)


def test_a_request_without_json_holds_pictures_of_the_models_own_datatype(client: triton.InferenceServerClient) -> None:
    response = client._post(
        "v2/models/pets/infer", IMAGES.tobytes(), {"Inference-Header-Content-Length": "0"}, query_params=None
    )
    result = triton.InferResult(response, verbose=False)
    np.testing.assert_allclose(result.as_numpy("probabilities"), BRIGHTNESS, atol=1e-6)


def test_a_regression_model_and_one_of_rows_are_asked_alike(client: triton.InferenceServerClient) -> None:
    people = client.infer("people", [tensor(IMAGES, "UINT8", True)])
    np.testing.assert_allclose(people.as_numpy("value"), [[0.2], [0.8]], atol=1e-6)
    row = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    rows = client.infer("rows", [tensor(row, "FP32", True, "row")])
    np.testing.assert_allclose(rows.as_numpy("probabilities"), [[0.75, 0.25]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"model_name": "nobody"}, "404", ("unknown_model", "nobody", "pets")),
        ({"model_version": "8"}, "404", ("unknown_model", "'8'", "7")),
        ({"inputs": [tensor(IMAGES, "UINT8", True, "pixels")]}, "400", ("pixels", "'image'")),
        ({"inputs": [tensor(IMAGES, "UINT8", True)] * 2}, "400", ("exactly one tensor",)),
        ({"inputs": [tensor(IMAGES[:, :3], "UINT8", True)]}, "400", ("wrong_shape", "4, 5, 3")),
        ({"inputs": [tensor(IMAGES.astype("i4") + 100, "INT32", True)]}, "400", ("out_of_range", "INT32", "304")),
        ({"outputs": asked("logits", binary=True)}, "400", ("logits", "probabilities, predicted, label")),
        ({"outputs": asked("label", "label", binary=True)}, "400", ("twice", "label")),
        ({"outputs": [triton.InferRequestedOutput("label", class_count=2)]}, "400", ("classification", "predicted")),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_computed(
    served: Served, client: triton.InferenceServerClient, arguments: dict[str, Any], status: str, words: tuple[str, ...]
) -> None:
    before = served.models["pets"].batches
    question = {"model_name": "pets", "inputs": [tensor(IMAGES, "UINT8", True)]} | arguments
    with pytest.raises(InferenceServerException) as refused:
        client.infer(**question)
    assert refused.value.status() == status
    assert all(word in refused.value.message() for word in words), refused.value.message()
    assert served.models["pets"].batches == before


def test_the_version_is_part_of_the_address(client: triton.InferenceServerClient) -> None:
    assert client.infer("pets", [tensor(IMAGES, "UINT8", True)], model_version="7").as_numpy("predicted").tolist()
    assert client.is_model_ready("pets", "7") is True
    assert client.is_model_ready("pets", "8") is False
    assert client.get_model_metadata("pets", "7") == client.get_model_metadata("pets")


def test_the_client_reads_health_metadata_configuration_and_index(
    served: Served, client: triton.InferenceServerClient
) -> None:
    assert (client.is_server_live(), client.is_server_ready(), client.is_model_ready("pets")) == (True, True, True)
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
    ]
    metadata, config = client.get_model_metadata("pets"), client.get_model_config("pets")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": list(SHAPE)}]
    assert [one["name"] for one in config["output"]] == [one["name"] for one in metadata["outputs"]]
    assert [(one["dims"], one.get("reshape")) for one in config["output"][:2]] == [([2], None), ([1], {"shape": []})]
    index = client.get_model_repository_index()
    assert {(one["name"], one["version"], one["state"]) for one in index} >= {("pets", PETS.version, "READY")}
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match=r"not .*loaded by request"):
            change("pets")


def test_liveness_and_readiness_are_those_of_the_process() -> None:
    with serving() as running:
        client = triton.InferenceServerClient(running.address)
        running.health.beat("compute", max_age=-1.0)
        running.health.ready("models", False)
        assert (client.is_server_live(), client.is_server_ready(), client.is_model_ready("pets")) == (False,) * 3
        assert {one["state"] for one in client.get_model_repository_index()} == {"UNAVAILABLE"}
        client.close()
