"""The saved objects as committed: every reference resolves, and every field is in the mapping and fit for its use."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.record_indices import KINDS
from tests.mappings import flat_fields
from views.kibana.names import DASHBOARDS, dashboard_id

PROJECT = Path(__file__).resolve().parents[3]
OBJECTS = [json.loads(line) for line in (PROJECT / "kibana" / "modelwatch.ndjson").read_text().splitlines()]
BY_ID = {(one["type"], one["id"]): one for one in OBJECTS}
NUMBERS = {"integer", "long", "float", "double"}
FIT = {
    "date_histogram": {"date"},
    "terms": {"keyword", "boolean"},
    "range": NUMBERS,
    "average": NUMBERS,
}
"""Types of fields that each operation of Lens can work on."""
PARSED = (
    "panelsJSON",
    "optionsJSON",
    "searchSourceJSON",
    "visState",
    "uiStateJSON",
    "fieldFormatMap",
    "ignoreParentSettingsJSON",
)


FIELDS = {f"modelwatch-{kind}": flat_fields(kind) for kind in KINDS}


def of(kind: str) -> list[Any]:
    return [pytest.param(one, id=one["id"]) for one in OBJECTS if one["type"] == kind]


def view_of(one: dict[str, Any]) -> str:
    [reference] = [found for found in one["references"] if found["type"] == "index-pattern"]
    return str(reference["id"])


def asked(query: str) -> set[str]:
    """The fields that a KQL query names."""
    return set(re.findall(r"([\w.@]+)\s*:", query))


def test_ids_are_ours_and_unique() -> None:
    assert len(BY_ID) == len(OBJECTS)
    assert all(name.startswith("modelwatch-") for _, name in BY_ID)
    assert {name for kind, name in BY_ID if kind == "dashboard"} == {dashboard_id(name) for name in DASHBOARDS}


@pytest.mark.parametrize("one", OBJECTS, ids=[f"{one['type']} {one['id']}" for one in OBJECTS])
def test_an_object_has_what_kibana_asks_of_it(one: dict[str, Any]) -> None:
    assert {"id", "type", "attributes", "references", "coreMigrationVersion", "typeMigrationVersion"} <= set(one)
    assert one["attributes"]["title"]
    for reference in one["references"]:
        assert (reference["type"], reference["id"]) in BY_ID

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                walk(json.loads(part) if name in PARSED and isinstance(part, str) else part)

    walk(one["attributes"])


def test_there_is_a_data_view_for_each_index() -> None:
    views = {one["id"]: one["attributes"] for one in OBJECTS if one["type"] == "index-pattern"}
    assert set(views) == set(FIELDS)
    for name, view in views.items():
        assert view["title"] == f"{name}-*" and FIELDS[name][view["timeFieldName"]]["type"] == "date"


@pytest.mark.parametrize("view", of("index-pattern"))
def test_values_that_are_links_lead_to_dashboards_by_fields_that_exist(view: dict[str, Any]) -> None:
    for field, shown in json.loads(view["attributes"]["fieldFormatMap"]).items():
        assert field in FIELDS[view["id"]]
        address = shown["params"]["urlTemplate"]
        [target] = re.findall(r"dashboards#/view/([\w-]+)", address)
        [by] = re.findall(r"query:'([\w.]+):", address)
        dashboard = BY_ID["dashboard", target]
        searches = [BY_ID["search", one["id"]] for one in dashboard["references"] if one["type"] == "search"]
        assert any(by in FIELDS[view_of(one)] for one in searches)


@pytest.mark.parametrize("search", of("search"))
def test_a_search_shows_sorts_and_asks_by_fields_of_its_index(search: dict[str, Any]) -> None:
    attributes, fields = search["attributes"], FIELDS[view_of(search)]
    source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    sorted_by = {field for field, _ in attributes["sort"]}
    assert {*attributes["columns"], *sorted_by, *asked(source["query"]["query"])} <= set(fields)
    assert all(fields[field].get("doc_values", True) for field in sorted_by)
    assert source["indexRefName"] == search["references"][0]["name"]
    assert attributes["description"]


@pytest.mark.parametrize("chart", of("lens"))
def test_a_chart_works_on_fields_of_its_index_that_are_fit_for_it(chart: dict[str, Any]) -> None:
    state, fields = chart["attributes"]["state"], FIELDS[view_of(chart)]
    assert asked(state["query"]["query"]) <= set(fields)
    [(layer, content)] = state["datasourceStates"]["formBased"]["layers"].items()
    assert chart["references"][0]["name"] == f"indexpattern-datasource-layer-{layer}"
    assert sorted(content["columnOrder"]) == sorted(content["columns"])
    for column in content["columns"].values():
        if column["operationType"] != "count":
            field = fields[column["sourceField"]]
            assert field["type"] in FIT[column["operationType"]] and field.get("index", True)
        order = column["params"].get("orderBy", {}).get("columnId")
        assert order is None or order in content["columns"]
    shown = set(re.findall(r'"(?:\w*[aA]ccessor|columnId)": "(\w+)"', json.dumps(state["visualization"])))
    shown |= {name for one in state["visualization"].get("layers", ()) for name in one["accessors"]}
    assert shown == set(content["columns"])


@pytest.mark.parametrize("dashboard", of("dashboard"))
def test_a_dashboard_shows_what_it_refers_to_side_by_side(dashboard: dict[str, Any]) -> None:
    attributes = dashboard["attributes"]
    panels = json.loads(attributes["panelsJSON"])
    referred = {one["name"]: one["type"] for one in dashboard["references"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert referred[f"{panel['panelIndex']}:{panel['panelRefName']}"] == panel["type"]
        place = panel["gridData"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 48 and not cells & taken
        taken |= cells
    controls = json.loads(attributes["controlGroupInput"]["panelsJSON"])
    for name, control in controls.items():
        view = next(one["id"] for one in dashboard["references"] if one["name"].startswith(f"controlGroup_{name}:"))
        assert FIELDS[view][control["explicitInput"]["fieldName"]]["type"] == "keyword"
    assert any(panel["type"] == "search" for panel in panels) and attributes["description"]


def test_every_search_and_chart_is_on_some_dashboard() -> None:
    shown = {one["id"] for found in OBJECTS if found["type"] == "dashboard" for one in found["references"]}
    assert {name for kind, name in BY_ID if kind in ("search", "lens", "visualization")} <= shown
