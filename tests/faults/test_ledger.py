"""The books of the fault runs can fail: whatever is lost, doubled, mixed up or miscounted is said, and of whom."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from agents.confusion.sums import Sums
from agents.confusion.told_sums import LIFETIME, ToldSums
from schemas.letters import DeadLetter
from schemas.messages import DriftReport, LogPosition
from tests.faults.agents import MODEL
from tests.faults.ledger import Everything, Ledger, Side, compare
from tests.faults.side_found import counts_of, refused_of
from tests.faults.side_ledger import Answer, Expected, Found, Refused, SideLedger, SideRequest, balance_side

WINDOW = 3
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
FIRST, BOTH, LAST = (Expected(frozenset(versions), False) for versions in ("1", "12", "2"))
GONE, LEAVING = Expected(frozenset(), True), Expected(frozenset({"2"}), True)
PHASES = [FIRST, FIRST, FIRST, BOTH, LAST, LEAVING, LEAVING, GONE]
SENT = [SideRequest(f"s-{number}", "side", number % 10, phase) for number, phase in enumerate(PHASES)]
VERSIONS = {"s-0": "1", "s-1": "1", "s-2": "1", "s-3": "2", "s-4": "2", "s-5": "2"}
ANSWERS = [Answer(name, "side", version) for name, version in VERSIONS.items()]
LETTERS = [Refused("s-6", "unknown_model"), Refused("s-7", "unknown_model")]
TOLD = {"s-0", "s-1", "s-3", "s-4"}


def record(truth: int | None) -> dict[str, Any]:
    return {"outlier": {"score": 0.1}} | ({} if truth is None else {"feedback": {"truth": truth}})


RECORDS = {one.record: record(int(one.request_id[2:]) if one.request_id in TOLD else None) for one in ANSWERS}


def window(name: str, version: str, *members: str, closed_by: str = "full", model: str = "side") -> DriftReport:
    place = LogPosition(partition=0, offset=0, time=NOW)
    return DriftReport.model_validate(
        {
            "window_id": name,
            "model": model,
            "model_version": version,
            "first": place,
            "last": place,
            "size": len(members),
            "closed_by": closed_by,
            "request_ids": members,
            "detectors": {},
            "reported_at": NOW,
        }
    )


WINDOWS = [window("w1", "1", "s-0", "s-1", "s-2"), window("w2", "2", "s-3", "s-4", "s-5")]
COUNTS = {("side", "1"): (3, 2), ("side", "2"): (3, 2)}
SOUND = Found(ANSWERS, LETTERS, RECORDS, WINDOWS, COUNTS)


def books(found: Found) -> SideLedger:
    return balance_side(SENT, TOLD, found, WINDOW)


def without(records: Mapping[str, Any], name: str, part: str) -> dict[str, Any]:
    return {key: {k: v for k, v in one.items() if key != name or k != part} for key, one in records.items()}


def test_books_in_which_each_request_has_one_whole_answer_or_one_refusal_are_balanced() -> None:
    ledger = books(SOUND)
    assert ledger.balanced and ledger.differences == {}
    assert (ledger.sent, ledger.answered, ledger.refused, ledger.joined, ledger.in_windows) == (8, 6, 2, 4, 6)
    assert ledger.lost == ledger.doubled == set()


@pytest.mark.parametrize("request_id", [one.request_id for one in SENT])
def test_a_request_whose_outcome_is_missing_is_lost(request_id: str) -> None:
    found = replace(
        SOUND,
        answers=[one for one in ANSWERS if one.request_id != request_id],
        letters=[one for one in LETTERS if one.request_id != request_id],
    )
    ledger = books(found)
    assert ledger.unaccounted == [request_id]
    assert request_id in ledger.lost and not ledger.balanced


@pytest.mark.parametrize("request_id", [one.request_id for one in SENT])
@pytest.mark.parametrize("second", ["pair", "letter"])
def test_a_request_with_two_outcomes_is_doubled_whichever_they_are(request_id: str, second: str) -> None:
    pair, letter = Answer(request_id, "side", "2"), Refused(request_id, "unknown_model")
    more = {"answers": [*ANSWERS, pair]} if second == "pair" else {"letters": [*LETTERS, letter]}
    ledger = books(replace(SOUND, **more))
    assert ledger.doubled_outcomes == [request_id]
    assert request_id in ledger.doubled and not ledger.balanced


Change = Callable[[], Found]
W1, W2 = WINDOWS
LOST: dict[str, tuple[Change, str]] = {
    "no record": (lambda: replace(SOUND, records={k: v for k, v in RECORDS.items() if "s-2" not in k}), "unscored"),
    "no verdict": (lambda: replace(SOUND, records=without(RECORDS, ANSWERS[2].record, "outlier")), "unscored"),
    "no truth": (lambda: replace(SOUND, records=without(RECORDS, ANSWERS[1].record, "feedback")), "unjoined"),
    "another truth": (lambda: replace(SOUND, records=RECORDS | {ANSWERS[1].record: record(7)}), "unjoined"),
    "record of another version": (
        lambda: replace(SOUND, records={k.replace("s-2@side:1", "s-2@side:2"): v for k, v in RECORDS.items()}),
        "unscored",
    ),
    "in no window": (
        lambda: replace(SOUND, windows=[window("w1", "1", "s-0", "s-1", closed_by="age"), W2]),
        "unwindowed",
    ),
}


@pytest.mark.parametrize(("change", "field"), LOST.values(), ids=LOST)
def test_an_answer_of_which_a_part_is_missing_is_lost(change: Change, field: str) -> None:
    ledger = books(change())
    assert set(getattr(ledger, field)) <= {"s-1", "s-2"} and len(getattr(ledger, field)) == 1
    assert ledger.lost & {"s-1", "s-2"} and not ledger.balanced


WRONG: dict[str, tuple[Change, str]] = {
    "answered by a version that has gone": (
        lambda: replace(SOUND, answers=[*ANSWERS[:4], Answer("s-4", "side", "1"), ANSWERS[5]]),
        "unexpected",
    ),
    "answered by another model": (
        lambda: replace(SOUND, answers=[Answer("s-0", "other", "1"), *ANSWERS[1:]]),
        "unexpected",
    ),
    "answered though the model has gone": (
        lambda: replace(SOUND, answers=[*ANSWERS, Answer("s-7", "side", "2")], letters=LETTERS[:1]),
        "unexpected",
    ),
    "refused though the model is there": (
        lambda: replace(SOUND, answers=ANSWERS[1:], letters=[*LETTERS, Refused("s-0", "unknown_model")]),
        "unexpected",
    ),
    "refused for another reason": (
        lambda: replace(SOUND, letters=[Refused("s-6", "wrong_shape"), LETTERS[1]]),
        "unexpected",
    ),
    "a pair that nobody asked for": (
        lambda: replace(SOUND, answers=[*ANSWERS, Answer("x", "side", "1")]),
        "strangers",
    ),
    "a record of a refused request": (
        lambda: replace(SOUND, records=RECORDS | {"s-7@side:2": record(None)}),
        "strangers",
    ),
    "a stranger in a window": (
        lambda: replace(SOUND, windows=[*WINDOWS, window("w3", "2", "x", "y", "z")]),
        "strangers",
    ),
    "in two windows": (
        lambda: replace(SOUND, windows=[*WINDOWS, window("w3", "2", "s-3", closed_by="age")]),
        "doubled_in_windows",
    ),
    "versions mixed in a window": (
        lambda: replace(
            SOUND, windows=[window("w1", "1", "s-0", "s-1", "s-3"), window("w2", "2", "s-2", "s-4", "s-5")]
        ),
        "wrong_windows",
    ),
    "a window that closed as full and is not": (
        lambda: replace(
            SOUND, windows=[window("w1", "1", "s-0", "s-1"), window("w3", "1", "s-2", closed_by="age"), W2]
        ),
        "wrong_windows",
    ),
    "a pair counted twice": (lambda: replace(SOUND, counts=COUNTS | {("side", "1"): (4, 2)}), "miscounted"),
    "a truth not counted": (lambda: replace(SOUND, counts=COUNTS | {("side", "2"): (3, 1)}), "miscounted"),
    "a version not counted": (lambda: replace(SOUND, counts={("side", "1"): (3, 2)}), "miscounted"),
    "a version counted that answered nothing": (
        lambda: replace(SOUND, counts=COUNTS | {("side", "3"): (1, 0)}),
        "miscounted",
    ),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG)
def test_what_is_not_as_it_should_be_is_named(change: Change, field: str) -> None:
    ledger = books(change())
    assert getattr(ledger, field) and field in ledger.differences
    assert not ledger.balanced


OWN = {f"lab-{number}": number for number in range(4)}
OWN_RECORDS = {name: record(truth) for name, truth in OWN.items()}
EVERYTHING = Everything(
    answers=[*(Answer(name, MODEL, "1") for name in OWN), *ANSWERS],
    letters=[
        DeadLetter(
            one.request_id.encode(), b"image", [], "inference.requests", 0, place, "inference", one.reason, "", ""
        )
        for place, one in enumerate(LETTERS)
    ],
    records=OWN_RECORDS | RECORDS,
    windows={one.window_id: one for one in [*WINDOWS, window("m1", "1", "lab-0", "lab-1", "lab-2", model=MODEL)]},
    counts=COUNTS,
)


def whole(there: Everything) -> Ledger:
    return compare(there, OWN, ["lab-0"], {"lab-0"}, WINDOW, Side(SENT, TOLD, WINDOW))


def test_the_whole_books_are_balanced_if_both_the_lab_s_own_model_s_and_the_others_are() -> None:
    ledger = whole(EVERYTHING)
    assert ledger.balanced and ledger.dead_letters == 0
    assert (ledger.pairs, ledger.records, ledger.joined, ledger.in_windows) == (4, 4, 4, 3)
    assert (ledger.side.answered, ledger.side.refused, ledger.side.in_windows) == (6, 2, 6)


@pytest.mark.parametrize("answer", [Answer("lab-1", MODEL, "1"), Answer("lab-1", "side", "1"), Answer("?", MODEL, "1")])
def test_a_pair_too_many_is_found_whosever_it_is(answer: Answer) -> None:
    ledger = whole(replace(EVERYTHING, answers=[*EVERYTHING.answers, answer]))
    assert ledger.doubled == {answer.request_id} and not ledger.balanced


@pytest.mark.parametrize("name", ["lab-1", "s-1"])
def test_a_pair_too_few_is_found_whosever_it_is(name: str) -> None:
    ledger = whole(replace(EVERYTHING, answers=[one for one in EVERYTHING.answers if one.request_id != name]))
    assert name in ledger.lost and not ledger.balanced


def test_a_record_of_nobody_s_is_a_stranger() -> None:
    ledger = whole(replace(EVERYTHING, records=EVERYTHING.records | {"lab-1@side:1": record(None)}))
    assert ledger.doubled == {"lab-1@side:1"} and not ledger.balanced


def test_a_letter_about_the_lab_s_own_request_or_about_anything_else_is_no_expected_one() -> None:
    [first, _] = EVERYTHING.letters
    for letter in (replace(first, key=b"lab-1"), replace(first, key=None), replace(first, topic="inference.feedback")):
        assert whole(replace(EVERYTHING, letters=[*EVERYTHING.letters, letter])).dead_letters == 1
    assert refused_of(first) == LETTERS[0]


def test_a_second_letter_about_a_refused_request_is_doubled() -> None:
    ledger = whole(replace(EVERYTHING, letters=[*EVERYTHING.letters, EVERYTHING.letters[0]]))
    assert ledger.doubled == {"s-6"} and not ledger.balanced


def told(epoch: int, pairs: int, labelled: int, partition: int = 0, window: int = LIFETIME) -> ToldSums:
    return ToldSums("side", "1", window, partition, epoch, Sums(pairs=pairs, labelled=labelled))


def test_what_is_counted_is_what_each_partition_s_latest_owner_told_last() -> None:
    log = [told(5, 1, 0), told(5, 3, 1), told(9, 4, 2), told(5, 100, 100), told(9, 2, 2, 1), told(9, 50, 50, window=7)]
    assert counts_of(log) == {("side", "1"): (6, 4)}
    assert counts_of([*log, None, ToldSums("side", "1", LIFETIME, 0)]) == {("side", "1"): (2, 2)}
