"""Files that a generator of ours writes: written only where they differ, or checked for staleness."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def replace_section(page: str, name: str, content: str) -> str:
    """The page with `content` between the two comments that mark the generated section `name`.

    Raises:
        ValueError: the page does not have each mark once, in order.
    """
    begin, end = f"<!-- generated: {name} -->", f"<!-- end of generated: {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page needs the marks {begin!r} and {end!r} once each, in this order")
    return f"{page[: page.index(begin)]}{begin}\n\n{content.strip()}\n\n{page[page.index(end) :]}"


def stale(wanted: Mapping[Path, str]) -> list[Path]:
    """The files that are missing or say something else than they should."""
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def write_or_check(
    wanted: Mapping[Path, str], arguments: list[str], command: str, obsolete: Iterable[Path] = ()
) -> int:
    """Do what a generator's command line asks for, and return its exit status.

    Args:
        wanted: what each file should say.
        arguments: of the command line; `--check` compares instead of writing.
        command: how the generator is run, for the line that names a stale file.
        obsolete: files that should not be there.
    """
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"unknown arguments {' '.join(arguments)!r}; usage: {command} [--check]\n")
        return 2
    changed, removed = stale(wanted), list(obsolete)
    if arguments:
        for path in [*changed, *removed]:
            sys.stderr.write(f"stale: {shown(path)}; run `{command}`\n")
        return 1 if changed or removed else 0
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        sys.stdout.write(f"wrote {shown(path)}\n")
    for path in removed:
        path.unlink()
        sys.stdout.write(f"removed {shown(path)}\n")
    return 0


def shown(path: Path) -> str:
    """A path as a person would write it: from the project's folder, where it is in there."""
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
