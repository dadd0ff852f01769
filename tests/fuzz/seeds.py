"""Good inputs of every fuzzing target, and the models they are for: small, so that one more byte matters."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import yaml
from numpy.typing import NDArray

from schemas.model_spec import ModelSpec
from schemas.pairs import PairWriter
from schemas.payloads import FORMATS, encode_png

NOW = 1_767_225_600.5
REQUEST_ID = "r"
GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
_COMMON = {"version": "1", "weights": {"framework": "null"}, "batch_sizes": (1, 4)}
CLASSIFIER = ModelSpec.model_validate(
    _COMMON
    | {
        "name": "reference",
        "input": {"shape": (4, 5, 3)},
        "labels": ("cat", "dog"),
        "calibration": {"temperature": 1.5, "images": 10},
        "breakdown": {"attribute": "site", "values": ("north", "south")},
    }
)
REGRESSION = ModelSpec.model_validate(
    _COMMON | {"name": "counter", "task": "regression", "input": {"shape": (4, 5, 3)}, "labels": ("people",)}
)
SPECS = {spec.name: spec for spec in (CLASSIFIER, REGRESSION)}
IMAGE = np.random.default_rng(3).integers(0, 256, CLASSIFIER.input.shape, dtype=np.uint8)


def framed(headers: Mapping[str, bytes], value: bytes) -> bytes:
    """Headers and value in one input: a line a header, an empty line, the value."""
    return b"".join(name.encode() + b": " + text + b"\n" for name, text in headers.items()) + b"\n" + value


def unframed(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The headers and the value of an input; a line without a colon is a header without a value."""
    head, _, value = data.partition(b"\n\n")
    lines = [line.partition(b": ") for line in head.split(b"\n") if line]
    return [(name.decode(errors="replace"), text) for name, _, text in lines], value


def floats_of(image: NDArray[np.uint8]) -> list[object]:
    """A batch of one, as nested numbers in 0..1."""
    return (image[None] / 255).tolist()  # type: ignore[no-any-return]


def requests() -> dict[str, bytes]:
    """One in each payload format, and one with every header."""
    every = {
        "key": b"id",
        "content-type": b"application/json; charset=utf-8",
        "model": b"reference",
        "deadline": b"2026-01-01T00:00:00Z",
        "ce_time": b"2026-01-01T00:00:00.5+01:00",
        "attribute-site": b"north",
        "traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    found = {
        name: framed({"content-type": one.content_type.encode()}, one.encode(IMAGE)) for name, one in FORMATS.items()
    }
    floats = orjson.dumps({"instances": floats_of(IMAGE) * 4})
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *IMAGE.shape]}
    header = orjson.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": IMAGE.size}}]})
    binary = {"content-type": b"application/octet-stream", "inference-header-content-length": b"%d" % len(header)}
    return found | {
        "binary": framed(binary, header + IMAGE.tobytes()),
        "columns": framed({"content-type": b"application/json"}, orjson.dumps({"inputs": {"image": floats_of(IMAGE)}})),
        "headers": framed(every, FORMATS["json"].encode(IMAGE)),
        "floats": framed({"content-type": b"application/json"}, floats),
    }


def pngs() -> dict[str, bytes]:
    """A picture."""
    return {"colour": encode_png(IMAGE)}


@cache
def pairs() -> dict[str, bytes]:
    """Of a classifier, of a regression model, and expired."""
    found = {}
    for name, spec, outputs in (
        ("classifier", CLASSIFIER, np.array([[0.3, 0.7]], np.float32)),
        ("regression", REGRESSION, np.array([[12.5]], np.float32)),
        ("expired", CLASSIFIER, None),
        ("floats", CLASSIFIER, np.array([[1, 0]], np.float32)),
    ):
        writer = PairWriter(spec.name, "1", "0" * 64, spec.labels, "none", spec.task)
        images = IMAGE[None] / np.float32(255) if name == "floats" else IMAGE[None]
        ids = [REQUEST_ID if name == "classifier" else name]
        arguments = ([{"site": "north"}], [NOW], [None], outputs, [0.1], [0.1], 0.1, 1, NOW)
        [found[name]] = writer.encode(ids, images, *arguments)
    return found


