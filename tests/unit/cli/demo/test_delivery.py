"""The ledger says what is missing, what is there twice, and what was changed on its way to the dead letters."""

from pathlib import Path

import pytest

from cli.demo.delivery import Ledger
from cli.demo.verdict import Verdict
from cli.produce import BAD_MESSAGES, Sent
from schemas.messages import InferencePair

GOLDEN = InferencePair.model_validate_json(Path("tests/golden/v1/InferencePair.json").read_bytes())
PAIR, LETTERS, RECORD = (
    "every request has exactly one pair",
    "dead letters are the bad messages sent on purpose",
    "every request has exactly one record with its verdict",
)


def pair(name: str) -> InferencePair:
    return GOLDEN.model_copy(update={"request": GOLDEN.request.model_copy(update={"request_id": name})})


@pytest.fixture
def ledger() -> Ledger:
    """Three images and eight bad messages, all where they should be."""
    sent = {
        "clean": [Sent("c", ["c-0", "c-1"], [f"c-bad-{number}" for number in range(len(BAD_MESSAGES) + 1)])],
        "truck": [Sent("t", ["t-0"])],
    }
    ledger = Ledger(sent)
    ledger.pairs = [pair(name) for name in ("t-0", "c-1", "c-0")]
    ledger.letters = [(key, value, "unreadable_image") for key, value in ledger.bad_messages.elements()]
    ledger.records = {name: {"outlier": {"score": 0.1, "is_outlier": False}} for name in ledger.request_ids}
    ledger.stored = 3
    return ledger


def failed(ledger: Ledger) -> list[str]:
    verdict = Verdict()
    ledger.check(verdict)
    assert len(verdict.checks) == 3
    return [check["name"] for check in verdict.checks if not check["ok"]]


def test_what_is_whole_passes(ledger: Ledger) -> None:
    assert failed(ledger) == [] and ledger.complete and all(one.whole for one in ledger.deliveries())
    [clean, truck] = ledger.deliveries()
    assert (clean.sent, clean.pairs, clean.records, clean.bad, clean.dead_letters) == (2, 2, 2, 8, 8)
    assert (truck.sent, truck.pairs, truck.records, truck.bad, truck.dead_letters) == (1, 1, 1, 0, 0)


def test_a_missing_pair_is_found(ledger: Ledger) -> None:
    ledger.pairs.pop()
    assert failed(ledger) == [PAIR] and not ledger.complete and not ledger.deliveries()[0].whole


def test_a_pair_too_many_is_found(ledger: Ledger) -> None:
    ledger.pairs.append(pair("t-0"))
    assert failed(ledger) == [PAIR] and not ledger.deliveries()[1].whole


def test_a_pair_nobody_asked_for_is_found(ledger: Ledger) -> None:
    ledger.pairs.append(pair("stranger"))
    assert failed(ledger) == [PAIR]


def test_a_missing_letter_is_found(ledger: Ledger) -> None:
    ledger.letters.pop()
    assert failed(ledger) == [LETTERS] and not ledger.deliveries()[0].whole


def test_a_letter_that_was_changed_is_found(ledger: Ledger) -> None:
    key, value, reason = ledger.letters[0]
    ledger.letters[0] = (key, value + b" ", reason)
    assert failed(ledger) == [LETTERS]


def test_a_good_message_among_the_letters_is_found(ledger: Ledger) -> None:
    ledger.letters.append(("c-0", b"image", "unreadable_image"))
    assert failed(ledger) == [LETTERS]


def test_a_record_without_a_verdict_is_found(ledger: Ledger) -> None:
    ledger.records["c-0"] = {"request_id": "c-0"}
    assert failed(ledger) == [RECORD] and not ledger.complete


def test_a_record_too_many_is_found(ledger: Ledger) -> None:
    ledger.stored = 4
    assert failed(ledger) == [RECORD]
