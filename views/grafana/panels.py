"""The kinds of panels that dashboards are made of, so that each is one call that cannot forget unit or description."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, gauge, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.models import common, dashboard, prometheus
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

METRICS = dashboard.DataSourceRef(type_val="prometheus", uid="${metrics}")
NOTHING_YET = "nothing yet"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on; the first from minus infinity, None."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel, and the name of its series."""

    expr: str
    legend: str = "__auto"


Panel = timeseries.Panel | stat.Panel | gauge.Panel | bargauge.Panel | heatmap.Panel | statetimeline.Panel | table.Panel
P = TypeVar("P", bound=Panel)


def curves(
    title: str, text: str, unit: str, *queries: Query, span: int = 12, stacked: bool = False, top: float | None = None
) -> timeseries.Panel:
    """Lines over time; `top` is the end of the axis, for shares."""
    panel = _common(timeseries.Panel(), title, text, unit, queries, span)
    panel.line_width(1).fill_opacity(25 if stacked else 8).show_points(common.VisibilityMode.NEVER).span_nulls(False)
    panel.legend(
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    panel.tooltip(
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    panel.axis_soft_min(0)
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return panel if top is None else panel.min(0).max(top)


def figure(title: str, text: str, unit: str, query: Query, steps: Steps = (), span: int = 4) -> stat.Panel:
    """One large number with its course behind it."""
    panel = _common(stat.Panel(), title, text, unit, [query], span, 5)
    panel.graph_mode(common.BigValueGraphMode.AREA).reduce_options(_last())
    return _coloured(panel, steps or ((None, BLUE),))


def dial(title: str, text: str, query: Query, steps: Steps, span: int = 4) -> gauge.Panel:
    """A share on a dial from 0 to 1."""
    panel = _common(gauge.Panel(), title, text, "percentunit", [query], span, 6).min(0).max(1)
    return _coloured(panel.reduce_options(_last()), steps)


def bars(title: str, text: str, unit: str, query: Query, span: int = 12, height: int = 9) -> bargauge.Panel:
    """One bar a series, of its last value."""
    panel = _common(bargauge.Panel(), title, text, unit, [query], span, height, instant=True)
    panel.orientation(common.VizOrientation.HORIZONTAL).display_mode(common.BarGaugeDisplayMode.BASIC)
    return _coloured(panel.reduce_options(_last()), ((None, BLUE),))


def heat(title: str, text: str, unit: str, metric: str, selector: str, span: int = 12) -> heatmap.Panel:
    """A histogram's buckets over time.

    Args:
        metric: the histogram's name without suffix.
    """
    query = prometheus_builders.Dataquery().expr(f"sum by (le) (increase({metric}_bucket{selector}[$__rate_interval]))")
    query.legend_format("{{le}}").format(prometheus.PromQueryFormat.HEATMAP).range().ref_id("A").datasource(METRICS)
    panel = _common(heatmap.Panel(), title, text, unit, [], span).with_target(query)
    panel.calculate(False).y_axis(heatmap.YAxisConfig().unit(unit))
    return panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64))


def states(
    title: str, text: str, query: Query, names: dict[str, tuple[str, str]], span: int = 24
) -> statetimeline.Panel:
    """Which state each series is in, over time.

    Args:
        names: text and colour of each value.
    """
    panel = _common(statetimeline.Panel(), title, text, "none", [query], span, 7)
    results = {
        value: dashboard.ValueMappingResult(text=name, color=colour, index=index)
        for index, (value, (name, colour)) in enumerate(names.items())
    }
    return panel.mappings([dashboard.ValueMap(options=results)]).merge_values(True).fill_opacity(80)


def rows(title: str, text: str, unit: str, *queries: Query, span: int = 24, height: int = 9) -> table.Panel:
    """A table of last values; give it transformations. An empty cell is a dash."""
    panel = _common(table.Panel(), title, text, unit, queries, span, height, instant=True)
    return panel.filterable(True).no_value("–")


def transformed(panel: table.Panel, **steps: dict[str, Any]) -> table.Panel:
    """The panel with transformations, in order, by their ids."""
    for name, options in steps.items():
        panel.with_transformation(dashboard.DataTransformerConfig(id_val=name, options=options))
    return panel


def linked(panel: P, title: str, url: str) -> P:
    """The panel with a link in its corner, which opens in a page of its own."""
    kind = dashboard.DashboardLinkType.LINK
    panel.links([build.DashboardLink(title).type(kind).url(url).target_blank(True)])
    return panel


def _common(
    panel: P,
    title: str,
    text: str,
    unit: str,
    queries: Sequence[Query],
    span: int,
    height: int = 8,
    instant: bool = False,
) -> P:
    panel.title(title).description(text).unit(unit).no_value(NOTHING_YET).span(span).height(height).datasource(METRICS)
    for letter, query in zip("ABCDEFGHIJKL", queries, strict=False):
        target = prometheus_builders.Dataquery().expr(query.expr).legend_format(query.legend)
        target.ref_id(letter).datasource(METRICS)
        if instant:
            target.instant().format(prometheus.PromQueryFormat.TABLE)
        panel.with_target(target.editor_mode(prometheus.QueryEditorMode.CODE))
    return panel


def _coloured(panel: P, steps: Steps) -> P:
    thresholds = [dashboard.Threshold(value, colour) for value, colour in steps]
    mode = dashboard.ThresholdsMode.ABSOLUTE
    panel.thresholds(build.ThresholdsConfig().mode(mode).steps(thresholds))
    return panel


def _last() -> common_builders.ReduceDataOptions:
    return common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
