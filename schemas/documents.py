"""Writes the documents generated from the contracts, or says which of them are stale.

`python -m schemas.documents` writes; with `--check` it writes nothing, names the stale ones and exits with status 1.
"""

import json
import sys
from pathlib import Path
from typing import Any

from schemas.asyncapi import asyncapi_document
from schemas.generated_files import PROJECT, replace_section, write_or_check
from schemas.json_schema import message_schemas
from schemas.markdown import message_tables, reason_table, topic_table

COMMAND = "python -m schemas.documents"
GENERATED = PROJECT / "schemas" / "generated"
MESSAGES_PAGE = PROJECT / "docs" / "messages.md"


def documents() -> dict[Path, str]:
    """Every generated document: its path, and what it should say."""
    schemas = message_schemas() | {"asyncapi": asyncapi_document()}
    wanted = {GENERATED / f"{name}.json": as_json(schema) for name, schema in schemas.items()}
    page = MESSAGES_PAGE.read_text(encoding="utf-8")
    for name, content in {"topics": topic_table(), "reasons": reason_table(), "messages": message_tables()}.items():
        page = replace_section(page, name, content)
    return wanted | {MESSAGES_PAGE: page}


def as_json(value: Any) -> str:
    """JSON as it is committed: keys sorted, so that the same contracts give the same bytes, and a line end last."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit status."""
    wanted = documents()
    obsolete = sorted(set(GENERATED.glob("*.json")) - set(wanted))
    return write_or_check(wanted, arguments, COMMAND, obsolete)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
