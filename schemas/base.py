"""What every message has in common: frozen, tolerant of newer fields, and carrying its schema version."""

from datetime import datetime, timezone
from typing import Annotated, Any

import pybase64
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from schemas.identity import MAX_ID_BYTES

MAX_ATTRIBUTES = 16
MAX_INTEGER = 2**63 - 1
"""What Kafka, the record store and most readers of JSON hold; pydantic reads any number of digits."""


def _decode_base64(value: Any) -> Any:
    if isinstance(value, str):
        return pybase64.b64decode(value, validate=True)
    return value


Base64Bytes = Annotated[
    bytes,
    BeforeValidator(_decode_base64),
    PlainSerializer(pybase64.b64encode_as_string, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes in Python, standard base64 (RFC 4648 section 4) in JSON; pydantic's own option uses the URL alphabet."""


def _check_id_bytes(value: str) -> str:
    if (size := len(value.encode(errors="surrogatepass"))) > MAX_ID_BYTES:
        raise ValueError(f"an id has at most {MAX_ID_BYTES} bytes of UTF-8; found {size}")
    return value


RequestId = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES), AfterValidator(_check_id_bytes)]
Attributes = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]], Field(max_length=MAX_ATTRIBUTES)
]
_FIRST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
Timestamp = Annotated[AwareDatetime, Field(ge=_FIRST, le=_LAST)]
"""From 1970 to 9999 in UTC: outside, moments overflow in other time zones, and windows have no number."""


class Contract(BaseModel):
    """Base of everything that crosses a process boundary."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), allow_inf_nan=False)


class Specification(Contract):
    """Base of what a person writes: a field that is not known is a slip of the pen, not a newer version's."""

    model_config = ConfigDict(extra="forbid")


class Message(Contract):
    """Base of the messages: a `Contract` with a schema version, which readers of every later version still accept."""

    schema_version: int = Field(1, ge=1, le=MAX_INTEGER, description="Version of this message's schema")


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(timezone.utc)
