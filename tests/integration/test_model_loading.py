"""Models of both Kerases and SavedModels load and answer as they did when they were saved; what could run code does
not, and nothing of it has run when it is refused."""

import gc
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.explanations.private_model import load_private_model
from inference.predictor import load_predictor
from inference.settings import WorkerSettings
from runtime.errors import ConfigurationError
from runtime.keras_files import CODE_LAYERS, inspect_keras_file
from runtime.model_folder import ModelFolder, load_model_folder, write_checksums
from runtime.saved_models import EFFECTS, STATEFUL, check_saved_model
from training.classifier import Classifier

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHAPE = (6, 6, 3)
KERASES = ("tf_keras", "keras")
SUFFIXES = (".keras", ".h5")


@pytest.fixture(scope="module")
def frameworks() -> SimpleNamespace:
    """TensorFlow and both Kerases, in the one process that a worker is."""
    import keras
    import tensorflow
    import tf_keras

    return SimpleNamespace(tf=tensorflow, keras=keras, tf_keras=tf_keras)


def build(keras: Any, exported: bool = False) -> Any:
    """A model with a layer of each kind that files of the two versions write differently.

    Args:
        exported: without what Keras 3 leaves random in an exported model.
    """
    keras.utils.set_random_seed(3)
    layers = keras.layers
    images = keras.Input(SHAPE)
    x = images * 2.0 - 1.0  # an operation: TFOpLambda in Keras 2, a class of keras.src.ops in Keras 3
    x = layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", kernel_constraint="max_norm")(x)
    x = layers.BatchNormalization()(x if exported else layers.RandomFlip()(x))
    x = layers.TimeDistributed(layers.Dense(4, activation="tanh"))(layers.Reshape((4, 16))(x))
    inner = keras.Sequential([layers.Bidirectional(layers.LSTM(3)), layers.Dropout(0.5)])
    inner.compile("adam", "mse")
    return keras.Model(images, layers.Dense(3, activation="softmax")(inner(x)))


def plain(keras: Any, *middle: Any) -> Any:
    """The older format cannot hold operations of Keras 3."""
    layers = [keras.layers.Flatten(input_shape=SHAPE), *middle, keras.layers.Dense(3, activation="softmax")]
    if not keras.__name__.startswith("tf_"):
        layers = [keras.layers.Input(SHAPE), keras.layers.Flatten(), *layers[1:]]
    keras.utils.set_random_seed(3)
    return keras.Sequential(layers)


def folder_of(path: Path, file: str, framework: str = "keras", **weights: str) -> ModelFolder:
    """A checksum-clean model folder."""
    spec = {"name": "small", "version": "1", "input": {"shape": SHAPE}, "labels": ["a", "b", "c"]}
    (path / "model.yaml").write_text(json.dumps(spec | {"weights": {"framework": framework, "file": file, **weights}}))
    write_checksums(path)
    folder = load_model_folder(path)
    folder.verify()
    return folder


def by_worker(folder: ModelFolder) -> Callable[[Any], Any]:
    predictor = load_predictor(folder, WorkerSettings())
    return lambda images: predictor.predict([images])


LOADERS: dict[str, Callable[[ModelFolder], Callable[[Any], Any]]] = {
    "worker": by_worker,
    "explanations": load_private_model,
    "training": lambda folder: Classifier(folder).predict,
}


def answers(folder: ModelFolder, images: Any) -> Any:
    """As all who load models answer, to the last digits: they compute batches of different sizes."""
    loaded = [load(folder) for load in LOADERS.values()]
    gc.collect()  # as the worker does; a graph does not keep the variables alive that it reads
    first, *others = (predict(images) for predict in loaded)
    assert all(np.allclose(first, other, atol=1e-6) for other in others)
    return first


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", KERASES)
def test_a_model_of_either_keras_answers_as_when_it_was_saved(
    tmp_path: Path, frameworks: SimpleNamespace, name: str, suffix: str
) -> None:
    keras = getattr(frameworks, name)
    model = (plain if suffix == ".h5" and name == "keras" else build)(keras)
    model.save(tmp_path / f"model{suffix}")
    images = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    folder = folder_of(tmp_path, f"model{suffix}")
    assert inspect_keras_file(folder.file(f"model{suffix}")) == name
    assert np.allclose(answers(folder, images), model(images, training=False), atol=1e-5)


