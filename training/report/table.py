"""The report as tables for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

Report = dict[str, Any]


def print_report(report: Report, console: Console) -> None:
    """Print every figure that the model card names."""
    _chief(report, console)
    _masks(report, console)
    _contrasts(report, console)
    for name in report["drift_power"]:
        _power(report, name, console)


def _table(title: str, *head: str) -> Table:
    return Table(*head, title=title, title_justify="left", box=None, pad_edge=False)


def _chief(report: Report, console: Console) -> None:
    table = _table(f"{report['name']}, version {report['version']}", "figure", "value", "95 % interval or remark")
    low, high = report["test_accuracy_interval"]
    table.add_row(
        f"accuracy, {report['test_images']} test images", _number(report["test_accuracy"]), f"{low} to {high}"
    )
    table.add_row("the truck: class, probability", f"{report['truck_class']}, {report['truck_probability']}", "class 9")
    if "temperature" in report:
        table.add_row(
            "calibration error, before and after",
            f"{report['calibration_error_before']:.4f}, {report['calibration_error_after']:.4f}",
            f"temperature {report['temperature']}, {report['calibration_images']} images",
        )
    low, high = report["clean_false_positive_interval"]
    table.add_row(
        f"outliers among {report['clean_images']} clean images",
        _number(report["clean_false_positive_rate"]),
        f"{low} to {high}; nominal {report['nominal_false_positive_rate']}",
    )
    agreement = report["alibi_detect_agreement"]
    table.add_row(
        "outlier verdicts as alibi-detect's", _number(agreement["verdicts_equal"]), f"{agreement['images']} images"
    )
    for name, rate in report["drift_false_alarm_rate"].items():
        low, high = report["drift_false_alarm_interval"][name]
        nominal = report["drift_nominal_false_alarm_rate"][name]
        table.add_row(f"false alarms of {name}", _number(rate), f"{low} to {high}; nominal {nominal}")
    console.print(table)


def _masks(report: Report, console: Console) -> None:
    table = _table("\nThe truck under masks", "size", "score", "outlier", "article", "outlier", "flagged of 500")
    for mask in report["truck_masks"]:
        rate = report["mask_flag_rate"].get(str(mask["size"]))
        table.add_row(
            str(mask["size"]),
            _number(mask["score"]),
            _yes(mask["is_outlier"]),
            _number(mask["article_score"]),
            _yes(mask["article_is_outlier"]),
            "" if rate is None else _number(rate),
        )
    console.print(table)


def _contrasts(report: Report, console: Console) -> None:
    table = _table(f"\nStrange images (threshold {report['outlier_threshold']})", "kind", "AUROC", "flagged")
    for name, auroc in report["auroc"].items():
        table.add_row(name, _number(auroc), _number(report["flag_rate"][name]))
    console.print(table)


def _power(report: Report, name: str, console: Console) -> None:
    mixed = report["drift_power_mixed"][name]
    severities = list(next(iter(report["drift_power"][name].values())))
    percents = [f"{percent} %" for percent in next(iter(mixed.values()))]
    title = f"\nWindows called drift by {name}, by severity; and with a part of the images at severity 5"
    table = _table(title, "corruption", *severities, *percents)
    for corruption, rates in report["drift_power"][name].items():
        table.add_row(corruption, *(f"{rate:.2f}" for rate in (*rates.values(), *mixed[corruption].values())))
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.4f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
