"""Laws of the predictor with the real framework: no tracing in steady state, harmless padding, clear refusals."""

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.predictor import KerasPredictor, load_predictor
from inference.settings import WorkerSettings
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder, load_model_folders
from schemas.model_spec import ModelSpec
from tests.integration.conftest import MODEL
from tests.integration.workers import PROJECT
from training.datasets import load_split

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
SETTINGS = WorkerSettings()
SHAPE = (4, 4, 3)


class CountingPredictor(KerasPredictor):
    """Notes each time that TensorFlow runs the Python of the model to make a graph of it."""

    def __init__(self, folder: ModelFolder) -> None:
        self.traced: list[str] = []
        super().__init__(folder, SETTINGS)

    def _trace(self, function: Callable[[Any], Any], dtype: Any) -> Any:
        def noted(images: Any) -> Any:
            self.traced.append(dtype.name)
            return function(images)

        return super()._trace(noted, dtype)


def folder_of(path: Path, file: str = "weights.keras") -> ModelFolder:
    spec = {
        "name": "small",
        "version": "1",
        "input": {"shape": SHAPE},
        "labels": ["a", "b", "c"],
        "weights": {"file": file},
    }
    return ModelFolder(path, ModelSpec.model_validate(spec), "0" * 64)


def save_small(file: Path, outputs: Sequence[int] = (3,), shape: Sequence[int] = SHAPE) -> None:
    """A model that scores each image by its pixels."""
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    images = tf_keras.Input(tuple(shape))
    flat = tf_keras.layers.Flatten()(images)
    scores = [tf_keras.layers.Dense(count, activation="softmax")(flat) for count in outputs]
    tf_keras.Model(images, scores[0] if len(scores) == 1 else scores).save(file)


@pytest.fixture(scope="module")
def reference() -> KerasPredictor:
    predictor = load_predictor(load_model_folders(PROJECT / "models")[MODEL], SETTINGS)
    assert isinstance(predictor, KerasPredictor)
    return predictor


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> CountingPredictor:
    path = tmp_path_factory.mktemp("small")
    save_small(path / "weights.keras")
    return CountingPredictor(folder_of(path))


def images_of(count: int, dtype: str = "uint8", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    pixels = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
    return pixels if dtype == "uint8" else pixels.astype(np.float32) / np.float32(255)


def test_no_batch_size_of_any_dtype_causes_tracing_once_the_model_is_loaded(small: CountingPredictor) -> None:
    assert sorted(set(small.traced)) == ["float32", "uint8"]
    before = list(small.traced)
    small.warm_up()
    alone = {dtype: small.predict([images_of(1, dtype)]) for dtype in ("uint8", "float32")}
    for count in range(1, 129):
        for dtype in ("uint8", "float32"):
            answer = small.predict([images_of(count, dtype)])
            assert answer.shape == (count, 3)
            assert np.isfinite(answer).all()
    assert small.traced == before
    for dtype, answer in alone.items():
        assert np.array_equal(small.predict([images_of(1, dtype)]), answer)


def test_parts_are_answered_in_order_as_if_they_were_one(small: CountingPredictor) -> None:
    whole = images_of(23)
    parts = [whole[:1], whole[1:9], whole[9:20], whole[20:]]
    assert np.allclose(small.predict(parts), small.predict([whole]), atol=1e-6)


def test_an_answer_stays_as_it_was_when_the_next_batch_is_computed(small: CountingPredictor) -> None:
    first = small.predict([images_of(5)])
    copy = first.copy()
    small.predict([images_of(6)])
    assert np.array_equal(first, copy)


@pytest.mark.parametrize("count", [3, 5, 17])
def test_padding_and_neighbours_do_not_change_an_answer(reference: KerasPredictor, count: int) -> None:
    images = np.array(load_split("test", progress=False)[0][:count])
    alone = np.concatenate([reference.predict([image[np.newaxis]]) for image in images])
    assert np.allclose(reference.predict([images]), alone, atol=1e-4)
    assert np.allclose(reference.predict([images[:1], images[1:]]), alone, atol=1e-4)


def test_bytes_and_floats_of_one_image_are_answered_alike(reference: KerasPredictor) -> None:
    images = np.array(load_split("test", progress=False)[0][:32])
    scaled = images.astype(np.float32) / np.float32(255)
    assert np.allclose(reference.predict([images]), reference.predict([scaled]), atol=1e-5)


def test_answers_are_right_and_of_the_device_that_is_there(reference: KerasPredictor) -> None:
    import tensorflow as tf

    images, labels = load_split("test", progress=False)
    answers = reference.predict([np.array(images[:128])])
    assert (answers.argmax(axis=1) == labels[:128]).mean() > 0.85
    assert (reference.device == "cpu") == (not tf.config.list_physical_devices("GPU"))


def test_more_images_than_the_largest_batch_are_refused(small: CountingPredictor) -> None:
    with pytest.raises(ValueError, match="129 images"):
        small.predict([images_of(129)])


def damage_nothing_there(file: Path) -> None:
    file.unlink()


def damage_text(file: Path) -> None:
    file.write_text("weights")


def damage_empty(file: Path) -> None:
    file.write_bytes(b"")


def damage_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_empty_archive(file: Path) -> None:
    zipfile.ZipFile(file, "w").close()


def damage_other_archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", '{"module": "nowhere", "class_name": "Nothing", "config": {}}')
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"")


def damage_no_json(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{")


@pytest.mark.parametrize("name", ["weights.keras", "weights.h5"])
@pytest.mark.parametrize("damage", [fault for key, fault in sorted(globals().items()) if key.startswith("damage_")])
def test_a_file_that_is_no_model_is_named_with_what_is_wrong(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    save_small(tmp_path / name)
    damage(tmp_path / name)
    with pytest.raises(ConfigurationError, match=rf"{name} is not a Keras model that can be loaded: ."):
        load_predictor(folder_of(tmp_path, name), SETTINGS)


@pytest.mark.parametrize(
    ("outputs", "shape", "words"),
    [
        pytest.param((4,), SHAPE, "small answers 4 numbers but model.yaml has 3 labels", id="labels"),
        pytest.param((3,), (5, 4, 3), r"small does not take inputs of the shape \(4, 4, 3\)", id="input-shape"),
        pytest.param(
            (3, 2), SHAPE, r"small answers \(n, 3\) and \(n, 2\) but model.yaml has 3 labels", id="two-outputs"
        ),
    ],
)
def test_a_model_that_does_not_fit_its_specification_is_refused(
    tmp_path: Path, outputs: tuple[int, ...], shape: tuple[int, ...], words: str
) -> None:
    save_small(tmp_path / "weights.keras", outputs, shape)
    with pytest.raises(ConfigurationError, match=words):
        load_predictor(folder_of(tmp_path), SETTINGS)


def test_an_h5_file_is_loaded_as_well(tmp_path: Path, small: CountingPredictor) -> None:
    save_small(tmp_path / "weights.h5")
    predictor = load_predictor(folder_of(tmp_path, "weights.h5"), SETTINGS)
    assert np.allclose(predictor.predict([images_of(7)]), small.predict([images_of(7)]), atol=1e-6)
