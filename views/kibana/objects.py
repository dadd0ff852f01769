"""Kibana's saved objects as its export writes them: data views, searches, Lens charts, texts and dashboards.

The format is that of Kibana 8.9 and later; each object says so (`typeMigrationVersion`), and newer ones migrate it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from views.kibana.names import dashboard_id

SavedObject = dict[str, Any]
Grid = tuple[int, int, int, int]
"""Place of a panel: x, y, width, height; a dashboard is 48 wide."""

VERSIONS = {
    "index-pattern": "8.0.0",
    "search": "8.0.0",
    "visualization": "8.5.0",
    "lens": "8.9.0",
    "dashboard": "8.9.0",
}
SOURCE = "kibanaSavedObjectMeta.searchSourceJSON.index"
LONG = "_g=(time:(from:now-30d,to:now))"


@dataclass(frozen=True, slots=True)
class DataView:
    """Indices that are searched together.

    Attributes:
        links: fields whose values lead to a dashboard: field, name of the dashboard, and the field it is filtered by.
    """

    kind: str
    links: Sequence[tuple[str, str, str]] = ()

    @property
    def id(self) -> str:
        """Id of the saved object."""
        return f"modelwatch-{self.kind}"

    def saved(self) -> SavedObject:
        """The saved object."""
        formats = {field: _link(name, by) for field, name, by in self.links}
        attributes = {
            "name": f"modelwatch {self.kind}",
            "title": f"modelwatch-{self.kind}-*",
            "timeFieldName": "@timestamp",
            "fieldFormatMap": _json(formats),
        }
        return _object("index-pattern", self.id, attributes, [])


def search(
    name: str, title: str, text: str, view: DataView, query: str, columns: Sequence[str], sort: tuple[str, str]
) -> SavedObject:
    """A saved search: the rows that a KQL query finds."""
    attributes = {
        "title": f"modelwatch: {title}",
        "description": text,
        "columns": list(columns),
        "sort": [list(sort)],
        "grid": {},
        "hideChart": False,
        "isTextBasedQuery": False,
        "timeRestore": False,
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": _json({"query": _kql(query), "filter": [], "indexRefName": SOURCE})
        },
    }
    return _object("search", f"modelwatch-search-{name}", attributes, [_reference(SOURCE, "index-pattern", view.id)])


def chart(
    name: str,
    title: str,
    text: str,
    view: DataView,
    query: str,
    columns: Mapping[str, Mapping[str, Any]],
    look: Mapping[str, Any],
) -> SavedObject:
    """A Lens chart with one layer.

    Args:
        columns: by id, in order, from `views.kibana.columns`; buckets first.
        look: `visualizationType` and the state of it.
    """
    layer = {"columns": dict(columns), "columnOrder": list(columns), "incompleteColumns": {}, "sampling": 1}
    attributes = {
        "title": f"modelwatch: {title}",
        "description": text,
        "visualizationType": look["type"],
        "state": {
            "datasourceStates": {"formBased": {"layers": {"layer": layer}}},
            "visualization": look["state"],
            "query": _kql(query),
            "filters": [],
            "internalReferences": [],
            "adHocDataViews": {},
        },
    }
    reference = _reference("indexpattern-datasource-layer-layer", "index-pattern", view.id)
    return _object("lens", f"modelwatch-chart-{name}", attributes, [reference])


def words(name: str, markdown: str) -> SavedObject:
    """A panel of text."""
    params = {"markdown": markdown, "fontSize": 12, "openLinksInNewTab": False}
    attributes = {
        "title": f"modelwatch: about {name}",
        "description": "",
        "uiStateJSON": "{}",
        "version": 1,
        "visState": _json({"title": f"about {name}", "type": "markdown", "aggs": [], "params": params}),
        "kibanaSavedObjectMeta": {"searchSourceJSON": _json({"query": _kql(""), "filter": []})},
    }
    return _object("visualization", f"modelwatch-about-{name}", attributes, [])


def dashboard(
    name: str, title: str, text: str, view: DataView, panels: Sequence[tuple[SavedObject, Grid]]
) -> SavedObject:
    """A dashboard of saved objects, with a choice of models above it."""
    shown, references = [], []
    for number, (panel, (x, y, width, height)) in enumerate(panels, 1):
        place = {"x": x, "y": y, "w": width, "h": height, "i": str(number)}
        shown.append(
            {
                "type": panel["type"],
                "gridData": place,
                "panelIndex": str(number),
                "embeddableConfig": {"enhancements": {}},
                "panelRefName": f"panel_{number}",
            }
        )
        references.append(_reference(f"{number}:panel_{number}", panel["type"], panel["id"]))
    references.append(_reference("controlGroup_model:optionsListDataView", "index-pattern", view.id))
    attributes = {
        "title": f"modelwatch: {title}",
        "description": text,
        "panelsJSON": _json(shown),
        "optionsJSON": _json({"useMargins": True, "hidePanelTitles": False, "syncColors": True, "syncCursor": True}),
        "controlGroupInput": _model_control(),
        "timeRestore": False,
        "version": 1,
        "kibanaSavedObjectMeta": {"searchSourceJSON": _json({"query": _kql(""), "filter": []})},
    }
    return _object("dashboard", dashboard_id(name), attributes, references)


def ndjson(objects: Sequence[SavedObject]) -> str:
    """Objects as Kibana imports them: one a line."""
    return "".join(json.dumps(one, sort_keys=True, ensure_ascii=False) + "\n" for one in objects)


def _model_control() -> dict[str, str]:
    control = {"id": "model", "fieldName": "model", "title": "Model", "enhancements": {}}
    panel = {"type": "optionsListControl", "order": 0, "grow": True, "width": "medium", "explicitInput": control}
    ignored = dict.fromkeys(("ignoreFilters", "ignoreQuery", "ignoreTimerange", "ignoreValidations"), False)
    return {
        "chainingSystem": "HIERARCHICAL",
        "controlStyle": "oneLine",
        "ignoreParentSettingsJSON": _json(ignored),
        "panelsJSON": _json({"model": panel}),
    }


def _object(
    kind: str, name: str, attributes: Mapping[str, Any], references: Sequence[Mapping[str, str]]
) -> SavedObject:
    return {
        "id": name,
        "type": kind,
        "attributes": dict(attributes),
        "references": list(references),
        "coreMigrationVersion": "8.8.0",
        "typeMigrationVersion": VERSIONS[kind],
        "managed": False,
    }


def _reference(name: str, kind: str, target: str) -> dict[str, str]:
    return {"name": name, "type": kind, "id": target}


def _link(name: str, by: str) -> dict[str, Any]:
    """Show a value as a link to a dashboard that is filtered by it. The path holds under any base path of Kibana's."""
    state = f"""_a=(query:(language:kuery,query:'{by}:"{{{{value}}}}"'))"""
    address = f"../app/dashboards#/view/{dashboard_id(name)}?{LONG}&{state}"
    return {"id": "url", "params": {"urlTemplate": address, "labelTemplate": "{{value}}", "openLinkInCurrentTab": True}}


def _kql(query: str) -> dict[str, str]:
    return {"query": query, "language": "kuery"}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
