"""The caller's facts about a request: id, model, attributes and times, from key, headers and body, each checked.

Headers win over the body; of several headers with one name the last counts; names are compared without case.
"""

from collections.abc import Mapping
from unicodedata import category

from uuid_utils import uuid7

from schemas.base import MAX_ATTRIBUTES
from schemas.clock import check_not_ahead
from schemas.headers import ATTRIBUTE_PREFIX, CE_ID, CE_TIME, MODEL, TRACEPARENT, checked_time, parse_time
from schemas.identity import MAX_ID_BYTES
from schemas.model_spec import ModelSpec
from schemas.payloads.body import brief
from schemas.refusal import Reason, Refusal

MAX_ATTRIBUTE_NAME = 64
MAX_ATTRIBUTE_VALUE = 256
MAX_TRACEPARENT = 256
"""Bytes; version 00 has 55. It goes into every pair of a message, so its length must have a limit."""

FoundHeaders = Mapping[str, tuple[str, bytes]]
"""From a header's lower-case name to the name as it was sent, and its value."""


def request_ids(key: bytes | None, headers: FoundHeaders, body_id: object, count: int) -> list[str]:
    """One id an image: of the header `ce_id`, else the key if it is not empty, else the body, else a new UUIDv7.

    In CloudEvents the key is a partition key: all events of one camera may have the same.

    Raises:
        Refusal: INVALID_ID.
    """
    base = _base_id(key, headers, body_id)
    ids = [base] if count == 1 else [f"{base}-{index}" for index in range(count)]
    if (size := len(ids[-1].encode(errors="surrogatepass"))) > MAX_ID_BYTES:
        raise Refusal(Reason.INVALID_ID, f"id {brief(ids[-1])} has {size} bytes of UTF-8; at most {MAX_ID_BYTES}")
    if not base.strip():
        raise Refusal(Reason.INVALID_ID, f"id {brief(base)} is blank; leave it out to be given one")
    if not base.isprintable() and any(category(character) == "Cc" for character in base):
        raise Refusal(Reason.INVALID_ID, f"id {brief(base)} holds control characters")
    return ids


def _base_id(key: bytes | None, headers: FoundHeaders, body_id: object) -> str:
    given = headers[CE_ID][1] if CE_ID in headers else key or None
    if given is not None:
        try:
            return given.decode()
        except UnicodeDecodeError as error:
            raise Refusal(Reason.INVALID_ID, f"id {brief(given)} is not UTF-8") from error
    if body_id is None:
        return str(uuid7())
    if not isinstance(body_id, str):
        raise Refusal(Reason.INVALID_ID, f"id {brief(body_id)} is not a string")
    return body_id


def model_spec(
    headers: FoundHeaders, body_model: object, specs: Mapping[str, ModelSpec], default_model: str | None
) -> ModelSpec:
    """The model asked for: by the header `model`, else the body, else the default one.

    Raises:
        Refusal: UNKNOWN_MODEL, INVALID_HEADER, INVALID_FIELD.
    """
    name = _text(headers, MODEL) if MODEL in headers else default_model if body_model is None else body_model
    if name is None:
        raise Refusal(
            Reason.UNKNOWN_MODEL,
            "the request names no model, and there is no default one; say which in the header `model`: "
            f"{', '.join(sorted(specs))}",
        )
    if not isinstance(name, str):
        raise Refusal(Reason.INVALID_FIELD, f"model {brief(name)} is not a string")
    spec = specs.get(name)
    if spec is None:
        raise Refusal(
            Reason.UNKNOWN_MODEL, f"model {brief(name)} is not served here; known: {', '.join(sorted(specs))}"
        )
    return spec


def attributes(headers: FoundHeaders, body_attributes: object) -> dict[str, str]:
    """The body's attributes, with those of headers `attribute-<name>` over them.

    Raises:
        Refusal: INVALID_FIELD, INVALID_HEADER.
    """
    given = {} if body_attributes is None else body_attributes
    if not isinstance(given, dict):
        raise Refusal(Reason.INVALID_FIELD, f"attributes must be an object of strings; found {brief(given)}")
    found: dict[str, str] = {}
    for name, value in given.items():
        found[name] = _checked_attribute(name, value, Reason.INVALID_FIELD)
    for lower_name, (name, _) in headers.items():
        if lower_name.startswith(ATTRIBUTE_PREFIX):
            name = name[len(ATTRIBUTE_PREFIX) :]
            found[name] = _checked_attribute(name, _text(headers, lower_name), Reason.INVALID_HEADER)
    if len(found) > MAX_ATTRIBUTES:
        raise Refusal(Reason.INVALID_FIELD, f"{len(found)} attributes; a request may have {MAX_ATTRIBUTES}")
    return found


def _checked_attribute(name: str, value: object, reason: Reason) -> str:
    if not isinstance(value, str):
        raise Refusal(reason, f"attribute {brief(name)} must be a string; found {brief(value)}")
    if not 0 < len(name) <= MAX_ATTRIBUTE_NAME or len(value) > MAX_ATTRIBUTE_VALUE:
        limits = f"names have 1 to {MAX_ATTRIBUTE_NAME} characters, values at most {MAX_ATTRIBUTE_VALUE}"
        raise Refusal(reason, f"attribute {brief(name)} has {len(name)} and {len(value)} characters; {limits}")
    return value


def traceparent(headers: FoundHeaders) -> bytes | None:
    """The caller's trace context; None if there is none or it cannot be one, which the W3C lets a receiver ignore."""
    _, found = headers.get(TRACEPARENT, ("", None))
    return found if found is not None and len(found) <= MAX_TRACEPARENT else None


def moment(headers: FoundHeaders, header: str, body_field: str, body_value: object) -> float | None:
    """Seconds since the epoch from a header, else from the body; None where neither has it.

    Both may be RFC 3339 or seconds since the epoch.

    Raises:
        Refusal: INVALID_HEADER, INVALID_FIELD.
    """
    if header in headers:
        return _read_moment(_text(headers, header), Reason.INVALID_HEADER, header)
    if body_value is None:
        return None
    return _read_moment(body_value, Reason.INVALID_FIELD, body_field)


def sent_at(headers: FoundHeaders, body_value: object, arrived: float, max_ahead: float) -> float:
    """When the request was sent, seconds since the epoch: by the header `ce_time`, else the body, else its arrival.

    Args:
        arrived: the message's own timestamp; producers may set it to anything.

    Raises:
        Refusal: INVALID_HEADER, INVALID_FIELD; IN_FUTURE, more than `max_ahead` seconds after the arrival.
    """
    arrived = _read_moment(arrived, Reason.INVALID_HEADER, "the message's timestamp")
    said = moment(headers, CE_TIME, "sent_at", body_value)
    if said is None:
        return arrived
    check_not_ahead(CE_TIME if CE_TIME in headers else "sent_at", said, arrived, max_ahead)
    return said


def _read_moment(value: object, reason: Reason, name: str) -> float:
    try:
        if isinstance(value, str):
            return parse_time(value) if "-" in value[1:] and ":" in value else checked_time(float(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return checked_time(float(value))
    except (ValueError, OverflowError) as error:
        raise Refusal(reason, f"{name}: {str(error)[:200]}") from error
    raise Refusal(reason, f"{name} must be RFC 3339 or seconds since the epoch; found {brief(value)}")


def _text(headers: FoundHeaders, name: str) -> str:
    try:
        return headers[name][1].decode()
    except UnicodeDecodeError as error:
        raise Refusal(Reason.INVALID_HEADER, f"header {name} is not UTF-8: {brief(headers[name][1])}") from error
