"""What a Keras file holds, read without running any of it: which Keras wrote it, and whether it is data alone.

Keras builds a model from a description that names classes and functions, and some of these run code that the file
brings along: `Lambda` layers are marshalled bytecode, and versions of Keras have imported whatever module a file names
(CVE-2024-3660, CVE-2025-1550, CVE-2025-8747, CVE-2025-9905). So only what is known to compute and nothing else passes.
"""

import base64
import binascii
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from runtime.errors import ConfigurationError

Keras = Literal["tf_keras", "keras"]
"""The package that loads a file: of Keras 2, or of Keras 3."""

MAX_CONFIG_BYTES = 64 << 20
H5_SUFFIXES = (".h5", ".hdf5")
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

DATA = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
"""Names for values, where others are for classes."""
MODULES = re.compile(
    r"(tf_)?keras(\.(layers|models|initializers|regularizers|constraints|activations|dtype_policies|mixed_precision"
    r"|quantizers|random|losses|metrics|optimizers(\.schedules|\.legacy)?|layers\.experimental\.preprocessing"
    r"|src\.(models|engine)\.(functional|sequential)|src\.ops\.[a-z_]+|src\.layers\.core\.tf_op_layer))?"
)
CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")
CODE_LAYERS = {
    "Lambda": "holds Python code",
    "TFSMLayer": "loads another file",
    "TorchModuleWrapper": "unpickles",
    "JaxLayer": "holds a function",
    "FlaxLayer": "holds a function",
    "TensorFlowOpLayer": "holds any operation, those on files too",
    "ClassMethod": "calls any method",
    "InstanceMethod": "calls any method",
    "InstanceProperty": "reads any attribute",
    "TFClassMethodDispatch": "calls any method",
}
"""Layers of Keras that may do more than compute, and what."""
OPERATION_LAYERS = ("TFOpLambda", "SlicingOpLambda")
"""Keras 2's for an operation of TensorFlow, by its name."""
OPERATIONS = re.compile(
    r"(math|nn|image|linalg|__operators__)\.[a-z0-9_.]+|(cast|clip_by_value|concat|constant|convert_to_tensor|expand_dims"
    r"|gather|identity|meshgrid|norm|ones_like|pad|range|repeat|reshape|reverse|shape|slice|split|squeeze|stack|"
    r"strided_slice|tensordot|tile|transpose|unstack|where|zeros_like|argsort|sort|roll|one_hot|compat\.v1\.transpose"
    r"|compat\.v1\.shape|compat\.v1\.gather|compat\.v1\.squeeze)"
)
"""Those that compute and do nothing else."""
FUNCTIONS = re.compile(
    r"celu|elu|exponential|gelu|glu|hard_(shrink|sigmoid|silu|swish|tanh)|leaky_relu|linear|log_sigmoid|log_softmax"
    r"|mish|relu6?|selu|sigmoid|silu|soft_shrink|softmax|softplus|softsign|sparse_plus|sparse_sigmoid|sparsemax"
    r"|squareplus|swish|tanh|tanh_shrink|threshold"
)
"""Activations, which is what a model names functions for."""
LOOKUPS = ("StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization")
CODE_BYTES = (b"\xe3", b"\x63")
"""How marshalled code begins."""
REMEDY = (
    "build the model of Keras's own layers (Rescaling, Normalization, keras.ops, activations), or save it with "
    "`model.export(FOLDER)` and name that folder with `framework: saved_model`"
)


def inspect_keras_file(path: Path) -> Keras:
    """Which package loads this file.

    Raises:
        ConfigurationError: it is no Keras file, or something in it could run code; the text names the layer, or the
            class, and says what to do.
    """
    try:
        config, version = _read_h5(path) if path.suffix in H5_SUFFIXES else _read_archive(path)
        for where, node in _nodes(config):
            if problem := _problem(node):
                raise _UnsafeError(f"{where} {problem}, and a model's file is data, not code; {REMEDY}")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())[:500] or type(error).__name__
        raise ConfigurationError(f"{path} is not a Keras model that can be loaded: {said}") from error
    return "keras" if _major(version, config) >= 3 else "tf_keras"


class _UnsafeError(ValueError):
    """The file is well-formed, and is refused."""


def _read_archive(path: Path) -> tuple[Any, str]:
    if path.suffix != ".keras":
        raise ValueError(f"its name ends in {path.suffix!r}; Keras files are named .keras, or .h5 in the older format")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"it is no zip archive, as .keras files are; it {_kind(path)}")
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS not in archive.namelist():  # an .npz in its place would be unpickled by Keras 2
            raise ValueError(f"the archive has no {WEIGHTS}; save it with `model.save`")
        metadata = json.loads(_member(archive, METADATA))
        with archive.open(WEIGHTS) as weights:
            _check_h5_links(weights)
        return json.loads(_member(archive, CONFIG)), str(metadata.get("keras_version", ""))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as stream:
        content = stream.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"its {name} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
    return content


