"""Outliers: how many images are unlike those that the model knows, and which."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import BY_MODEL, framed, kibana, model_variable
from views.grafana.panels import GREEN, RED, YELLOW, Panel, Query, bars, curves, figure, heat, linked
from views.grafana.records import Column, records

SCORES = "modelwatch_outlier_score"


def outliers() -> Dashboard:
    """The dashboard."""
    return framed(
        "outliers",
        "Outliers",
        "How many images are unlike those that the model was trained on, and which",
        [("Now", _now()), ("Scores", _scores()), ("The agent", _agent()), ("Records", [_latest()])],
        [model_variable()],
    )


def _now() -> list[Panel]:
    flagged = f"sum(increase(modelwatch_outliers_total{BY_MODEL}[$__range]))"
    rate = curves(
        "Outlier rate against the objective",
        "Share of the pairs of 10 minutes that were flagged; detectors are calibrated to flag 1 % of clean images",
        "percentunit",
        Query(f"model:modelwatch_outliers:ratio_rate10m{BY_MODEL}", "{{model}}"),
        Query(f"model:modelwatch_outliers:objective{BY_MODEL}", "{{model}} objective"),
        span=16,
    )
    return [
        linked(
            figure("Flagged", "Pairs flagged in the time shown", "short", Query(flagged)),
            "These pairs in Kibana",
            kibana("outliers"),
        ),
        figure(
            "Outlier rate",
            "Highest of the chosen models, over 10 minutes",
            "percentunit",
            Query(f"max(model:modelwatch_outliers:ratio_rate10m{BY_MODEL} >= 0)"),
            ((None, GREEN), (0.03, YELLOW), (0.05, RED)),
        ),
        linked(rate, "Outliers in Kibana", kibana("outliers")),
    ]


def _scores() -> list[Panel]:
    buckets = f"sum by (le) (rate({SCORES}_bucket{BY_MODEL}[$__rate_interval]))"
    labels = f"topk(20, sum by (label) (increase(modelwatch_outliers_total{BY_MODEL}[$__range])))"
    return [
        heat("Scores, all of them", "Pairs by outlier score, in the unit of the threshold", "short", SCORES, BY_MODEL),
        curves(
            "Scores and threshold",
            "Half, and 99 %, of pairs are scored at most this; above the threshold a pair is an outlier. Choose one model: "
            "scores of several have no common unit",
            "short",
            Query(f"histogram_quantile(0.5, {buckets})", "p50"),
            Query(f"histogram_quantile(0.99, {buckets})", "p99"),
            Query(f"max by (model) (modelwatch_outlier_threshold{BY_MODEL})", "{{model}} threshold"),
        ),
        curves(
            "Outliers by answer",
            "Flagged pairs a second, by the label that the model answered",
            "ops",
            Query(f"sum by (label) (rate(modelwatch_outliers_total{BY_MODEL}[$__rate_interval]))", "{{label}}"),
            stacked=True,
        ),
        bars(
            "Outliers by answer, in the time shown",
            "One label only: one source, rather than the world",
            "short",
            Query(labels, "{{label}}"),
            height=8,
        ),
    ]


def _agent() -> list[Panel]:
    seconds = "sum by (le) (rate(modelwatch_score_seconds_bucket[$__rate_interval]))"
    return [
        curves(
            "Pairs scored",
            "Pairs whose verdict is stored; and those recorded without one: expired, or the model has no detector",
            "ops",
            Query(f"sum by (model) (rate(modelwatch_scored_total{BY_MODEL}[$__rate_interval]))", "{{model}}"),
            Query("sum by (reason) (rate(modelwatch_unscored_total[$__rate_interval]))", "unscored: {{reason}}"),
        ),
        curves(
            "Scoring a batch",
            "Decoding and scoring, once a batch",
            "s",
            Query(f"histogram_quantile(0.5, {seconds})", "p50"),
            Query(f"histogram_quantile(0.99, {seconds})", "p99"),
            span=6,
        ),
        curves(
            "Explanations asked for",
            "Flagged pairs for which the policy asks why; dropped: over its rate",
            "ops",
            Query(
                f"sum by (outcome) (rate(modelwatch_explanations_asked_total{BY_MODEL}[$__rate_interval]))",
                "{{outcome}}",
            ),
            span=6,
        ).no_value("the policy is off"),
    ]


def _latest() -> Panel:
    columns = (
        Column("@timestamp", "time"),
        Column("request_id", "request"),
        Column("model", "model"),
        Column("response.label", "answer"),
        Column("response.confidence", "confidence"),
        Column("outlier.score", "score"),
        Column("outlier.threshold", "threshold"),
    )
    table = records(
        "Latest outliers",
        "From the record store: flagged pairs, the newest first; their images and explanations are in Kibana",
        "outlier.is_outlier:true",
        columns,
    )
    return linked(table, "Outliers in Kibana", kibana("outliers"))
