"""Nested lists of numbers in JSON, read several times faster than through Python lists, and just as strictly.

A large array under `instances`, `inputs` or `data` is cut out of the text. The rest is parsed by orjson with a
placeholder in its stead. The array itself stays text until the model's shape is known; then its brackets and commas
are compared with those of that shape, and simdjson reads the numbers. Whatever does not fit goes through orjson, which
finds the reason.
"""

import json
import re
import secrets
import threading
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import isinf, prod
from typing import Any, NoReturn

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from schemas.framing import framing_hint
from schemas.payloads.body import brief
from schemas.payloads.tensors import MAX_IMAGES
from schemas.refusal import Reason, Refusal

MAX_RANK = 4
MAX_LISTS = 300_000
"""Lists that are made in one document; millions of them hold the interpreter up for seconds."""
MAX_KEPT = 256 << 10
"""Bytes of text for which a thread's parser is kept; its memory is some ten times that."""
_PLACEHOLDER = secrets.token_hex(16)
_QUOTED_PLACEHOLDER = orjson.dumps(_PLACEHOLDER)
_ARRAY_FIELD = re.compile(
    rb'"(?:instances|data|inputs(?="[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*[\[\-0-9]))"[ \t\r\n]*:[ \t\r\n]*(?=\[)'
)
"""`inputs` of V2 is a list of objects; only V1's is one of numbers."""
_SPACE = b" \t\r\n"
_NUMBER = b"0123456789.-+eE" + _SPACE
_NUMBERS: frozenset[type] = frozenset((int, float))
_WORTH_CUTTING = 512  # bytes of text; shorter arrays are as fast through orjson


