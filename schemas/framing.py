"""A schema registry's framing before a message: recognised, so that a refusal can say what the first bytes are.

Source: Confluent, "Wire format" of Schema Registry's serializers: a zero byte, the schema's id in four bytes, the data.
"""

_FRAME = 5
_JSON_BEGINS = (b"{", b"[")


def framing_hint(value: bytes) -> str:
    """What to add to "not JSON" where a serializer of a schema registry wrote the value; else nothing."""
    if value[:1] != b"\0" or not value[_FRAME : _FRAME + 64].lstrip().startswith(_JSON_BEGINS):
        return ""
    schema = int.from_bytes(value[1:_FRAME], "big")
    return (
        f"; the first five bytes are a schema registry's framing (a zero byte, then the schema's id, {schema}): "
        "produce with a serializer of plain strings or bytes instead of the registry's, or take the five bytes off"
    )
