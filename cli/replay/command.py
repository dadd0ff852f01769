"""`modelwatch replay`: compute again what was recorded, compare, and list what differs."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.drift.detectors import DriftDetector, load_detectors
from agents.outliers.detector import OutlierDetector
from cli.replay.differences import Audit
from cli.replay.verdicts import audit_verdicts
from cli.replay.windows import audit_windows
from runtime.elasticsearch_sink import client_from_settings
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder, load_model_folders
from runtime.settings import Settings, read_settings
from schemas.headers import parse_time

SHOWN = 20


def run_replay(begin: str | None, end: str | None, older: Sequence[Path], as_json: bool) -> bool:
    """Audit what happened from `begin` to `end` (RFC 3339); True if all that can be computed again is as recorded.

    Args:
        older: folders of model folders as they were, for the detectors of that time.

    Raises:
        ConfigurationError: a time cannot be read, or a model's files are not what its checksums say.
        TransientError: a server does not answer.
    """
    settings = read_settings(Settings)
    since, until = _moment("--from", begin, 0.0), _moment("--to", end, time.time())
    if since > until:
        raise ConfigurationError(f"--from {begin} is after --to {end or 'now'}: there is nothing between")
    progress = Console(stderr=True)
    with progress.status("Computing drift windows and outlier verdicts again …"):
        audits = replay(settings, since, until, older)
    if as_json:
        print(orjson.dumps(_document(audits), option=orjson.OPT_INDENT_2, default=str).decode())  # noqa: T201
    else:
        _print(audits)
    return not any(audit.differences for audit in audits.values())


def replay(settings: Settings, since: float, until: float, older: Sequence[Path] = ()) -> dict[str, Audit]:
    """The audits by what they looked at."""
    if missing := [root for root in older if not root.is_dir()]:
        raise ConfigurationError(f"--older-models {missing[0]} is no folder")
    folders = load_model_folders(settings.models)
    specs = {name: folder.spec for name, folder in folders.items()}
    known = [folders, *map(load_model_folders, older)]
    drift, *drift_before = map(_drift_detectors, known)
    outliers, *outliers_before = map(_outlier_detectors, known)

    async def verdicts() -> Audit:
        store = client_from_settings(settings)
        try:
            return await audit_verdicts(settings, store, specs, outliers, since, until, outliers_before)
        finally:
            await store.close()

    return {
        "drift windows": audit_windows(settings, specs, drift, since, until, drift_before),
        "outlier verdicts": asyncio.run(verdicts()),
    }


def _drift_detectors(folders: Mapping[str, ModelFolder]) -> dict[str, dict[str, DriftDetector]]:
    return {name: load_detectors(folder) for name, folder in folders.items() if folder.spec.drift}


def _outlier_detectors(folders: Mapping[str, ModelFolder]) -> dict[str, OutlierDetector]:
    return {name: OutlierDetector(folder) for name, folder in folders.items() if folder.spec.outliers}


def _moment(option: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        return parse_time(text)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from error


def _document(audits: dict[str, Audit]) -> dict[str, Any]:
    return {
        name.replace(" ", "_"): {
            "compared": audit.compared,
            "gone": audit.gone,
            "gone_tests": audit.gone_tests,
            "largest_difference": audit.largest,
            "differences": [dataclasses.asdict(difference) for difference in audit.differences],
            "notes": audit.notes,
        }
        for name, audit in audits.items()
    }


def _print(audits: dict[str, Audit]) -> None:
    console = Console()
    for name, audit in audits.items():
        but = f" but for {audit.gone_tests} of their tests" if audit.gone_tests else ""
        console.print(
            f"{name}: {audit.compared} computed again{but}, {audit.gone - audit.gone_tests} not, "
            f"{len(audit.differences)} differences; "
            f"largest difference of a number {audit.largest:.3g}",
            highlight=False,
            markup=False,
        )
        for note in audit.notes[:SHOWN]:
            console.print(f"  note: {note}", highlight=False, markup=False)
        if len(audit.notes) > SHOWN:
            console.print(f"  … and {len(audit.notes) - SHOWN} more notes; --json lists all of them")
        if audit.differences:
            table = Table("what", "field", "recorded", "computed", box=None, pad_edge=False)
            for one in audit.differences[:SHOWN]:
                table.add_row(*map(Text, (one.what, one.field, str(one.recorded)[:60], str(one.computed)[:60])))
            console.print(table)
            if len(audit.differences) > SHOWN:
                console.print(f"… and {len(audit.differences) - SHOWN} more; --json lists all of them")
