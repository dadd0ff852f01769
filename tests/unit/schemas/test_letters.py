"""Dead letters, read back."""

from typing import Any

import pytest

from schemas.headers import dead_letter_headers
from schemas.letters import OURS, read_letter
from schemas.refusal import Refusal

OWN: list[tuple[str, bytes | None]] = [("topic", b"the sender's own"), ("empty", None), ("bytes", b"\xff")]


def written(value: bytes | None = b"value", offset: int = 7) -> list[tuple[str, bytes | None]]:
    return dead_letter_headers(OWN, "inference.feedback", 3, offset, "confusion", "orphan", "why")


def test_what_is_read_is_what_was_written() -> None:
    letter = read_letter(b"key", b"value", written())
    assert (letter.key, letter.value, letter.headers) == (b"key", b"value", OWN)
    assert (letter.topic, letter.partition, letter.offset) == ("inference.feedback", 3, 7)
    assert (letter.stage, letter.reason, letter.error) == ("confusion", "orphan", "why")


def test_letters_about_the_same_bytes_have_one_identity_and_others_have_not() -> None:
    one, again = read_letter(b"key", b"value", written()), read_letter(None, b"value", written())
    others = [read_letter(b"key", b"item", written()), read_letter(b"key", b"value", written(offset=8))]
    assert one.identity == again.identity
    assert len({one.identity, *(other.identity for other in others)}) == 3


@pytest.mark.parametrize("headers", [[], OWN, written()[:-1], [(name, b"x") for name in OURS]])
def test_what_is_no_letter_is_refused(headers: list[Any]) -> None:
    with pytest.raises(Refusal, match="not a dead letter"):
        read_letter(None, b"", headers)