def feedback() -> dict[str, bytes]:
    """Every form of truth, and a batch."""
    about: dict[str, object] = {"request_id": REQUEST_ID, "source": "people", "given_at": "2026-01-01T00:00:00Z"}
    forms: dict[str, object] = {
        "truth": 1,
        "truth_index": 1,
        "truth_label": "dog",
        "truth_one_hot": [0, 1],
        "truth_probabilities": [0.1, 0.9],
    }
    found = {name: orjson.dumps(about | {name: value}) for name, value in forms.items()}
    value = about | {"request_id": "regression", "truth_value": 4.5}
    own = about | {"request_id": "other", "model": "reference", "truth": 0, "response": [0.2, 0.8]}
    number = own | {"request_id": "third", "model": "counter", "truth": [1.5], "response": [2.5]}
    batch = orjson.dumps([value, own, number])
    return found | {"truth_value": orjson.dumps(value), "self-contained": orjson.dumps(own), "batch": batch}


def questions() -> dict[str, bytes]:
    """Golden messages, and one of a small image with options."""
    image = orjson.loads(pairs()["classifier"])["request"]["image"]
    asked = {"request_id": REQUEST_ID, "asked_by": "people", "asked_at": "2026-01-01T00:00:00Z", "image": image}
    options = {"method": "anchors", "options": {"threshold": 0.9, "n_segments": 5}, "model": "reference"}
    deadline = {"deadline": "2026-01-01T00:01:00Z"}
    return _golden("ExplanationRequest") | {"options": orjson.dumps(asked | options | deadline)}


def features() -> dict[str, bytes]:
    """Golden messages."""
    return _golden("FeatureVector")


def model_yaml() -> dict[str, bytes]:
    """The project's model, a small one with weights, and one without."""
    null = CLASSIFIER.model_dump(mode="json")
    keras = null | {"weights": {"framework": "keras", "file": "weights.keras"}}
    reference = Path(__file__).parents[2] / "models" / "cifar10-resnet32" / "model.yaml"
    return {
        "null": yaml.safe_dump(null).encode(),
        "keras": yaml.safe_dump(keras).encode(),
        "reference": reference.read_bytes(),
    }


def checksums() -> dict[str, bytes]:
    """The right list for `model_yaml`'s weights."""
    return {"right": f"{hashlib.sha256(b'weights').hexdigest()}  weights.keras\n".encode()}


def http() -> dict[str, bytes]:
    """A first line with method and path, then as `requests`."""
    found = {}
    for name, route in (("v2", "v2/models/reference/infer"), ("v1", "v1/models/counter:predict")):
        value = FORMATS[name].encode(IMAGE)
        found[name] = f"POST /{route}\n".encode() + framed({"content-type": b"application/json"}, value)
    document = orjson.loads(FORMATS["v2"].encode(IMAGE)) | {"parameters": {"record": False}}
    quiet = framed({"traceparent": b"00-1-2-01", "ce-id": b"id", "attribute-site": b"north"}, orjson.dumps(document))
    picture = framed({"content-type": b"image/png", "x-modelwatch-record": b"false"}, encode_png(IMAGE))
    chosen = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    outputs = orjson.dumps(orjson.loads(FORMATS["v2"].encode(IMAGE)) | {"outputs": chosen})
    return found | {
        "outputs": b"POST /v2/models/reference/versions/1/infer\n"
        + framed({"content-type": b"application/json"}, outputs),
        "status": b"GET /v1/models/counter/versions/1/metadata\n\n",
        "index": b"POST /v2/repository/index\n\n",
        "quiet": b"POST /v2/models/reference/infer\n" + quiet,
        "picture": b"POST /v1/models/reference/:predict\n" + picture,
        "metadata": b"GET /v2/models/reference\n\n",
    }


def _golden(message: str) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(GOLDEN.glob(f"{message}[-.]*"))}
