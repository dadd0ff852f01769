"""Writes the dashboards of Grafana and Kibana and the page of metrics, or says which of them are stale."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from schemas.generated_files import PROJECT, write_or_check
from views.grafana.drift import drift
from views.grafana.explanations import explanations
from views.grafana.fleet import fleet
from views.grafana.outliers import outliers
from views.grafana.performance import performance
from views.grafana.service import service
from views.kibana.objects import ndjson
from views.kibana.saved import saved_objects
from views.metrics_page import COMMAND, metrics_page
from views.rules import recorded

GRAFANA = PROJECT / "grafana" / "dashboards"
DASHBOARDS = (fleet, service, performance, outliers, drift, explanations)


def documents() -> dict[Path, str]:
    """Every generated document: its path, and what it should say."""
    pages = {make.__name__: json.dumps(make(), cls=JSONEncoder, indent=2) + "\n" for make in DASHBOARDS}
    return {
        **{GRAFANA / f"{name}.json": text for name, text in pages.items()},
        PROJECT / "kibana" / "modelwatch.ndjson": ndjson(saved_objects()),
        PROJECT / "docs" / "metrics.md": metrics_page(pages, recorded()),
    }


def main(arguments: list[str]) -> int:
    """Entry point of `python -m views`; returns the exit status."""
    wanted = documents()
    obsolete = sorted(set(GRAFANA.glob("*.json")) - set(wanted))
    return write_or_check(wanted, arguments, COMMAND, obsolete)
