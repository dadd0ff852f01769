"""What `modelwatch train report` does: measure, and write the report and the model card."""

import json
from pathlib import Path

from runtime.model_folder import REPORT_FILE, load_model_folder
from training.folder_update import replace_text, writing
from training.model_card import CARD_FILE, RECORD_FILE, render_card
from training.report.measure import Report, measure_report


def run_report(path: Path, write: bool, fashion_mnist: bool) -> Report:
    """Measure a model folder; with `write`, put `report.json` and `MODEL_CARD.md` into it.

    Raises:
        ConfigurationError: the folder lacks a detector, or cannot be written, or Fashion-MNIST is not there.
    """
    report = measure_report(load_model_folder(path), fashion_mnist)
    if write:
        write_report(report, path)
    return report


def write_report(report: Report, path: Path) -> None:
    """Write `report.json` and `MODEL_CARD.md`."""
    record = path / RECORD_FILE
    text = record.read_text(encoding="utf-8") if record.exists() else "Nothing is recorded.\n"
    with writing(path):
        replace_text(path / REPORT_FILE, json.dumps(report, indent=1) + "\n")
        replace_text(path / CARD_FILE, render_card(report, text))
