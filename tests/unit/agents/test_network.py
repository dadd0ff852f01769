"""A network from arrays and JSON computes what the Keras layers it came from compute, the same in any batch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.network import CONFIG_FILE, WEIGHTS_FILE, CompiledFunction, load_network
from runtime.errors import ConfigurationError
from schemas.model_spec import InputSpec
from training.network_export import export_network


@pytest.fixture(scope="module")
def layers() -> list[Any]:
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    kinds = tf_keras.layers
    model = tf_keras.Sequential(
        [
            kinds.InputLayer((8, 8, 3)),
            kinds.Conv2D(8, 4, strides=2, padding="same", activation="relu"),
            kinds.Conv2D(8, 3, padding="valid", activation="tanh", use_bias=False),
            kinds.Flatten(),
            kinds.Dense(32, bias_initializer="ones"),
            kinds.Reshape((4, 4, 2)),
            kinds.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid"),
        ]
    )
    for weight in model.weights:  # as they are kept
        weight.assign(weight.numpy().astype(np.float16))
    return [model, *model.layers]


@pytest.fixture
def folder(layers: list[Any], tmp_path: Path) -> Path:
    export_network({"all": layers[1:]}, tmp_path)
    return tmp_path


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def compiled(folder: Path) -> CompiledFunction:
    network = load_network(folder)
    return CompiledFunction(lambda x: network.apply("all", x), InputSpec(shape=(8, 8, 3)))


def test_every_kind_of_layer_computes_what_keras_computes(layers: list[Any], folder: Path) -> None:
    shown = images(20)
    expected = layers[0](shown.astype(np.float32) / 255).numpy()
    found = compiled(folder)(shown)
    assert (found.shape, found.dtype) == ((20, 8, 8, 3), np.float32)
    assert np.allclose(found, expected, atol=1e-6)


def test_uint8_and_float32_give_the_same_but_for_rounding(folder: Path) -> None:
    function = compiled(folder)
    scaled = images(9).astype(np.float32) / np.float32(255)
    assert np.allclose(function(images(9)), function(scaled), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8, 31, 128, 300])
def test_an_images_result_is_the_same_to_the_bit_in_any_batch(folder: Path, size: int) -> None:
    function, shown = compiled(folder), images(300)
    parts = [function(shown[start : start + size]) for start in range(0, 300, size)]
    assert np.array_equal(np.concatenate(parts), function(shown[::-1].copy())[::-1])


def test_no_images_give_no_results(folder: Path) -> None:
    assert compiled(folder)(images(0)).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 8, 9, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_images_of_another_shape_or_type_are_refused(folder: Path, wrong: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="8, 8, 3"):
        compiled(folder)(wrong)


def test_pickled_objects_are_refused(folder: Path) -> None:
    np.savez(folder / WEIGHTS_FILE, allow_pickle=True, **{"all/0/kernel": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ConfigurationError, match=r"weights\.npz is not a readable"):
        load_network(folder)


@pytest.mark.parametrize("damage", ["missing array", "other shape", "unknown layer", "no JSON", "cut short"])
def test_a_damaged_network_is_refused_in_one_line(folder: Path, damage: str) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    arrays = dict(np.load(folder / WEIGHTS_FILE))
    if damage == "missing array":
        del arrays["all/3/kernel"]
    elif damage == "other shape":
        arrays["all/3/kernel"] = np.zeros((5, 32), np.float16)
    elif damage == "unknown layer":
        config["parts"]["all"][0]["kind"] = "attention"
    np.savez(folder / WEIGHTS_FILE, **arrays)
    (folder / CONFIG_FILE).write_text("{" if damage == "no JSON" else json.dumps(config))
    if damage == "cut short":
        (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:200])
    with pytest.raises(ConfigurationError) as refused:
        compiled(folder)
    assert "\n" not in str(refused.value)


def test_a_layer_that_the_format_cannot_carry_is_named(tmp_path: Path) -> None:
    import tf_keras

    layer = tf_keras.layers.LSTM(4, name="recurrent")
    with pytest.raises(ConfigurationError, match="recurrent is a LSTM"):
        export_network({"encoder": [layer]}, tmp_path)
    dilated = tf_keras.layers.Conv2D(4, 3, dilation_rate=2, name="dilated")
    with pytest.raises(ConfigurationError, match="dilated has strides"):
        export_network({"encoder": [dilated]}, tmp_path)
