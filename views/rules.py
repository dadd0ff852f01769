"""The rules of Prometheus as data: what recording rules add to the metrics, and what these are made from."""

from typing import Any

import yaml

from schemas.generated_files import PROJECT
from views.registry import names_in

FOLDER = PROJECT / "prometheus" / "rules"


def rules() -> list[dict[str, Any]]:
    """All rules, of all files."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def recorded() -> dict[str, set[str]]:
    """The metrics behind each recorded series, through any number of rules."""
    direct: dict[str, set[str]] = {}
    for rule in rules():
        if "record" in rule:
            direct.setdefault(rule["record"], set()).update(names_in(rule["expr"]))

    def resolve(name: str) -> set[str]:
        return {name} if name not in direct else set().union(*(resolve(part) for part in direct[name]))

    return {name: resolve(name) for name in direct}
