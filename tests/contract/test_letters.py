"""Dead letters on each broker: counted, shown, sent again once, deleted."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.letters.reading import Selection, letters
from cli.letters.sending import Replay
from cli.main import app
from cli.topic_reader import read_to_end
from runtime import kafka
from runtime.settings import Settings
from schemas.letters import Source, dead_letter
from schemas.refusal import Reason, Refusal
from schemas.topics import DEAD_LETTERS, FEEDBACK, PAIRS

Run = Callable[..., Any]
FAR = 1_000_000
"""An offset where no message of a test lies."""


@pytest.fixture
def settings(kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of the commands, by the environment, on topics that exist."""
    kafka.create_topics(kafka_settings)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_settings.kafka_bootstrap_servers)
    return kafka_settings


@pytest.fixture
def run(settings: Settings) -> Run:
    """Run `modelwatch letters …`; the output."""

    def call(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["letters", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.output) if "--json" in arguments else done.output

    return call


def write(settings: Settings, stage: str, *values: bytes | None, topic: str = FEEDBACK.name, first: int = FAR) -> None:
    """Letters about messages of `topic`, partition 1."""
    producer = kafka.producer(settings)
    for number, value in enumerate(values, first):
        refusal = Refusal(Reason.INVALID_JSON, "not JSON: [red]")
        letter = dead_letter(b"key", value, [("own", b"\xff")], (topic, 1, number), stage, refusal)
        producer.produce(DEAD_LETTERS.name, **letter._asdict())
    assert producer.flush(30) == 0


def messages_of(settings: Settings, topic: str, value: bytes) -> list[Any]:
    """Every message with this value."""
    return [message for message in read_to_end(settings, topic) if message.value() == value]


def test_letters_are_counted_by_stage_reason_and_topic(settings: Settings, run: Run, unique: str) -> None:
    write(settings, unique, b"one", b"two")
    write(settings, unique, b"three", topic=PAIRS.name)
    rows = run("list", "--stage", unique, "--json")
    assert {row["topic"]: row["letters"] for row in rows} == {FEEDBACK.name: 2, PAIRS.name: 1}
    assert {row["error"] for row in rows} == {"not JSON: [red]"}
    assert "not JSON: [red]" in run("show", "--stage", unique)
    text = run("list", "--stage", unique)
    assert f"{unique}  invalid_json  {FEEDBACK.name}: 2 letters, 0 sent again" in text.splitlines()
    assert "not JSON: [red]" in text


def test_a_letter_is_shown_with_place_headers_and_bytes(
    settings: Settings, run: Run, unique: str, tmp_path: Path
) -> None:
    write(settings, unique, b"\x00\x1b[2Jpicture")
    [shown] = run("show", "--stage", unique, "--json", "--output", str(tmp_path))
    assert (shown["topic"], shown["partition"], shown["offset"], shown["key"]) == (FEEDBACK.name, 1, FAR, "key")
    assert shown["headers"] == [["own", "\\xff"]]
    assert (tmp_path / f"{shown['place'].replace(':', '-')}.bin").read_bytes() == b"\x00\x1b[2Jpicture"
    text = run("show", shown["place"])
    assert "00 1b 5b 32 4a" in text
    assert "\x1b[2J" not in text


def test_a_letter_is_sent_once_however_often_it_was_refused_and_replayed(
    settings: Settings, run: Run, unique: str
) -> None:
    value = f'{{"truth": "{unique}"'.encode()
    write(settings, unique, value, value)
    write(settings, unique, value)  # the first again, by an agent that was killed before it committed
    assert "2 would be sent" in run("replay", "--stage", unique, "--dry-run")
    assert messages_of(settings, FEEDBACK.name, value) == []
    assert "2 sent" in run("replay", "--stage", unique)
    assert "3 left: sent before" in run("replay", "--stage", unique)
    sent = messages_of(settings, FEEDBACK.name, value)
    assert [(one.key(), one.headers()) for one in sent] == [(b"key", [("own", b"\xff")])] * 2
    [row] = run("list", "--stage", unique, "--json")
    assert (row["letters"], row["sent_again"]) == (3, 3)


def refuse_again(settings: Settings, stage: str, value: bytes, after: int) -> int:
    """Letters about what lies on the topic with this value, from the `after`-th on, as an agent writes them."""
    producer, messages = kafka.producer(settings), messages_of(settings, FEEDBACK.name, value)
    for message in messages[after:]:
        place = message.topic(), message.partition(), message.offset()
        refusal = Refusal(Reason.INVALID_JSON, "not JSON")
        letter = dead_letter(message.key(), message.value(), message.headers(), place, stage, refusal)
        producer.produce(DEAD_LETTERS.name, **letter._asdict())
    assert producer.flush(30) == 0
    return len(messages)


def test_what_is_refused_again_after_a_replay_is_sent_again_only_when_told_to(
    settings: Settings, run: Run, unique: str
) -> None:
    value = unique.encode()
    write(settings, unique, value, value)
    assert "2 sent" in run("replay", "--stage", unique)
    assert refuse_again(settings, unique, value, 0) == 2
    said = run("replay", "--stage", unique)
    assert "2 left: sent before" in said
    assert "2 left: refused again after a replay (mend the cause first; --again sends them once more)" in said
    [row] = run("list", "--stage", unique, "--json")
    assert (row["letters"], row["of_replays"], row["sent_again"]) == (4, 2, 2)
    assert ": 4 letters (2 of replays), 2 sent again" in run("list", "--stage", unique)
    assert "2 sent" in run("replay", "--stage", unique, "--again")
    assert "4 left: sent before" in run("replay", "--stage", unique, "--again")
    assert refuse_again(settings, unique, value, 2) == 4
    assert "2 left: refused again" in run("replay", "--stage", unique)
    assert len(messages_of(settings, FEEDBACK.name, value)) == 4


def test_the_same_bytes_from_their_sender_are_no_replay(settings: Settings, run: Run, unique: str) -> None:
    write(settings, unique, unique.encode())
    assert "1 sent" in run("replay", "--stage", unique)
    write(settings, unique, unique.encode(), first=2 * FAR)
    assert "1 sent" in run("replay", "--stage", unique)


def test_whoever_is_stopped_in_the_middle_sends_the_rest_the_next_time(
    settings: Settings, run: Run, unique: str
) -> None:
    value = unique.encode()
    write(settings, unique, *[value] * 150)
    stopped = Replay(settings, internal=False, dry_run=False)
    assert next(stopped.send(letters(settings, Selection(stage=unique)))) == 100
    assert "50 sent" in run("replay", "--stage", unique)
    assert len(messages_of(settings, FEEDBACK.name, value)) == 150


def test_what_only_modelwatch_writes_is_sent_only_when_told_to(settings: Settings, run: Run, unique: str) -> None:
    write(settings, unique, unique.encode(), topic=PAIRS.name)
    write(settings, unique, unique.encode(), topic=f"gone-{unique}")
    said = run("replay", "--stage", unique)
    assert "2 left: not from outside" in said
    said = run("replay", "--stage", unique, "--internal", "--dry-run")
    assert "1 would be sent to inference.pairs" in said
    assert "1 left: topic gone" in said


def test_a_letter_without_its_message_is_left(settings: Settings, run: Run, unique: str) -> None:
    write(settings, unique, None)
    assert "1 left: not whole in its letter" in run("replay", "--stage", unique)


def test_a_record_of_many_messages_is_left_where_its_report_is(settings: Settings, run: Run, unique: str) -> None:
    producer = kafka.producer(settings)
    source = Source(b"m", b"{}", FEEDBACK.name)
    place = source.topic, source.partition, source.offset
    letter = dead_letter(source.key, source.value, None, place, unique, Refusal(Reason.MAPPING_REJECTED, "no"))
    producer.produce(DEAD_LETTERS.name, **letter._asdict())
    assert producer.flush(30) == 0
    assert "1 left: of no message" in run("replay", "--stage", unique, "--internal")


def test_a_replay_must_say_which_letters(settings: Settings) -> None:
    done = CliRunner().invoke(app, ["letters", "replay"])
    assert done.exit_code == 2
    assert "--all" in done.output


def test_old_letters_are_deleted_for_good(settings: Settings, run: Run, unique: str) -> None:
    write(settings, unique, b"old")
    assert "No dead letters are that old" in run("purge", "--before", "9000d", "--yes")
    time.sleep(0.05)
    assert "Deleted" in run("purge", "--before", "0s", "--yes")
    assert run("list", "--stage", unique, "--json") == []
