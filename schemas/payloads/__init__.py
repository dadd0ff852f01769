"""What may be put on `inference.requests`: decoding of every accepted payload, and encoding for producers."""

from schemas.payloads.encode import (
    FORMATS,
    PayloadFormat,
    encode_jpeg,
    encode_json,
    encode_npy,
    encode_png,
    encode_v1,
    encode_v2,
)
from schemas.payloads.request import CONTENT_TYPES, DecodedRequest, decode_request
from schemas.payloads.tensors import MAX_IMAGES

__all__ = [
    "CONTENT_TYPES",
    "FORMATS",
    "MAX_IMAGES",
    "DecodedRequest",
    "PayloadFormat",
    "decode_request",
    "encode_jpeg",
    "encode_json",
    "encode_npy",
    "encode_png",
    "encode_v1",
    "encode_v2",
]
