"""`modelwatch demo`: the whole story on embedded servers and real images, with a verdict."""

import shutil
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.demo.feedback import environment
from cli.demo.story import Story, labels_of
from cli.demo.verdict import Verdict
from cli.log_output import LogFiles
from cli.report.evidence import Evidence
from cli.report.page import render
from cli.stack import Ports, Stack, running_stack
from runtime.errors import TransientError
from runtime.model_folder import model_named
from schemas.base import utc_now
from training.datasets import load_cifar10


def run_demo(images: int, output: Path) -> bool:
    """Run it, write `report.json` and `report.html`, print the table; True if every check holds."""
    console = Console()
    verdict = Verdict()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    began = time.monotonic()
    console.print("Preparing CIFAR-10 …")
    load_cifar10()
    verdict.seconds["data"] = time.monotonic() - began
    console.print(f"Starting broker, record store, worker and agents (logs in {output / 'logs'}) …")
    variables = environment(labels_of(images)) | {"MODELWATCH_STATE_FOLDER": str(output / "servers" / "state")}
    try:
        with running_stack(
            Ports(0, 0, 0, 0), output / "servers", 1, LogFiles(output / "logs"), environment=variables
        ) as stack:
            verdict.seconds["start"] = time.monotonic() - began - verdict.seconds["data"]
            evidence = _told(stack, images, verdict, console)
    finally:
        shutil.rmtree(output / "servers", ignore_errors=True)
    verdict.seconds["total"] = time.monotonic() - began
    _write(verdict, evidence, output)
    _print(verdict, console)
    console.print(
        f"Report: {output / 'report.html'} (figures: {output / 'report.json'})", highlight=False, soft_wrap=True
    )
    return verdict.ok


def _told(stack: Stack, images: int, verdict: Verdict, console: Console) -> Evidence:
    """What the story has shown; one that was cut short is a failed check."""
    spec = model_named(None, stack.settings).spec
    evidence = Evidence(utc_now(), spec.name, spec.version, spec.labels)
    if spec.outliers is not None and spec.outliers.calibration is not None:
        evidence.false_positive_rate = spec.outliers.calibration.false_positive_rate
    try:
        Story(stack, images, verdict, evidence, console).tell()
    except TransientError as error:
        verdict.check("the story comes to its end", "nothing is missing", str(error), False)
    return evidence


def _write(verdict: Verdict, evidence: Evidence, output: Path) -> None:
    report = {
        "checks": verdict.checks,
        "counts": verdict.counts,
        "seconds": {name: round(value, 3) for name, value in verdict.seconds.items()},
    }
    (output / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    evidence.checks, evidence.counts, evidence.seconds = verdict.checks, verdict.counts, verdict.seconds
    (output / "report.html").write_text(render(evidence), encoding="utf-8")


def _print(verdict: Verdict, console: Console) -> None:
    table = Table("check", "expected", "observed", "ok", box=None, pad_edge=False)
    for check in verdict.checks:
        ok = "[green]yes[/]" if check["ok"] else "[red]NO[/]"
        table.add_row(Text(check["name"]), Text(str(check["expected"])), Text(str(check["observed"])), ok)
    console.print(table)
    if verdict.failed:
        console.print(
            f"{len(verdict.failed)} failed: {'; '.join(verdict.failed)}", style="red", markup=False, soft_wrap=True
        )
