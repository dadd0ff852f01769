"""Options of `modelwatch letters`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.times import moment

if TYPE_CHECKING:
    from cli.letters.reading import Selection

letters_app = typer.Typer(
    help="Dead letters: look at them, send them again, delete them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Stage = Annotated[str | None, typer.Option(help="Service that refused them, e.g. inference or confusion.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Reason of the refusal, e.g. unknown_model.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Topic that they came from.")]
Since = Annotated[str | None, typer.Option(help="Refused since then: RFC 3339, or how long ago: 30m, 12h, 7d.")]
Until = Annotated[str | None, typer.Option(help="Refused until then, likewise.")]
Places = Annotated[
    list[str] | None, typer.Argument(metavar="[PARTITION:OFFSET]...", help="Letters, as `show` prints their places.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@letters_app.command("list")
def list_command(
    stage: Stage = None,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Count the dead letters by stage, reason and topic."""
    from cli.letters.command import list_letters

    list_letters(_selection(None, stage, reason, topic, since, until), as_json)


@letters_app.command("show")
def show_command(
    places: Places = None,
    stage: Stage = None,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Most letters shown.")] = 10,
    output: Annotated[
        Path | None, typer.Option(help="Also write each value, whole, into a file in this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show dead letters: where they came from, why they were refused, their headers and bytes."""
    from cli.letters.command import show_letters

    show_letters(_selection(places, stage, reason, topic, since, until), limit, output, as_json)


@letters_app.command("replay")
def replay_command(
    places: Places = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters; else say which.")] = False,
    stage: Stage = None,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    since: Since = None,
    until: Until = None,
    internal: Annotated[
        bool, typer.Option("--internal", help="Also those of topics that only modelwatch writes, such as pairs.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also messages that an earlier replay sent and that were refused once more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send dead letters to where they came from, unchanged; each once, however often this runs."""
    from cli.letters.command import replay_letters

    if not everything and not any((places, stage, reason, topic, since, until)):
        raise typer.BadParameter("say which letters: places, --stage, --reason, --topic, --since, --until, or --all")
    replay_letters(_selection(places, stage, reason, topic, since, until), internal, dry_run, again)


@letters_app.command("purge")
def purge_command(
    before: Annotated[str, typer.Option(help="Older than that: RFC 3339, or how long ago: 30m, 12h, 7d.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete old dead letters for good. Kafka deletes by age only, so there is no choice among them."""
    from cli.letters.command import purge_letters

    purge_letters(moment("--before", before), yes)


def _selection(
    places: list[str] | None,
    stage: str | None,
    reason: str | None,
    topic: str | None,
    since: str | None,
    until: str | None,
) -> "Selection":
    from cli.letters.reading import Selection, parse_places

    return Selection(
        stage,
        reason,
        topic,
        None if since is None else moment("--since", since),
        None if until is None else moment("--until", until),
        parse_places(places or ()),
    )
