"""Fleet: all models on one page, the one in the worst state first, and which of its signals is the worst."""

from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import framed, kibana
from views.grafana.panels import GREEN, RED, YELLOW, Panel, Query, curves, linked, rows, states, transformed

USED = "model_signal:modelwatch_objective:used"
LEVELS = {"0": ("within its objectives", GREEN), "1": ("near", YELLOW), "2": ("over", RED)}
COLUMNS = (
    ("worst, of its objective", "percentunit", f"topk by (model) (1, {USED})"),
    ("requests/s", "reqps", "model:modelwatch_requests:rate5m"),
    ("accuracy", "percentunit", 'min by (model) (modelwatch_accuracy{window="rolling"})'),
    ("estimated", "percentunit", 'min by (model) (modelwatch_estimated_accuracy{window="latest"})'),
    ("outliers", "percentunit", "model:modelwatch_outliers:ratio_rate10m"),
    ("drifting detectors", "short", "sum by (model) (max by (model, detector) (modelwatch_drift_detected))"),
    ("p99", "s", "model:modelwatch_request_latency_seconds:p99_5m"),
    ("labelled", "percentunit", 'max by (model) (modelwatch_label_coverage{window="rolling"})'),
)
"""Name, unit and query of each column after the model's."""


def fleet() -> Dashboard:
    """The dashboard."""
    return framed(
        "fleet",
        "Fleet",
        "All models: one row each, the worst first, and its worst signal",
        [("Models", [_table(), _levels()]), ("Alerts", [_alerts()]), ("Side by side", _compared())],
    )


def _table() -> Panel:
    panel = rows(
        "Models, the worst first",
        "The worst signal is the one that has used up most of what its objective allows; 100 % is at the objective. A model's "
        "name leads to its figures",
        "none",
        *(Query(expr) for _, _, expr in COLUMNS),
        height=10,
    )
    names = dict(zip("ABCDEFGH", (name for name, _, _ in COLUMNS), strict=True))
    transformed(
        panel,
        joinByField={"byField": "model", "mode": "outer"},
        organize={
            "excludeByName": {"Time": True, "__name__": True}
            | {f"{label} {number}": True for label in ("Time", "__name__") for number in range(1, len(COLUMNS) + 1)},
            "indexByName": {"model": 0, "signal": 1, "Value #A": 2},
            "renameByName": {"signal": "worst signal"} | {f"Value #{letter}": name for letter, name in names.items()},
        },
        sortBy={"sort": [{"field": names["A"], "desc": True}]},
    )
    return linked(_with_units(panel), "One prediction's whole story in Kibana", kibana("prediction"))


def _with_units(panel: table.Panel) -> table.Panel:
    """Units by column, colour for the worst signal, and a link for the model."""
    for name, unit, _ in COLUMNS:
        panel.override_by_name(name, [dashboard.DynamicConfigValue("unit", unit)])
    steps = [{"value": None, "color": GREEN}, {"value": 0.5, "color": YELLOW}, {"value": 1, "color": RED}]
    thresholds = {"mode": "absolute", "steps": steps}
    background = {"type": "color-background"}
    panel.override_by_name(
        COLUMNS[0][0],
        [
            dashboard.DynamicConfigValue("unit", "percentunit"),
            dashboard.DynamicConfigValue("thresholds", thresholds),
            dashboard.DynamicConfigValue("custom.cellOptions", background),
        ],
    )
    address = "/d/modelwatch-performance?var-model=${__value.raw}&${__url_time_range}"
    links = [{"title": "Statistical performance", "url": address}]
    return panel.override_by_name("model", [dashboard.DynamicConfigValue("links", links)])


def _levels() -> Panel:
    level = f"max by (model) (({USED} >= bool 0.5) + ({USED} >= bool 1))"
    return states(
        "State of each model over time",
        "within: under half of each objective is used up. near: over half. over: at least one is not met",
        Query(level, "{{model}}"),
        LEVELS,
    )


def _alerts() -> Panel:
    query = 'group by (severity, alertname, model, detector, job, instance) (ALERTS{alertname=~"Modelwatch.+", alertstate="firing"})'
    panel = rows(
        "Alerts firing",
        "What each means and what to do is in docs/operate.md, under its name",
        "none",
        Query(query),
        height=7,
    )
    return transformed(
        panel,
        organize={"excludeByName": {"Time": True, "Value": True}},
        sortBy={"sort": [{"field": "severity", "desc": False}]},
    )


def _compared() -> list[Panel]:
    return [
        curves(
            "Signals of each model",
            "Share of what its objective allows",
            "percentunit",
            Query(USED, "{{model}}: {{signal}}"),
        ),
        curves(
            "Requests", "Images asked about a second", "reqps", Query("model:modelwatch_requests:rate5m", "{{model}}")
        ),
        curves(
            "Accuracy",
            "Rolling, of labelled pairs",
            "percentunit",
            Query('max by (model, version) (modelwatch_accuracy{window="rolling"})', "{{model}} {{version}}"),
            top=1,
        ),
        curves(
            "Outlier rate",
            "Over 10 minutes",
            "percentunit",
            Query("model:modelwatch_outliers:ratio_rate10m", "{{model}}"),
        ),
        curves(
            "Drift",
            "1 while any detector says so",
            "short",
            Query("model:modelwatch_drift_detected:max", "{{model}}"),
            top=1,
        ),
        curves(
            "Latency",
            "Half of the requests, and 99 %, are answered within this time",
            "s",
            Query("model:modelwatch_request_latency_seconds:p50_5m", "{{model}} p50"),
            Query("model:modelwatch_request_latency_seconds:p99_5m", "{{model}} p99"),
        ),
    ]
