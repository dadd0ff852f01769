"""Drift: has the world changed, since when, and in what?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import BY_MODEL, framed, kibana, model_variable
from views.grafana.panels import GREEN, RED, Panel, Query, curves, figure, linked, rows, states, transformed

STATES = {"0": ("no drift", GREEN), "1": ("drift", RED)}
FEW = 12


def drift() -> Dashboard:
    """The dashboard."""
    return framed(
        "drift",
        "Drift",
        "Whether the last windows of pairs are distributed as the reference, by detector and feature",
        [("Now", _now()), ("By feature", _by_feature()), ("Windows", _windows())],
        [model_variable()],
        period="now-6h",
    )


def _now() -> list[Panel]:
    detected = f"max by (model, detector) (modelwatch_drift_detected{BY_MODEL})"
    return [
        linked(
            states(
                "Drift",
                "Verdict on the last window, by model and detector. By design a detector is wrong about one clean window in "
                "twenty",
                Query(detected, "{{model}}: {{detector}}"),
                STATES,
            ),
            "Drift windows in Kibana",
            kibana("drift"),
        ),
        figure(
            "Drifting now",
            "Detectors whose last window drifted",
            "short",
            Query(f"sum({detected})"),
            ((None, GREEN), (1, RED)),
        ),
        curves(
            "Share of windows that drift",
            "Of the windows of 6 hours; half of at least three is an alert, one in twenty is chance",
            "percentunit",
            Query(f"model_detector:modelwatch_drift_windows:ratio_increase6h{BY_MODEL}", "{{model}}: {{detector}}"),
            span=20,
            top=1,
        ),
    ]


def _by_feature() -> list[Panel]:
    p_values = f"modelwatch_drift_p_value{BY_MODEL}"
    distances = f"modelwatch_drift_distance{BY_MODEL}"
    name = "{{detector}} {{feature}}"
    by = "max by (model, detector, feature)"
    table = rows(
        "All features of the last window",
        "p-value and Kolmogorov-Smirnov distance of each feature",
        "short",
        Query(f"{by} ({p_values})"),
        Query(f"{by} ({distances})"),
    )
    hidden = {"Time": True}
    return [
        curves(
            "Lowest p-values",
            f"The {FEW} features whose distribution in the last window is the least like the reference's, and the threshold "
            "under which a feature drifts, after correction for their number",
            "sci",
            Query(f"bottomk({FEW}, {p_values})", name),
            Query(f"max by (model, detector) (modelwatch_drift_threshold{BY_MODEL})", "{{detector}} threshold"),
        ),
        curves(
            "Largest distances",
            f"The {FEW} features whose distribution is the furthest from the reference's (Kolmogorov-Smirnov statistic): how "
            "much it drifts, where a p-value says how sure that is",
            "short",
            Query(f"topk({FEW}, {distances})", name),
            top=1,
        ),
        transformed(
            table,
            merge={},
            organize={"excludeByName": hidden, "renameByName": {"Value #A": "p-value", "Value #B": "distance"}},
            sortBy={"sort": [{"field": "p-value", "desc": False}]},
        ),
    ]


def _windows() -> list[Panel]:
    windows = f"sum by (model, detector, result) (increase(modelwatch_drift_windows_total{BY_MODEL}[$__range]))"
    return [
        curves(
            "Fill of the open window",
            "Pairs in it so far; it closes when it is full, or too old",
            "short",
            Query(f"max by (model) (modelwatch_drift_window_fill{BY_MODEL})", "{{model}}"),
        ),
        curves(
            "Features extracted",
            "Pairs whose features are safe; those that came a second time and were left out; those of models that are "
            "not here; and how often counting began anew because a topic was made anew",
            "ops",
            Query(f"sum by (model) (rate(modelwatch_featured_total{BY_MODEL}[$__rate_interval]))", "{{model}}"),
            Query(
                f"sum by (model) (rate(modelwatch_drift_duplicates_total{BY_MODEL}[$__rate_interval]))",
                "{{model}} duplicates",
            ),
            Query("sum(rate(modelwatch_drift_unwindowed_total[$__rate_interval]))", "of no model here"),
            Query("sum(rate(modelwatch_drift_unreadable_states_total[$__rate_interval]))", "unreadable states"),
            Query(
                "sum by (topic) (increase(modelwatch_drift_topics_made_anew_total[$__rate_interval]))",
                "{{topic}} made anew",
            ),
        ),
        linked(
            transformed(
                rows(
                    "Windows in the time shown",
                    "Reported, by detector and result",
                    "short",
                    Query(windows),
                    span=12,
                ),
                organize={"excludeByName": {"Time": True}, "renameByName": {"Value": "windows"}},
            ),
            "Drift windows in Kibana",
            kibana("drift"),
        ),
        curves(
            "Why windows closed",
            "full: they have their size. age: traffic is thin, and they are smaller. superseded: by other detectors",
            "short",
            Query(
                f"sum by (model, by) (increase(modelwatch_drift_windows_closed_total{BY_MODEL}[1h]))",
                "{{model}} {{by}}",
            ),
        ),
    ]
