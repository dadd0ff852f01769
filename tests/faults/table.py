"""Writes the measured tables into `docs/reliability.md`; with `--check` it only compares."""

import re
import sys
from pathlib import Path
from typing import Any

import orjson

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "reliability.md"
FIGURES = {name: PROJECT / "bench" / f"{name}.json" for name in ("reliability", "models", "overload", "soak")}
BLOCK = r"(<!-- {name} -->\n).*?(<!-- end -->)"


def fault_table(report: dict[str, Any]) -> str:
    """Markdown: one row a fault, and what the books say under it."""
    lines = [
        "| fault | times | in flight, at most | lost | duplicated | well again after, s: median | max |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['fault']} | {one['times']} | {one['in_flight']:,} | {one['lost']} | {one['doubled']} "
        f"| {one['recovery_seconds_median']} | {one['recovery_seconds_max']} |"
        for one in report["faults"]
    ]
    return "\n".join([*lines, "", ledger_line(report), ""])


def model_table(report: dict[str, Any]) -> str:
    """Markdown: one row a change of the models, and the books of these."""
    lines = [
        "| change | times | requests to the model | answered | refused (`unknown_model`) | lost | duplicated |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['fault']} | {one['times']} | {one['side_sent']:,} | {one['side_answered']:,} "
        f"| {one['side_refused']:,} | {one['lost']} | {one['doubled']} |"
        for one in report["faults"]
    ]
    books = report["ledger"]["side"]
    said = (
        f"To these models {books['sent']:,} requests were sent: {books['answered']:,} pairs and as many records with "
        f"a verdict, {books['joined']:,} joined with their truth, {books['in_windows']:,} in {books['windows']} drift "
        f"windows of one version each; {books['refused']:,} dead letters. Measured on {report['date']}."
    )
    return "\n".join([*lines, "", f"{ledger_line(report)} {said}", ""])


def ledger_line(report: dict[str, Any]) -> str:
    """The books in a sentence."""
    books = report["ledger"]
    return (
        f"{report['servers']}; {report['requests_per_s']:g} requests a second, "
        f"{report['seconds'] / 60:.0f} minutes, seed {report['seed']}. "
        f"Sent {books['sent']:,}: {books['pairs']:,} pairs, {books['records']:,} records, "
        f"{books['joined']:,} joined with their truth, {books['in_windows']:,} in {books['windows']} drift windows, "
        f"{books['questions']} questions, {books['unanswered']} unanswered, {books['dead_letters']} dead letters."
    )


def resource_table(report: dict[str, Any]) -> str:
    """Markdown: memory and descriptors of each process, early and late; the lag."""
    lines = [
        "| process | resident MB, first quarter | last quarter | descriptors, first quarter | last quarter |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in report["resources"]["processes"].items():
        cells = [*one["resident_mb"], *one["descriptors"]]
        if None not in cells:  # a guest of a rebalance storm
            lines.append(" | ".join([f"| {name}", *(f"{cell:g}" for cell in cells)]) + " |")
    highest, last = (report["resources"][f"unrecorded_{what}"] for what in ("highest", "last"))
    return "\n".join(
        [
            *lines,
            "",
            f"Lag, as requests without a complete record: {highest:,} at most, {last:,} when images last came.",
            "",
        ]
    )


def overload_text(report: dict[str, Any]) -> str:
    """Markdown: one overload, as a list."""
    first, highest, last = report["resident_mb"]
    healthy = sum(count for name, count in report["health"].items() if name.endswith(" 200"))
    probes = sum(report["health"].values())
    asked = sum(report["http_statuses"].values())
    return f"""\
| figure | measured |
|---|---|
| capacity of one worker with the real model, brokers on the same cores | {report["capacity_per_s"]:,} requests/s |
| sent | {report["sent_per_s"]:,} requests/s for {report["seconds"]:g} s, {report["sent"]:,} in all |
| lag: highest, at the end | {report["lag_highest"]:,}, {report["lag_last"]} |
| drained after | {report["drained_seconds"]:g} s |
| answers lost, duplicated | {report["lost"]}, {report["doubled"]} |
| answered; `expired` | {report["answered"]:,}, of them {report["on_time"]:,} with a deadline; {report["expired"]:,} |
| answered or `expired` against their deadline | {report["wrongly_answered"] + report["wrongly_expired"]} |
| resident memory of the worker: before, highest, at the end | {first:,}, {highest:,}, {last:,} MB |
| probes of `/health/live` and `/health/ready` answered 200 in 1 s | {healthy:,} of {probes:,} |
| HTTP requests meanwhile, answered 200 | {report["http_statuses"].get("200", 0):,} of {asked:,}; \
median {report["http_seconds_median"]:g} s, highest {report["http_seconds_max"]:g} s |
"""


def render(page: str) -> str:
    """The page with its blocks written anew from the figures that are there."""
    blocks = {
        "reliability": [fault_table],
        "models": [model_table],
        "overload": [overload_text],
        "soak": [fault_table, resource_table],
    }
    for name, tables in blocks.items():
        if FIGURES[name].exists():
            report = orjson.loads(FIGURES[name].read_bytes())
            text = "\n" + "\n".join(table(report) for table in tables) + "\n"
            page = re.sub(
                BLOCK.format(name=name), lambda found, text=text: found[1] + text + found[2], page, flags=re.S
            )
    return page


def main() -> int:
    """Write, or with `--check` say whether the page is stale."""
    page = PAGE.read_text()
    rendered = render(page)
    if "--check" in sys.argv and rendered != page:
        print("docs/reliability.md is stale: run python -m tests.faults.table", file=sys.stderr)
        return 1
    PAGE.write_text(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
