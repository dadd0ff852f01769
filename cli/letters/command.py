"""`modelwatch letters {list,show,replay,purge}`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pybase64
from rich.console import Console
from rich.progress import Progress

from cli.letters.purging import purge, purgeable
from cli.letters.reading import Found, Selection, letters, replayed
from cli.letters.sending import CUT, GONE, INTERNAL, REFUSED_AGAIN, UNPLACED, Replay
from runtime.errors import ConfigurationError
from runtime.settings import Settings, read_settings

SHOWN_BYTES = 512
REMEDIES = {
    CUT: "the message is where it lay, if its topic still has it",
    INTERNAL: "--internal sends it all the same; services that took it before take it again",
    GONE: "its topic does not exist any more",
    REFUSED_AGAIN: "mend the cause first; --again sends them once more",
    UNPLACED: "a record made of many messages was refused; its report is on its topic",
}


def list_letters(selection: Selection, as_json: bool) -> None:
    """Print a row for each stage, reason and topic: how many, of replays, sent again, first, last, latest error."""
    settings = read_settings(Settings)
    known = replayed(settings)
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for found in letters(settings, selection):
        letter = found.letter
        group = groups.setdefault(
            (letter.stage, letter.reason, letter.topic),
            {"letters": 0, "of_replays": 0, "sent_again": 0, "first": letter.time},
        )
        group["letters"] += 1
        group["of_replays"] += letter.identity in known.sent
        group["sent_again"] += letter.identity in known.done
        group |= {"last": letter.time, "place": found.place, "error": letter.error}
    rows = [
        {"stage": stage, "reason": reason, "topic": topic, **group}
        for (stage, reason, topic), group in sorted(groups.items(), key=lambda item: -item[1]["letters"])
    ]
    if as_json:
        _print_json(rows)
        return
    lines = [line for row in rows for line in _lines_of(row)] or ["No dead letters."]
    Console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _lines_of(row: Mapping[str, Any]) -> list[str]:
    """Whole words, however narrow the terminal: `--reason` and its like are given by them."""
    name = f"{row['stage']}  {row['reason']}  {row['topic']}"
    replays = f" ({row['of_replays']} of replays)" if row["of_replays"] else ""
    return [
        _printable(f"{name}: {row['letters']} letters{replays}, {row['sent_again']} sent again"),
        f"    {row['first']} to {row['last']}",
        f"    {row['place']}: {_printable(str(row['error'])[:200])}",
    ]


def show_letters(selection: Selection, limit: int, output: Path | None, as_json: bool) -> None:
    """Print letters whole: where, why, headers, and the beginning of the bytes; optionally each value into a file.

    Raises:
        ConfigurationError: a place that was asked for holds no letter.
    """
    settings = read_settings(Settings)
    done, missing, shown, number = replayed(settings).done, set(selection.places), [], 0
    for number, found in enumerate(islice(letters(settings, selection), limit), 1):  # noqa: B007 - for what follows
        missing.discard((found.partition, found.offset))
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / f"{found.partition}-{found.offset}.bin").write_bytes(found.letter.value or b"")
        if as_json:
            shown.append(_document(found, found.letter.identity in done))
        else:
            _print_letter(Console(), found, found.letter.identity in done)
    if as_json:
        _print_json(shown)
    elif not number and not missing:
        Console().print("No letter is like that; `modelwatch letters list` says what there is.", markup=False)
    if missing and len(selection.places) <= limit:
        raise ConfigurationError(f"no letter at {_places(missing)}; `modelwatch letters list` says what there is")


def replay_letters(selection: Selection, internal: bool, dry_run: bool, again: bool) -> None:
    """Send the selected letters to where they came from, each once however often this runs.

    Raises:
        ConfigurationError: a place that was asked for holds no letter.
    """
    settings, missing = read_settings(Settings), set(selection.places)
    replay = Replay(settings, internal, dry_run, again)

    def wanted() -> Iterator[Found]:
        for found in letters(settings, selection):
            missing.discard((found.partition, found.offset))
            yield found

    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Reading" if dry_run else "Sending", total=None)
        for count in replay.send(wanted()):
            progress.advance(bar, count)
    _print_outcome(replay.outcome.sent, replay.outcome.skipped, dry_run)
    if missing:
        raise ConfigurationError(f"no letter at {_places(missing)}; `modelwatch letters list` says what there is")


def purge_letters(before: float, yes: bool) -> None:
    """Delete all letters older than a moment, for good, after asking."""
    settings, console = read_settings(Settings), Console()
    spans = purgeable(settings, before)
    count = sum(end - low for low, end in spans.values())
    if not count:
        console.print("No dead letters are that old.")
        return
    if not yes and not _confirmed(console, f"Delete at most {count} letters for good?"):
        console.print("Nothing was deleted.")
        return
    purge(settings, spans)
    console.print(f"Deleted at most {count} letters of {len(spans)} partitions.")


def _confirmed(console: Console, question: str) -> bool:
    return console.input(f"{question} [y/N] ", markup=False).strip().lower() in ("y", "yes")


def _print_outcome(sent: Counter[str], skipped: Counter[str], dry_run: bool) -> None:
    console = Console()
    for topic, count in sorted(sent.items()):
        console.print(f"{count} {'would be sent' if dry_run else 'sent'} to {topic}", highlight=False)
    for why, count in sorted(skipped.items()):
        remedy = f" ({REMEDIES[why]})" if why in REMEDIES else ""
        console.print(f"{count} left: {why}{remedy}", highlight=False, soft_wrap=True)
    if not sent and not skipped:
        console.print("No dead letters.")


def _print_letter(console: Console, found: Found, was_sent: bool) -> None:
    letter = found.letter
    key = "none" if letter.key is None else _text(letter.key)
    again = "; sent again" if was_sent else ""
    lines = [
        f"{found.place}  {letter.time}  {letter.stage}: {letter.reason}{again}",
        f"  from     {letter.topic} [{letter.partition}] offset {letter.offset}",
        f"  error    {_printable(letter.error)}",
        f"  key      {key}",
        *(f"  header   {name}: {_text(value or b'')}" for name, value in letter.headers),
        f"  value    {len(letter.value or b'')} bytes",
        *(f"    {line}" for line in _preview(letter.value or b"")),
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _preview(value: bytes) -> Iterator[str]:
    """The beginning of the bytes: as text where it is text, else in hexadecimal with the characters beside."""
    head = value[:SHOWN_BYTES]
    text = head.decode(errors="ignore")
    if text.isprintable() and len(text.encode()) > len(head) - 4:
        yield text + (" …" if len(value) > SHOWN_BYTES else "")
        return
    for start in range(0, min(len(head), 128), 16):
        row = head[start : start + 16]
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:04x}  {row.hex(' '):<47}  {characters}"
    if len(value) > 128:
        yield "…"


def _text(value: bytes) -> str:
    return _printable(value[:SHOWN_BYTES].decode(errors="backslashreplace"))


def _printable(text: str) -> str:
    """With whatever could steer a terminal written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _document(found: Found, was_sent: bool) -> dict[str, Any]:
    letter = found.letter
    return {
        "place": found.place,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "stage": letter.stage,
        "reason": letter.reason,
        "error": letter.error,
        "time": letter.time,
        "sent_again": was_sent,
        "key": _text(letter.key) if letter.key is not None else None,
        "headers": [[name, _text(value or b"")] for name, value in letter.headers],
        "value_base64": pybase64.b64encode_as_string(letter.value or b""),
    }


def _places(places: set[tuple[int, int]]) -> str:
    return ", ".join(f"{partition}:{offset}" for partition, offset in sorted(places))


def _print_json(rows: list[dict[str, Any]]) -> None:
    print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())  # noqa: T201
