"""Writes `.env.example`, `docs/settings.md` and the list of known variables from the settings of every process.

`--check` only compares.
"""

import sys
from pathlib import Path

from agents.confusion.settings import ConfusionSettings
from agents.drift.settings import DriftSettings
from agents.explanations.settings import ExplanationsSettings
from agents.outliers.settings import OutliersSettings
from cli.compose_variables import TITLE, compose_variables
from inference.settings import WorkerSettings
from runtime.settings import AgentSettings, Settings
from runtime.settings_documents import Sections, environment_example, known_variables, settings_page
from schemas.generated_files import PROJECT, write_or_check

COMMAND = "python -m cli.settings_documents"
SECTIONS: Sections = (
    ("Every process", Settings),
    ("Inference worker", WorkerSettings),
    ("Every agent", AgentSettings),
    ("Outliers agent", OutliersSettings),
    ("Drift agent", DriftSettings),
    ("Confusion agent", ConfusionSettings),
    ("Explanations agent", ExplanationsSettings),
)
OTHERS = ("MODELWATCH_CACHE", "MODELWATCH_FASHION_MNIST", "MODELWATCH_FULL_FAULTS")
"""Read by commands that fetch data sets, and by tests."""


def documents() -> dict[Path, str]:
    """Both documents: path, and what they should say."""
    return {
        PROJECT / ".env.example": environment_example(SECTIONS, COMMAND, {TITLE: compose_variables()}),
        PROJECT / "docs" / "settings.md": settings_page(SECTIONS, COMMAND),
    }


def code() -> dict[Path, str]:
    """The list of known variables: path, and what it should say."""
    others = [*OTHERS, *(variable.name for variable in compose_variables())]
    return {PROJECT / "runtime" / "known_variables.py": known_variables(SECTIONS, COMMAND, others)}


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit status."""
    return write_or_check(documents() | code(), arguments, COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
