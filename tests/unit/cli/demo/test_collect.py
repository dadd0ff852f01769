"""Pictures come from the records as they were stored; the strangest of each batch are chosen."""

import base64
from typing import Any

import numpy as np

from cli.demo.collect import judged, strangest


def record(score: float, flagged: bool = True) -> dict[str, Any]:
    return {"outlier": {"score": score, "is_outlier": flagged, "threshold": 0.5}}


def stored(values: np.ndarray[Any, Any], dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(values.shape), "data": base64.b64encode(values.tobytes()).decode()}


def test_the_highest_flagged_scores_of_each_batch_are_chosen() -> None:
    records = {f"a-{n}": record(n / 10, flagged=n != 9) for n in range(10)} | {"b-0": record(0.1)}
    chosen = strangest({"a": [f"a-{n}" for n in range(10)], "b": ["b-0"], "c": []}, records)
    assert chosen == {"a-8": "a", "a-7": "a", "a-6": "a", "b-0": "b"} and next(iter(chosen)) == "a-8"


def test_a_record_becomes_a_picture() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    score_map = np.array([[0, 255], [1, 2]], np.uint8)
    document = record(0.7) | {
        "request": {"image": stored(image, "uint8")},
        "response": {"label": "cat", "confidence": 0.75},
    }
    document["outlier"]["score_map"] = stored(score_map, "uint8")
    picture = judged("id", "a cat", document)
    assert (picture.image == image).all() and picture.score_map is not None and (picture.score_map == score_map).all()
    assert (picture.label, picture.confidence, picture.flagged, picture.caption) == ("cat", 0.75, True, "a cat")


def test_floats_are_rounded_to_bytes() -> None:
    image = np.array([[[0.0, 0.5, 1.0]]], "<f4")
    document = record(0.1, False) | {"request": {"image": stored(image, "float32")}, "response": {}}
    picture = judged("id", "x", document)
    assert picture.image.tolist() == [[[0, 128, 255]]] and picture.score_map is None and picture.label is None
