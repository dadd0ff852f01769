"""Making and decoding payloads as the tests of several services do it."""

import struct
import zlib

import numpy as np

from schemas.model_spec import ModelSpec
from schemas.payloads import DecodedRequest, decode_request
from schemas.payloads.png import SIGNATURE
from schemas.refusal import Refusal

SHAPE = (32, 32, 3)
PNG, JPEG, NPY, JSON = "image/png", "image/jpeg", "application/x-npy", "application/json"
NOW = 1_767_225_600.5


def spec_of(*shape: int, name: str = "reference", kind: str = "image") -> ModelSpec:
    """A model of one input shape that needs no weights."""
    return ModelSpec.model_validate(
        {
            "name": name,
            "version": "1",
            "input": {"kind": kind, "shape": shape},
            "labels": ["cat", "dog"],
            "weights": {"framework": "null"},
        }
    )


def decode(
    value: bytes | None,
    content_type: str,
    *headers: tuple[str, bytes | None],
    key: bytes | None = b"id",
    spec: ModelSpec | None = None,
) -> DecodedRequest:
    """Decode for one model, by default of 32 x 32 x 3 images."""
    model = spec or spec_of(*SHAPE)
    return decode_request(
        value, key, [("content-type", content_type.encode()), *headers], NOW, {model.name: model}, model.name
    )


def refusal_of(
    value: bytes | None,
    content_type: str,
    *headers: tuple[str, bytes | None],
    key: bytes | None = b"id",
    spec: ModelSpec | None = None,
) -> Refusal:
    """Why `decode` refuses this; an error if it does not."""
    try:
        decode(value, content_type, *headers, key=key, spec=spec)
    except Refusal as refusal:
        return refusal
    raise AssertionError("the message was accepted")


def images(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise, uint8, of `shape` or of one good image."""
    return rng.integers(0, 256, shape or SHAPE, dtype=np.uint8)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk with a right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_file(
    stream: bytes,
    size: tuple[int, int] = (32, 32),
    depth: int = 8,
    colour: int = 2,
    interlace: int = 0,
    extra: bytes = b"",
) -> bytes:
    """A PNG file of a compressed pixel stream, with any header (`size` is width and height) and `extra` chunks."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace))
    return SIGNATURE + header + extra + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")