def _read_h5(path: Path) -> tuple[Any, str]:
    import h5py

    if not h5py.is_hdf5(path):
        raise ValueError(f"it is no HDF5 file, as .h5 files are; it {_kind(path)}")
    _check_h5_links(path)
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ValueError("it holds weights without the model; save the model with `model.save`, not `save_weights`")
        config, version = file.attrs["model_config"], file.attrs.get("keras_version", "")
    return json.loads(config), version.decode() if isinstance(version, bytes) else str(version)


def _check_h5_links(file: Path | IO[bytes]) -> None:
    """HDF5 can point into other files, and would read them for weights."""
    import h5py

    def problem(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"{name} in it is a link to another file"
        dataset = opened[name] if isinstance(link, h5py.HardLink) else None
        if isinstance(dataset, h5py.Dataset) and (dataset.external or dataset.is_virtual):
            return f"{name} in it keeps its values in another file"
        return None

    with h5py.File(file, "r") as opened:
        if found := opened.visititems_links(problem):
            raise ValueError(found)


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(b"\x89HDF"):
        return "is HDF5: name it .h5"
    if start.startswith(b"PK"):
        return "is a zip archive, perhaps cut short: name it .keras"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a"):
        return "looks like ONNX: convert it to a SavedModel (onnx2tf), and name that with `framework: saved_model`"
    return f"begins with {start[:8]!r}" if start else "is empty"


def _major(version: str, config: Any) -> int:
    """Of the Keras that wrote it; early ones did not say, and only the third has `batch_shape` and dtype policies."""
    first = version.partition(".")[0]
    if first.isdigit():
        return int(first)
    return 3 if '"batch_shape"' in json.dumps(config) else 2


def _nodes(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class or function that a description names, however deep; with the name of the layer it stands in."""
    if not isinstance(config, dict):
        raise ValueError("its description is not a JSON object")
    waiting: list[tuple[str, Any]] = [("the model", {**config, "compile_config": None})]  # which is not loaded
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                inner = value.get("config")
                where = _called(value["class_name"], inner if isinstance(inner, dict) else {}, where)
                yield where, value
            waiting += [(where, item) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(where, item) for item in value]
        elif isinstance(value, str) and _is_code(value):
            raise _UnsafeError(f"{where} holds marshalled Python code, which is not run; {REMEDY}")


def _called(kind: Any, config: dict[str, Any], inside: str) -> str:
    name = config.get("name")
    if not isinstance(name, str):
        return inside if str(kind).startswith("_") else f"{str(kind)[:80]} in {inside}"[:200]
    return f"layer {name[:80]!r}"


def _problem(node: dict[str, Any]) -> str:
    """What is against a class or function that a description names; empty if nothing is."""
    kind, module, registered = node["class_name"], node.get("module"), node.get("registered_name")
    if isinstance(kind, str) and kind in DATA:
        return ""
    if kind == "function":
        known = FUNCTIONS.fullmatch(str(node.get("config"))) and module in (None, "builtins", "keras.activations")
        return (
            "" if known else f"names the function {str(node.get('config'))[:80]!r}, which is not an activation of Keras"
        )
    if not isinstance(kind, str) or not CLASS.fullmatch(kind):
        return f"is of the kind {str(kind)[:80]!r}, which may hold code or is no class of Keras"
    if kind in CODE_LAYERS:
        return f"is a {kind}, which {CODE_LAYERS[kind]}"
    if (module is not None and not MODULES.fullmatch(str(module))) or registered not in (None, kind):
        return f"is a {kind} of {str(registered or module)[:80]!r}, which is not a class of Keras"
    return _option_problem(kind, node.get("config"))


def _option_problem(kind: str, config: Any) -> str:
    options = config if isinstance(config, dict) else {}
    if kind in OPERATION_LAYERS and not OPERATIONS.fullmatch(str(options.get("function"))):
        return f"calls the operation {str(options.get('function'))[:80]!r}, which is not among those that only compute"
    if kind in LOOKUPS and isinstance(options.get("vocabulary"), str):
        return f"is a {kind} that reads its vocabulary from the file {options['vocabulary'][:80]!r}"
    return ""


def _is_code(text: str) -> bool:
    """Whether a string is marshalled code, as Keras writes it: base64, with line breaks."""
    if len(text) < 40:
        return False
    try:
        return base64.b64decode("".join(text.split()), validate=True).startswith(CODE_BYTES)
    except (ValueError, binascii.Error):
        return False
