"""What all dashboards share: variables, links to one another and to the records in Kibana, and where they are drawn."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.models import dashboard

from views.grafana.panels import METRICS, Panel
from views.kibana.names import dashboard_id

TAG = "modelwatch"
KIBANA = "http://localhost:5601"
BY_MODEL = '{model=~"$model"}'
BY_VERSION = '{model=~"$model", version=~"$version"}'
BY_WINDOW = '{model=~"$model", version=~"$version", window="$window"}'

Row = tuple[str, Sequence[Panel]]
"""A title, and the panels under it."""
Variable = cog.Builder[dashboard.VariableModel]


def kibana(name: str) -> str:
    """Address of one of our Kibana dashboards, at the time that the Grafana dashboard shows."""
    period = "_g=(time:(from:'${__from:date:iso}',to:'${__to:date:iso}'))"
    return f"${{kibana}}/app/dashboards#/view/{dashboard_id(name)}?{period}"


def model_variable() -> build.QueryVariable:
    """The models that workers have loaded; all at first."""
    return _choice("model", "Model", "label_values(modelwatch_model_info, model)")


def version_variable() -> build.QueryVariable:
    """The versions of the chosen models that have figures or are loaded."""
    query = 'label_values({__name__=~"modelwatch_(model_info|label_coverage)", model=~"$model"}, version)'
    return _choice("version", "Version", query)


def window_variable() -> build.CustomVariable:
    """Which pairs the figures are of."""
    text = "rolling: the newest labelled pairs. lifetime: all pairs of the version ever"
    return build.CustomVariable("window").label("Window").description(text).values("rolling,lifetime")


def framed(
    name: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    variables: Sequence[Variable] = (),
    period: str = "now-1h",
) -> dashboard.Dashboard:
    """A dashboard of rows of panels.

    Args:
        name: its uid is `modelwatch-<name>`.
        variables: builders of variables beside the data source and Kibana's address.
    """
    page = build.Dashboard(f"modelwatch: {title}").uid(f"modelwatch-{name}").description(description).tags([TAG])
    page.time(period, "now").refresh("10s").timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    others = build.DashboardLink("modelwatch").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    page.link(others.as_dropdown(False).include_vars(True).keep_time(True))
    page.with_variable(build.DatasourceVariable("metrics").label("Prometheus").type("prometheus"))
    for variable in variables:
        page.with_variable(variable)
    address = build.TextBoxVariable("kibana").label("Kibana").default_value(KIBANA)
    page.with_variable(address.description("Where links to the records lead"))
    number = 1
    for row, panels in rows:
        page.with_row(build.Row(row).id(number))
        for panel in panels:
            number += 1
            page.with_panel(panel.id(number))
        number += 1
    return page.build()


def _choice(name: str, label: str, query: str) -> build.QueryVariable:
    variable = build.QueryVariable(name).label(label).datasource(METRICS)
    variable.query({"query": query, "refId": name}).refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable.current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    return variable.multi(True).include_all(True).all_value(".*").sort(dashboard.VariableSort.ALPHABETICAL_ASC)
