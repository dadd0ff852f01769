"""The dashboards as committed: each panel says what it shows, each query names what exists, and nothing is left out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mappings import flat_fields
from views.kibana.names import DASHBOARDS, dashboard_id
from views.metrics_page import expressions
from views.registry import metric_facts, names_in
from views.rules import recorded

PROJECT = Path(__file__).resolve().parents[3]
PAGES = {
    file.stem: json.loads(file.read_text()) for file in sorted((PROJECT / "grafana" / "dashboards").glob("*.json"))
}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, page in PAGES.items()
    for panel in page["panels"]
    if panel["type"] != "row"
]
QUERIES = [(name, *found) for name, page in PAGES.items() for found in expressions(page)]
OF_THE_LIBRARY = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
BUILT_IN = {"__rate_interval", "__range", "__from", "__to", "__value", "__url_time_range"}


def test_the_dashboards_are_those_that_an_operator_expects() -> None:
    assert set(PAGES) == {"fleet", "service", "performance", "outliers", "drift", "explanations"}
    assert len({page["uid"] for page in PAGES.values()}) == len(PAGES)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_and_what_if_nothing(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"] and len(panel["description"]) > 5
    assert defaults["unit"] and defaults["noValue"]
    assert panel["targets"]


@pytest.mark.parametrize("name", PAGES)
def test_panels_lie_side_by_side_and_have_numbers_of_their_own(name: str) -> None:
    panels = PAGES[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_that_a_panel_names_exists() -> None:
    known = {series for fact in metric_facts() for series in fact.series} | set(recorded()) | OF_THE_LIBRARY
    asked = set().union(*(names_in(expression) for _, _, expression in QUERIES))
    assert asked - known == set()


def test_every_metric_is_shown_by_some_panel() -> None:
    parts = recorded()
    shown = {
        name for _, _, expression in QUERIES for asked in names_in(expression) for name in parts.get(asked, {asked})
    }
    assert [fact.name for fact in metric_facts() if not shown & set(fact.series)] == []


def test_every_label_that_a_panel_names_exists() -> None:
    facts = {series: fact for fact in metric_facts() for series in fact.series}
    for page, panel, expression in QUERIES:
        for metric, selector in re.findall(r"\b(modelwatch_\w+)\{([^}]*)\}", expression):
            if metric in facts:
                named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
                allowed = {*facts[metric].labels, "job", "instance", "le"}
                assert named <= allowed, (page, panel["title"], metric, named - allowed)


@pytest.mark.parametrize("name", PAGES)
def test_every_variable_that_is_used_is_declared(name: str) -> None:
    page = PAGES[name]
    declared = {variable["name"] for variable in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(page["panels"]))) - BUILT_IN
    assert {one for one in used if not one.startswith("__")} <= declared
    assert {"metrics", "kibana"} <= declared
    if name != "fleet":  # all models on one page
        assert "model" in declared
    if name == "performance":
        assert "version" in declared


def test_tables_of_records_show_fields_that_are_in_the_mapping() -> None:
    columns = [
        (panel, step["options"]["include"]["names"])
        for page in PAGES.values()
        for panel in page["panels"]
        for step in panel.get("transformations", ())
        if step["id"] == "filterFieldsByName"
    ]
    assert columns
    mapped = flat_fields("inferences")
    for panel, names in columns:
        [target] = panel["targets"]
        asked = set(re.findall(r"([\w.]+):", target["query"]))
        assert {*names, *asked, target["timeField"]} <= set(mapped)


def test_links_lead_to_kibana_dashboards_that_exist() -> None:
    text = "".join(json.dumps(page) for page in PAGES.values())
    linked = set(re.findall(r"dashboards#/view/([\w-]+)", text))
    assert linked == {dashboard_id(name) for name in DASHBOARDS}


def test_the_data_sources_are_those_that_are_provisioned() -> None:
    folder = PROJECT / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "modelwatch.yml").read_text())["datasources"]
    provisioned = {source["uid"]: source["type"] for source in sources}
    assert set(provisioned.values()) == {"prometheus", "elasticsearch"}
    for page in PAGES.values():
        for panel in page["panels"]:
            for target in panel.get("targets", ()):
                source = target["datasource"]
                assert source["uid"] == "${metrics}" or provisioned[source["uid"]] == source["type"]
    [provider] = yaml.safe_load((folder / "dashboards" / "modelwatch.yml").read_text())["providers"]
    assert provider["type"] == "file"


def test_the_committed_files_are_what_the_generator_writes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="what generates the dashboards needs Python 3.11")
    from schemas.generated_files import stale
    from views.documents import documents

    assert stale(documents()) == []
