"""The generated tables of `docs/messages.md`: topics, reasons for refusal, and the fields of every message."""

from collections.abc import Iterable
from typing import Any

from schemas.json_schema import Schema, component_schemas
from schemas.messages import MESSAGES
from schemas.refusal import Reason
from schemas.topics import DAY_MS, MAX_REQUEST_BYTES, MIB, TOPICS, Topic

REASON_MEANINGS: dict[str, str] = {
    "empty_value": "The message has no value",
    "oversize": f"The value is larger than {MAX_REQUEST_BYTES // MIB} MiB",
    "invalid_id": "The request id is blank, too long, or holds control characters or what is not UTF-8",
    "invalid_header": "A header is not UTF-8, too long, or no moment where one is expected",
    "unknown_model": "No model of that name is loaded",
    "unknown_content_type": "The header `content-type` is missing or not one of those above",
    "invalid_json": "The value is not a JSON object",
    "missing_field": "A field that the format needs is not there",
    "invalid_field": "A field has the wrong type or an impossible value",
    "unreadable_image": "The picture or npy file is truncated, damaged or not what the content type says",
    "too_many_pixels": "The picture claims more pixels than are looked at; nothing was decompressed",
    "too_many_images": "More images in one message than are allowed",
    "wrong_shape": "Another height, width or number of channels than the model takes",
    "wrong_dtype": "Another type of number than is taken",
    "not_finite": "NaN or infinity among the numbers",
    "in_future": "A moment further ahead of the message's arrival than `MODELWATCH_MAX_AHEAD_SECONDS`",
    "out_of_range": "Numbers outside what is taken: uint8 in 0..255, floats where bytes are to the model",
    "unusable_answer": "The model answered what is no probability, or not finite, about the images that are named",
    "orphan": "Feedback whose request is unknown: no pair came, and no record has its id",
    "mapping_rejected": "The record store refused the record; the rest of its batch was written",
}


def topic_table() -> str:
    """A row a topic."""
    head = ("topic", "key", "value", "written by", "kept", "largest message")
    return _table(head, (_topic_row(topic) for topic in TOPICS))


def _topic_row(topic: Topic) -> tuple[str, ...]:
    value = topic.message.__name__ if topic.message else topic.description
    days, size = topic.retention_ms // DAY_MS, topic.max_message_bytes // MIB
    linked = f"[{value}](#{value.lower()})" if topic.message else value
    kept = "the last of each key" if topic.compacted else f"{days} d"
    return f"`{topic.name}`", topic.key, linked, topic.written_by, kept, f"{size} MiB"


def reason_table() -> str:
    """A row a reason for refusal."""
    rows = ((f"`{reason.value}`", REASON_MEANINGS.get(reason.value, "")) for reason in Reason)
    return _table(("reason", "what was wrong"), rows)


def message_tables() -> str:
    """A table of fields for each message, then for each part that messages share."""
    schemas = component_schemas()
    messages = [model.__name__ for model in MESSAGES]
    parts = sorted(name for name, schema in schemas.items() if name not in messages and "properties" in schema)
    sections = [_fields(f"### {name}", schemas[name], schemas) for name in messages]
    sections += [_fields(f"### {name}", schemas[name], schemas) for name in parts]
    return "\n\n".join(sections)


def _fields(heading: str, schema: Schema, schemas: dict[str, Schema]) -> str:
    required = schema.get("required", [])
    rows = (
        (
            f"`{name}`" if name in required else f"`{name}`?",
            _kind(field, schemas),
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
    )
    return f"{heading}\n\n{schema.get('description', '')}\n\n{_table(('field', 'type', 'meaning'), rows)}"


def _kind(field: Schema, schemas: dict[str, Schema]) -> str:
    """The type of a field, as a reader would say it."""
    if "$ref" in field:
        return _reference(field["$ref"].rpartition("/")[2], schemas)
    if "anyOf" in field:
        kinds = [_kind(option, schemas) for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return _choices(field["enum"])
    if field["type"] == "array":
        return f"list of {_kind(field['items'], schemas)}"
    if field["type"] == "object":
        return f"map to {_kind(field['additionalProperties'], schemas)}"
    return _scalar(field)


def _reference(name: str, schemas: dict[str, Schema]) -> str:
    target = schemas[name]
    return _choices(target["enum"]) if "enum" in target else f"[{name}](#{name.lower()})"


def _choices(values: list[Any]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _scalar(field: Schema) -> str:
    if field.get("contentEncoding") == "base64":
        return "base64"
    if field.get("format") == "date-time":
        return "time"
    limits = {
        "minimum": "≥ {}",
        "maximum": "≤ {}",
        "minLength": "at least {} long",
        "maxLength": "at most {} long",
    }
    said = ", ".join(text.format(field[name]) for name, text in limits.items() if name in field)
    return f"{field['type']}, {said}" if said else str(field["type"])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
