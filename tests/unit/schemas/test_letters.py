"""Dead letters: whole, with their place and reason behind them, never larger than their topic takes; and read back."""

from typing import Any

import pytest

from schemas.letters import MAX_ERROR_BYTES, MAX_LETTER_BYTES, OURS, Letter, dead_letter, read_letter
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS

OWN: list[tuple[str, bytes | None]] = [("topic", b"the sender's own"), ("empty", None), ("bytes", b"\xff")]


PLACE = ("inference.feedback", 3, 77)
REFUSAL = Refusal(Reason.INVALID_JSON, "not JSON")


def written(value: bytes | None = b"value", offset: int = 7) -> list[tuple[str, bytes | None]]:
    place = ("inference.feedback", 3, offset)
    return dead_letter(b"key", value, OWN, place, "confusion", Refusal(Reason.ORPHAN, "why")).headers


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


def size(letter: Letter) -> int:
    """Of all that a stranger may determine, and ours."""
    headers = sum(len(name.encode()) + len(value or b"") for name, value in letter.headers)
    return len(letter.key or b"") + len(letter.value or b"") + headers


def test_a_letter_is_the_message_unchanged_with_its_place_and_reason_behind_it() -> None:
    own = [("topic", b"of the sender"), ("a", None), ("a", b"\xff")]
    letter = dead_letter(b"camera-7", b"\0value", own, PLACE, "confusion", REFUSAL)
    assert (letter.key, letter.value, letter.headers[:3]) == (b"camera-7", b"\0value", own)
    assert [name for name, _ in letter.headers[3:]] == list(OURS)
    found = dict(letter.headers[3:])
    assert (found["topic"], found["partition"], found["offset"]) == (b"inference.feedback", b"3", b"77")
    assert (found["stage"], found["reason"], found["error"]) == (b"confusion", b"invalid_json", b"not JSON")


@pytest.mark.parametrize("part", ["key", "value", "name", "header"])
def test_no_letter_is_larger_than_its_topic_takes_and_each_says_where_the_rest_lies(part: str) -> None:
    much = bytes(MAX_LETTER_BYTES)
    key, value = (much if part == "key" else b"k"), (much if part == "value" else b"v")
    own = [("n" * MAX_LETTER_BYTES if part == "name" else "n", much if part == "header" else b"")]
    letter = dead_letter(key, value, own, PLACE, "inference", Refusal(Reason.OVERSIZE, "画" * MAX_ERROR_BYTES))
    assert letter.value is None
    assert letter.key == (None if part == "key" else b"k")
    assert [name for name, _ in letter.headers] == list(OURS)
    assert size(letter) < 4096
    whole = dead_letter(b"k", bytes(MAX_LETTER_BYTES - 1), [], PLACE, "inference", REFUSAL)
    assert whole.value is not None
    assert size(whole) < DEAD_LETTERS.max_message_bytes


def test_the_error_of_a_letter_is_bounded_in_bytes_and_still_text() -> None:
    for detail in ("画" * MAX_ERROR_BYTES, "x\ud800y"):
        error = dict(dead_letter(None, None, None, PLACE, "inference", Refusal(Reason.OVERSIZE, detail)).headers)[
            "error"
        ]
        assert error is not None
        assert 0 < len(error) <= MAX_ERROR_BYTES
        error.decode()
