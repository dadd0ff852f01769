"""Explanations: are questions answered, how well, and at what cost?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import BY_MODEL, framed, kibana, model_variable
from views.grafana.panels import GREEN, RED, YELLOW, Panel, Query, curves, figure, heat, linked


def explanations() -> Dashboard:
    """The dashboard."""
    return framed(
        "explanations",
        "Explanations",
        "Questions why the model answered as it did: outcomes, quality and cost",
        [("Questions", _questions()), ("Anchors", _anchors()), ("Cost", _cost())],
        [model_variable()],
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{BY_MODEL}[$__rate_interval]))"


def _questions() -> list[Panel]:
    return [
        figure(
            "In hand",
            "Questions that wait for their turn or are being answered",
            "short",
            Query("sum(modelwatch_explanations_in_hand)"),
            ((None, GREEN), (20, YELLOW), (100, RED)),
        ),
        figure(
            "Failed",
            "Share of questions of 15 minutes that ended with a time-out, an overload or an error",
            "percentunit",
            Query(f"max(model_method:modelwatch_explanations_failed:ratio_rate15m{BY_MODEL} >= 0) or vector(0)"),
            ((None, GREEN), (0.05, YELLOW), (0.1, RED)),
        ),
        linked(
            curves(
                "Answers by outcome",
                "ok: an anchor was found. no_anchor: none is good enough, and the answer says so. The others say what failed",
                "ops",
                Query(_rate("modelwatch_explanations_total", "outcome"), "{{outcome}}"),
                span=16,
                stacked=True,
            ),
            "One prediction's whole story in Kibana",
            kibana("prediction"),
        ),
        curves(
            "What policies ask",
            "Explanations that a policy of the model wanted; dropped: over its rate. And feedback that wrong_answers let be",
            "ops",
            Query(_rate("modelwatch_policy_questions_total", "policy, outcome"), "{{policy}}: {{outcome}}"),
            Query("sum(rate(modelwatch_feedback_not_compared_total[$__rate_interval]))", "feedback not compared"),
            span=16,
        ).no_value("no policy asks"),
        curves(
            "Pairs in memory",
            "Whose images need not be fetched from the log",
            "short",
            Query("modelwatch_recent_pairs", "{{instance}}"),
            span=8,
        ),
    ]


def _anchors() -> list[Panel]:
    panels: list[Panel] = []
    for name, text in (
        ("precision", "Share of images with the anchor that are answered the same; 0.95 or more is asked for"),
        ("coverage", "Share of images that the anchor holds for; a higher one says more"),
    ):
        metric = f"modelwatch_anchor_{name}"
        buckets = _rate(f"{metric}_bucket", "le")
        mean = f"{_rate(f'{metric}_sum', 'model')} / {_rate(f'{metric}_count', 'model')}"
        panels += [
            heat(f"{name.capitalize()} of anchors", text, "percentunit", metric, BY_MODEL),
            curves(
                f"{name.capitalize()}, middle and mean",
                text,
                "percentunit",
                Query(f"histogram_quantile(0.5, {buckets})", "median"),
                Query(mean, "{{model}} mean"),
                top=1,
            ),
        ]
    return panels


def _cost() -> list[Panel]:
    seconds = _rate("modelwatch_explanation_seconds_bucket", "method, le")
    answers = _rate("modelwatch_explanation_seconds_count", "method")
    return [
        curves(
            "Seconds of an explanation",
            "From its beginning to its end, waiting for its turn excluded",
            "s",
            Query(f"histogram_quantile(0.5, {seconds})", "{{method}} p50"),
            Query(f"histogram_quantile(0.95, {seconds})", "{{method}} p95"),
        ),
        heat(
            "Seconds, all of them",
            "Explanations by how long they took",
            "s",
            "modelwatch_explanation_seconds",
            BY_MODEL,
        ),
        curves(
            "Images asked about, for each explanation",
            "What an explanation costs the worker",
            "short",
            Query(f"{_rate('modelwatch_predictor_evaluations_total', 'method')} / {answers}", "{{method}}"),
        ),
        curves(
            "Batches, for each explanation",
            "Round trips to the worker",
            "short",
            Query(f"{_rate('modelwatch_predictor_calls_total', 'method')} / {answers}", "{{method}}"),
        ),
    ]