class _Kept(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_kept = _Kept()


@dataclass(frozen=True, slots=True)
class NumberText:
    """The text of an array, not parsed yet: nothing is known but that it stands where a value may stand."""

    text: bytes


def load_json(payload: bytes) -> Any:
    """The JSON document; the array at `instances`, `inputs` or `inputs[0].data` may be a `NumberText`.

    Raises:
        Refusal: INVALID_JSON; NOT_FINITE where a number is NaN or infinite.
    """
    field = _ARRAY_FIELD.search(payload)
    if field is not None:
        ends = [end for end in (payload.find(b'"', field.end()), payload.find(b"}", field.end())) if end >= 0]
        text = payload[field.end() : min(ends, default=0)].rstrip(_SPACE).removesuffix(b",").rstrip(_SPACE)
        if len(text) >= _WORTH_CUTTING and text.endswith(b"]"):
            rest = payload[: field.end()] + _QUOTED_PLACEHOLDER + payload[field.end() + len(text) :]
            try:
                document = orjson.loads(rest)
            except orjson.JSONDecodeError:
                document = None  # the reader of the whole text says where it is wrong
            if _put_back(document, NumberText(text)):
                return document
    return _strict_json(payload)


def _put_back(document: Any, numbers: NumberText) -> bool:
    """Put `numbers` where the placeholder is; false if it is elsewhere (then the cut meant nothing)."""
    if not isinstance(document, dict):
        return False
    for name in ("instances", "inputs"):
        if document.get(name) == _PLACEHOLDER:
            document[name] = numbers
            return True
    inputs = document.get("inputs")
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and inputs[0].get("data") == _PLACEHOLDER:
        inputs[0]["data"] = numbers
        return True
    return False


def _strict_json(text: bytes) -> Any:
    lists = text.count(b"[")
    if lists > MAX_LISTS:
        raise Refusal(Reason.INVALID_JSON, f"{lists} lists; at most {MAX_LISTS} are read: send the tensor in base64")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        _refuse_not_finite(text)
        raise Refusal(Reason.INVALID_JSON, f"not JSON: {str(error)[:200]}{framing_hint(text)}") from error


class _NotFiniteError(Exception):
    """The reader met NaN, Infinity, or a number too large for a double."""


def _not_finite(literal: str) -> NoReturn:
    raise _NotFiniteError(literal)


def _finite(literal: str) -> float:
    return _not_finite(literal) if isinf(float(literal)) else 0.0


def _refuse_not_finite(text: bytes) -> None:
    """Raise `Refusal` with NOT_FINITE if what orjson refused is a literal that Python's own reader knows."""
    try:
        json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except _NotFiniteError as error:
        raise Refusal(Reason.NOT_FINITE, f"found {str(error)[:40]}; every number must be finite") from error
    except (ValueError, RecursionError):
        return


def read_numbers(
    source: object, item: tuple[int, ...], kinds: frozenset[type] | None = None
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Numbers of a list or `NumberText` as flat float64, and their shape: at most `MAX_RANK` deep.

    Args:
        kinds: what counts as a number; by default whole and floating-point numbers, but not true and false.

    Raises:
        Refusal: WRONG_SHAPE (ragged or too deep), INVALID_FIELD (not numbers), INVALID_JSON, NOT_FINITE.
    """
    if isinstance(source, NumberText):
        fast = _read_expected(source.text, item)
        if fast is not None:
            return fast
        source = _strict_json(source.text)
    if not isinstance(source, list):
        raise Refusal(Reason.INVALID_FIELD, f"expected a list of numbers; found {brief(source)}")
    return _flatten(source, kinds or _NUMBERS)


def _flatten(values: list[Any], taken: frozenset[type]) -> tuple[NDArray[Any], tuple[int, ...]]:
    shape, level = [len(values)], values
    while level and isinstance(level[0], list):
        lengths = {len(inner) if isinstance(inner, list) else None for inner in level}
        if len(lengths) > 1:
            raise Refusal(Reason.WRONG_SHAPE, f"ragged: at depth {len(shape)} lists differ in length")
        shape.append(len(level[0]))
        if len(shape) > MAX_RANK:
            raise Refusal(Reason.WRONG_SHAPE, f"lists are nested deeper than {MAX_RANK}")
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if list in kinds:
        raise Refusal(Reason.WRONG_SHAPE, f"ragged: numbers and lists side by side at depth {len(shape)}")
    if not kinds <= taken:
        wrong = next(value for value in level if type(value) not in taken)
        raise Refusal(Reason.INVALID_FIELD, f"expected numbers; found {brief(wrong)}")
    return np.array(level, np.float64), tuple(shape)


def _read_expected(text: bytes, item: tuple[int, ...]) -> tuple[NDArray[Any], tuple[int, ...]] | None:
    """As `read_numbers`, if the text is one flat list, `item`, or `(n, *item)`; None otherwise."""
    skeleton = text.translate(None, _NUMBER)
    shape = _shape_of(skeleton, item)
    if shape is None:
        return None
    try:
        # A kept parser keeps the memory of its largest document, so a long one gets a parser of its own.
        parser = _kept.parser if len(text) <= MAX_KEPT else simdjson.Parser()
        array: Any = parser.parse(text)
        values = np.frombuffer(array.as_buffer(of_type="d"), np.float64)
    except (ValueError, RuntimeError, TypeError, AttributeError):
        return None
    # An empty innermost list has the skeleton of a list of one number; the count tells them apart.
    return (values, shape) if values.size == prod(shape) else None


def _shape_of(skeleton: bytes, item: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape whose brackets and commas are exactly these."""
    if skeleton == b"[" + b"," * (len(skeleton) - 2) + b"]":
        return (len(skeleton) - 1,)
    inner = _skeleton(item)
    if skeleton == inner:
        return item
    count = (len(skeleton) - 1) // (len(inner) + 1)
    if 1 <= count <= MAX_IMAGES and skeleton == b"[" + b",".join([inner] * count) + b"]":
        return (count, *item)
    return None


@lru_cache(maxsize=64)
def _skeleton(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of nested lists of this shape."""
    inner = b""
    for size in reversed(shape):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner
