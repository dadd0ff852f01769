"""Damage that gets past a parser: one value of a JSON document replaced, one checksum of a PNG file made right."""

import json
import random
from typing import Any

from tests.payloads import png_chunk

TOKENS = (
    "null",
    "true",
    "0",
    "-1",
    "3",
    "0.5",
    "1e300",
    "-1e300",
    "1e999",
    "NaN",
    "-Infinity",
    str(2**31),
    str(2**63),
    str(2**64),
    "9" * 40,
    "9" * 5000,
    '""',
    '"AAAA"',
    '"\\u0000"',
    '"\\ud800"',
    '"😀"',
    '"%s"' % ("x" * 300),
    '"0001-01-01T00:00:00+14:00"',
    '"9999-12-31T23:59:59-14:00"',
    '"1969-12-31T23:59:59Z"',
    '"2026-01-01T00:00:00"',
    "[]",
    "[0]",
    "[NaN]",
    "[1e300,1e300]",
    "{}",
    '{"a":{"b":[]}}',
    "[" * 300 + "]" * 300,
    '{"a":' * 300 + "1" + "}" * 300,
    "[" * 1100 + "]" * 1100,
)
"""JSON that a field may get in the place of its value; some of it is no JSON, as of careless senders."""
_MARK = "2b1d7c0a-place"


def with_another_value(data: bytes, chance: random.Random) -> bytes:
    """The document with one value replaced, added or taken away; `data` as it is if it is no JSON."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places = list(_places(document))
    token = chance.choice(TOKENS)
    if not places:
        return token.encode()
    holder, key = chance.choice(places)
    what = chance.randrange(8)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[chance.choice(("extra", *holder))] = _MARK
    elif what == 2:
        holder[key] = [holder[key]] * chance.choice((2, 3, 65))
    else:
        holder[key] = _MARK
    return json.dumps(document).replace(f'"{_MARK}"', token).encode()


def _places(node: Any, depth: int = 0) -> Any:
    """Every holder of a value, and the value's key in it, down to a depth."""
    if depth > 8:
        return
    items = node.items() if isinstance(node, dict) else enumerate(node[:20]) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value, depth + 1)


def repaired_png(data: bytes) -> bytes:
    """The same chunks with right checksums, so that damage goes deeper."""
    at, out = 8, data[:8]
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        out += png_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out