# --- what could run code ---


def lambda_layer(keras: Any, trap: Path) -> Any:
    return keras.layers.Lambda(eval(f"lambda x: [open({str(trap)!r}, 'w').close(), x][1]"))


def wrapped_lambda(keras: Any, trap: Path) -> Any:
    return keras.layers.TimeDistributed(lambda_layer(keras, trap))


def nested_lambda(keras: Any, trap: Path) -> Any:
    return keras.Sequential([keras.layers.Dense(4), lambda_layer(keras, trap)], name="inner")


CODE: dict[str, Callable[[Any, Path], Any]] = {
    "layer": lambda_layer,
    "wrapped": wrapped_lambda,
    "nested-model": nested_lambda,
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("where", CODE)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", KERASES)
def test_the_code_of_a_lambda_layer_never_runs(
    tmp_path: Path, frameworks: SimpleNamespace, name: str, suffix: str, where: str, loader: str
) -> None:
    keras, trap = getattr(frameworks, name), tmp_path / "it-ran"
    before = [keras.layers.Reshape((9, 12))] if where == "wrapped" else []
    after = [keras.layers.Flatten()] if where == "wrapped" else []
    plain(keras, *before, CODE[where](keras, trap), *after).save(tmp_path / f"model{suffix}")
    trap.unlink(missing_ok=True)  # building the model ran it
    with pytest.raises(ConfigurationError, match=r"layer 'lambda.*' is a Lambda, which holds Python code.*Rescaling"):
        LOADERS[loader](folder_of(tmp_path, f"model{suffix}"))
    assert not trap.exists()


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the members of a .keras archive."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def smuggle(members: dict[str, bytes], hostile: dict[str, Any]) -> None:
    """Put it where a layer's activation is described."""
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["config"]["activation"] = hostile
    members["config.json"] = json.dumps(config).encode()


def _node(module: str | None, kind: str, config: Any, **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None, **more}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "any-module": (_node("subprocess", "Popen", {"args": ["touch", "it-ran"]}), "is a Popen of 'subprocess'"),
    "any-function": (_node("builtins", "function", "exec"), "names the function 'exec'"),
    "function-of-keras": (_node("keras.utils", "function", "get_file"), "names the function 'get_file'"),
    "not-modelling": (_node("keras.config", "enable_unsafe_deserialization", {}), "enable_unsafe_deserialization"),
    "marshalled": (_node(None, "__lambda__", {"value": "4wEA"}), "is of the kind '__lambda__'"),
    "custom": (
        _node(None, "Mine", {"name": "mine"}, registered_name="Shop>Mine"),
        "layer 'mine' is a Mine of 'Shop>Mine'",
    ),
    "other-file": (
        _node("keras.layers", "TFSMLayer", {"filepath": "/etc"}),
        "is a TFSMLayer, which loads another file",
    ),
    "vocabulary": (_node("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}), "from the file '/etc/passwd'"),
    "operation": (
        _node("tf_keras.src.layers.core.tf_op_layer", "TFOpLambda", {"name": "op", "function": "io.write_file"}),
        "layer 'op' calls the operation 'io.write_file'",
    ),
    "any-operation": (_node(None, "TensorFlowOpLayer", {"node_def": "…"}), "is a TensorFlowOpLayer"),
    "type": (_node("os", "__typespec__", [], spec_name="system"), "is of the kind '__typespec__'"),
    "no-name": (_node(None, ["Lambda"], {}), "is of the kind"),  # type: ignore[arg-type]
    "code-in-a-field": (
        {"anything": ["4wEAAAAAAAAAAAAAAAIAAAADAAAA8wwAAACXAHwAZAF6BQAAUwCp\n"]},
        "marshalled Python code",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("name", KERASES)
def test_what_is_not_known_to_compute_only_is_refused_by_name(
    tmp_path: Path, frameworks: SimpleNamespace, name: str, case: str
) -> None:
    hostile, words = HOSTILE[case]
    file = tmp_path / "model.keras"
    plain(getattr(frameworks, name)).save(file)
    rewrite(file, lambda members: smuggle(members, hostile))
    with pytest.raises(ConfigurationError, match=re.escape(words)) as caught:
        inspect_keras_file(file)
    assert "saved_model" in str(caught.value)


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path, frameworks: SimpleNamespace) -> None:
    file = tmp_path / "model.keras"
    plain(frameworks.tf_keras).save(file)
    rewrite(file, lambda members: members.update({"model.weights.npz": members.pop("model.weights.h5")}))
    with pytest.raises(ConfigurationError, match=r"no model\.weights\.h5"):
        inspect_keras_file(file)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_are_not_read_from_other_files(tmp_path: Path, frameworks: SimpleNamespace, suffix: str) -> None:
    import h5py

    file = tmp_path / f"model{suffix}"
    plain(frameworks.keras).save(file)
    with h5py.File(tmp_path / "linked.h5", "w") as linked:
        linked["kernel"] = h5py.ExternalLink("/etc/passwd", "/")
    if suffix == ".h5":
        with h5py.File(file, "a") as opened:
            opened["model_weights/kernel"] = h5py.ExternalLink("/etc/passwd", "/")
    else:
        linked_bytes = (tmp_path / "linked.h5").read_bytes()
        rewrite(file, lambda members: members.update({"model.weights.h5": linked_bytes}))
    with pytest.raises(ConfigurationError, match="kernel in it is a link to another file"):
        inspect_keras_file(file)


def test_every_layer_that_takes_code_or_a_file_is_known(frameworks: SimpleNamespace) -> None:
    """A newer Keras may bring another: this says so when the lock file is renewed."""
    import inspect

    suspicious = {"function", "filepath", "module", "call_fn", "node_def", "method_name", "call_endpoint"}
    for keras in (frameworks.keras, frameworks.tf_keras):
        for name, kind in vars(keras.layers).items():
            if isinstance(kind, type) and suspicious & set(inspect.signature(kind.__init__).parameters):
                assert name in CODE_LAYERS, f"{keras.__name__}.layers.{name}"


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        pytest.param(b"\x08\x08\x12\x07pytorch\x1a\x052.4.0", "model.keras", "looks like ONNX: convert it", id="onnx"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(40), "model.keras", "is HDF5: name it .h5", id="hdf5"),
        pytest.param(b"PK\x03\x04" + bytes(40), "model.h5", "is a zip archive, perhaps cut short", id="zip"),
        pytest.param(b"", "model.keras", "is empty", id="empty"),
        pytest.param(b"x", "model.pkl", "its name ends in '.pkl'", id="pickle"),
    ],
)
def test_a_file_of_another_kind_is_told_by_what_it_is(tmp_path: Path, content: bytes, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        inspect_keras_file(tmp_path / name)


# --- SavedModel folders ---


@pytest.fixture(scope="module", params=KERASES)
def exported(
    request: pytest.FixtureRequest, frameworks: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A folder with a SavedModel in it, and the model that it was."""
    folder = tmp_path_factory.mktemp("exported")
    model = build(getattr(frameworks, request.param), exported=True)
    if request.param == "keras":
        model.export(folder / "model", verbose=False)
    else:
        frameworks.tf.saved_model.save(model, folder / "model")
    yield folder, model


def test_a_saved_model_answers_as_when_it_was_saved(exported: Any) -> None:
    path, model = exported
    folder = folder_of(path, "model", "saved_model")
    images = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    assert np.allclose(answers(folder, images), model(images, training=False), atol=1e-5)


def test_every_file_of_a_saved_model_must_be_listed_and_is_part_of_its_hash(exported: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported[0], tmp_path / "copy"))
    before = folder_of(path, "model", "saved_model").weights_sha256
    (path / "model" / "assets" / "more.txt").write_text("more")
    changed = load_model_folder(path)
    assert changed.weights_sha256 != before
    with pytest.raises(ConfigurationError, match=r"does not list model/assets/more\.txt"):
        changed.verify()


def test_a_saved_models_files_do_not_lie_elsewhere(exported: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported[0], tmp_path / "copy"))
    (path / "model" / "variables").rename(tmp_path / "elsewhere")
    (path / "model" / "variables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"variables' in .* leads out of the model's folder"):
        load_model_folder(path)


def test_a_signature_that_is_not_there_is_refused_with_those_that_are(exported: Any) -> None:
    folder = folder_of(exported[0], "model", "saved_model", signature="predict")
    with pytest.raises(
        ConfigurationError, match=r"no signature 'predict'; set weights\.signature to one of .*serving_default"
    ):
        answers(folder, np.zeros((1, *SHAPE), np.float32))


def _writes(tf: Any, trap: Path) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        tf.io.write_file(str(trap), "it ran")
        return tf.reshape(x, (-1, 108))[:, :3]

    return call


def _reads(tf: Any, trap: Path) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        size = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return tf.reshape(x, (-1, 108))[:, :3] + tf.cast(size, tf.float32)

    return call


def _python(tf: Any, trap: Path) -> Callable[[Any], Any]:
    return lambda x: tf.reshape(tf.py_function(lambda y: y, [x], tf.float32), (-1, 108))[:, :3]


def _deep(tf: Any, trap: Path) -> Callable[[Any], Any]:
    """In a branch, of a function, of a function."""
    inner = tf.function(_writes(tf, trap))
    return lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.function(inner)(x), lambda: inner(x))


@pytest.mark.parametrize(
    ("make", "operation"),
    [(_writes, "WriteFile"), (_reads, "ReadFile"), (_python, "EagerPyFunc"), (_deep, "WriteFile")],
)
def test_a_saved_model_with_an_operation_that_does_more_than_compute_is_refused_by_name(
    tmp_path: Path, frameworks: SimpleNamespace, make: Callable[[Any, Path], Callable[[Any], Any]], operation: str
) -> None:
    tf, trap = frameworks.tf, tmp_path / "it-ran"
    module = tf.Module()
    module.call = tf.function(make(tf, trap), input_signature=[tf.TensorSpec((None, *SHAPE), tf.float32)])
    tf.saved_model.save(module, tmp_path / "model", signatures=module.call)
    with pytest.raises(ConfigurationError, match=rf"{operation} \(in "):
        answers(folder_of(tmp_path, "model", "saved_model"), np.zeros((1, *SHAPE), np.float32))
    assert not trap.exists()


def test_what_a_saved_model_would_do_when_it_is_loaded_is_looked_at_too(
    tmp_path: Path, frameworks: SimpleNamespace
) -> None:
    """A resource's initialiser runs in `tf.saved_model.load`, before anybody asks."""
    from tensorflow.python.trackable.resource import CapturableResource

    tf, trap = frameworks.tf, tmp_path / "it-ran"

    class Resource(CapturableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

        def _initialize(self) -> None:
            tf.io.write_file(str(trap), "it ran")

    module = tf.Module()
    module.resource = Resource()
    module.call = tf.function(
        lambda x: tf.reshape(x, (-1, 108))[:, :3] + 0 * tf.cast(tf.size(module.resource.resource_handle), tf.float32),
        input_signature=[tf.TensorSpec((None, *SHAPE), tf.float32)],
    )
    tf.saved_model.save(module, tmp_path / "model", signatures=module.call)
    trap.unlink(missing_ok=True)
    with pytest.raises(ConfigurationError, match=r"WriteFile \(in "):
        answers(folder_of(tmp_path, "model", "saved_model"), np.zeros((1, *SHAPE), np.float32))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_a_second_graph_that_was_not_looked_at_is_refused(exported: Any, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(exported[0] / "model", tmp_path / "copy"))
    (path / name).write_bytes(b"")
    with pytest.raises(ConfigurationError, match=name):
        check_saved_model(path)


def test_no_operation_of_tensorflow_that_touches_files_or_programs_is_taken_for_computing(
    frameworks: SimpleNamespace,
) -> None:
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    operations = op_def_pb2.OpList()
    operations.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    words = r"File|PyFunc|Save|Restore|Dataset|Reader|Print|Rpc|Summary(Writer)?$|Remote|Send|Recv|SqlD|Infeed|Outfeed"
    for operation in operations.op:
        if re.search(words, operation.name):
            taken = STATEFUL.fullmatch(operation.name) if operation.is_stateful else not EFFECTS.search(operation.name)
            assert not taken, operation.name
