"""A model that answers NaN about some images: those become dead letters, all others are answered."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import requests as http_client
import yaml

from inference.predictor import load_predictor
from inference.settings import WorkerSettings
from runtime.embedded import EmbeddedServers
from runtime.errors import ConfigurationError
from runtime.model_folder import load_model_folder, write_checksums
from runtime.settings import Settings
from schemas.payloads.encode import encode_npy
from tests.integration.traffic import Traffic
from tests.integration.workers import WorkerProcess
from training.classifier import Classifier

SHAPE = (4, 4, 3)


def save(folder: Path, normalise: bool, activation: str | None, **spec: Any) -> Path:
    """A classifier; with `normalise`, an image of one colour is divided by its deviation, zero."""
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    images = tf_keras.Input(SHAPE)
    flat = tf_keras.layers.Flatten()(images)
    if normalise:
        flat = tf_keras.layers.LayerNormalization(epsilon=0.0)(flat)
    scores = tf_keras.layers.Dense(3, activation=activation, bias_initializer="ones")(flat)
    folder.mkdir(parents=True)
    tf_keras.Model(images, 5 * scores if activation is None else scores).save(folder / "weights.keras")
    described = {"name": folder.name, "version": "1", "input": {"shape": list(SHAPE)}, "labels": ["a", "b", "c"]}
    described |= {"weights": {"file": "weights.keras"}, "batch_sizes": [1, 8, 64], **spec}
    (folder / "model.yaml").write_text(yaml.safe_dump(described))
    write_checksums(folder)
    return folder


def test_one_image_that_cannot_be_answered_does_not_hold_up_its_neighbours(
    own_servers: EmbeddedServers, own_settings: Settings, tmp_path: Path
) -> None:
    save(tmp_path / "models" / "uneasy", True, "softmax")
    traffic = Traffic(own_settings)
    environment = {"MODELWATCH_DEFAULT_MODEL": "uneasy"}
    worker = WorkerProcess(own_servers.kafka, tmp_path, models=tmp_path / "models", environment=environment).start()
    try:
        worker.wait_ready()
        images = np.random.default_rng(3).integers(0, 256, (104, *SHAPE), dtype=np.uint8)
        images[17] = images[101] = 0
        for number in range(100):
            traffic.send(encode_npy(images[number]), "application/x-npy", f"i{number}")
        traffic.send(encode_npy(images[100:]), "application/x-npy", "four")
        traffic.flush()
        good = [f"i{number}" for number in range(100) if number != 17] + ["four-0", "four-2", "four-3"]
        assert set(traffic.pairs(good)) == set(good)
        letters = traffic.dead_letters(["i17", "four"])
        reasons = {key: dict(letter.headers()) for key, letter in letters.items()}
        assert {key: headers["reason"] for key, headers in reasons.items()} == {
            "i17": b"unusable_answer",
            "four": b"unusable_answer",
        }
        assert b"four-1;" in reasons["four"]["error"]
        assert letters["i17"].value() == encode_npy(images[17])
        url = f"{worker.url}/v2/models/uneasy/infer"
        headers = {"content-type": "application/x-npy"}
        answers = [http_client.post(url, encode_npy(images[row]), headers=headers, timeout=60) for row in (17, 18)]
        assert [answer.status_code for answer in answers] == [422, 200]
        assert "unusable_answer" in orjson.loads(answers[0].content)["error"]
        assert worker.metric("modelwatch_pipeline_restarts_total") == 0
        assert worker.metric("modelwatch_requests_total", model="uneasy", outcome="refused", transport="kafka") == 2
    finally:
        worker.kill()
        traffic.close()


def test_logits_are_refused_when_the_model_is_loaded_unless_the_spec_says_so(tmp_path: Path) -> None:
    bare = load_model_folder(save(tmp_path / "bare", False, None))
    with pytest.raises(ConfigurationError, match="outputs: logits"):
        load_predictor(bare, WorkerSettings()).warm_up()
    told = load_predictor(load_model_folder(save(tmp_path / "told", False, None, outputs="logits")), WorkerSettings())
    told.warm_up()
    answers = told.predict([np.full((2, *SHAPE), 9, np.uint8)])
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-6)
    measured = Classifier(load_model_folder(tmp_path / "told")).predict(np.full((2, *SHAPE), 9, np.uint8))
    assert np.allclose(measured, answers, atol=1e-6), "references and thresholds are of what the worker answers"


def test_probabilities_that_the_spec_calls_logits_are_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    folder = load_model_folder(save(tmp_path / "twice", False, "softmax", outputs="logits"))
    with pytest.raises(ConfigurationError, match="probabilities already; leave `outputs: logits` out"):
        load_predictor(folder, WorkerSettings()).warm_up()


@pytest.mark.parametrize(
    ("layers", "labels", "words"),
    [
        (lambda k: [k.layers.Dense(3, activation="softmax")], 3, r"answers \(n, 4, 4, 3\) .* Flatten"),
        (lambda k: [k.layers.Flatten(), k.layers.Dense(5, activation="softmax")], 3, "answers 5 numbers .* 3 labels"),
        (lambda k: [k.layers.Flatten(), k.layers.Dense(1, activation="sigmoid")], 2, r"\[1 - p, p\]"),
    ],
)
def test_answers_of_another_shape_are_refused_with_it_and_the_remedy(
    tmp_path: Path, layers: Any, labels: int, words: str
) -> None:
    import tf_keras

    folder = save(tmp_path / "odd", False, "softmax", labels=["a", "b", "c"][:labels])
    tf_keras.Sequential([tf_keras.Input(SHAPE), *layers(tf_keras)]).save(folder / "weights.keras")
    write_checksums(folder)
    for load in (lambda one: load_predictor(one, WorkerSettings()), Classifier):
        with pytest.raises(ConfigurationError, match=words):
            load(load_model_folder(folder))


def test_a_model_that_answers_nothing_finite_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    import tf_keras

    folder = save(tmp_path / "broken", False, "softmax")
    model = tf_keras.models.load_model(folder / "weights.keras")
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save(folder / "weights.keras")
    with pytest.raises(ConfigurationError, match="nothing finite"):
        load_predictor(load_model_folder(folder), WorkerSettings()).warm_up()


@pytest.mark.parametrize(("scale", "offset"), [(255.0, 0.0), (127.5, -1.0), (1.0, 0.0)])
def test_bytes_and_the_floats_that_they_stand_for_are_answered_the_same_to_the_bit(
    tmp_path: Path, scale: float, offset: float
) -> None:
    scaled = {"input": {"shape": list(SHAPE), "scale": scale, "offset": offset}}
    folder = load_model_folder(save(tmp_path / "scaled", False, "softmax", **scaled))
    predictor = load_predictor(folder, WorkerSettings())
    images = np.random.default_rng(4).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
    floats = images.astype(np.float32) / np.float32(scale) + np.float32(offset)
    assert np.array_equal(predictor.predict([images]), predictor.predict([floats]))
    import tf_keras

    keras = tf_keras.models.load_model(folder.path / "weights.keras")(floats).numpy()
    assert np.allclose(predictor.predict([floats]), keras, atol=1e-5)
