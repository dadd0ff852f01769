"""What an operator finds in Kibana: outliers, drift windows with their pairs, wrong answers, one prediction's story."""

from views.kibana.columns import bars, by, count, grid, mean, number, over_time, spread
from views.kibana.objects import DataView, SavedObject, chart, dashboard, search, words

INFERENCES = DataView(
    "inferences", (("request_id", "prediction", "request_id"), ("drift.window_id", "drift", "drift.window_id"))
)
DRIFT = DataView("drift", (("window_id", "drift", "drift.window_id"),))
PERFORMANCE = DataView("performance")

NEWEST = ("@timestamp", "desc")
FLAGGED = "outlier.is_outlier : true"
WRONG = "feedback.correct : false"


def saved_objects() -> list[SavedObject]:
    """All of them, what is referred to before what refers to it."""
    views = [view.saved() for view in (INFERENCES, DRIFT, PERFORMANCE)]
    searches = _searches()
    charts = _charts()
    texts = _texts()
    found = {one["id"].removeprefix("modelwatch-"): one for one in (*searches, *charts, *texts)}
    return [*views, *searches, *charts, *texts, *_dashboards(found)]


def _searches() -> list[SavedObject]:
    answer = ("request_id", "model", "response.label", "response.confidence")
    return [
        search(
            "outliers",
            "outliers",
            "Pairs that the detector flagged, with the attributes that their requests came with",
            INFERENCES,
            FLAGGED,
            (*answer, "outlier.score", "outlier.threshold", "request.attributes", "drift.window_id"),
            NEWEST,
        ),
        search(
            "drift-windows",
            "drift windows",
            "Each window with its verdict; its id leads to its pairs",
            DRIFT,
            "",
            ("window_id", "model", "is_drift", "size", "closed_by", "detectors.name", "detectors.distances"),
            NEWEST,
        ),
        search(
            "window-pairs",
            "pairs by drift window",
            "Pairs that are in a window; filter by drift.window_id",
            INFERENCES,
            "drift.window_id : *",
            (*answer, "drift.window_id", "outlier.score", "outlier.is_outlier", "feedback.label"),
            NEWEST,
        ),
        search(
            "wrong-answers",
            "wrong answers",
            "Pairs whose label says otherwise",
            INFERENCES,
            WRONG,
            (*answer, "feedback.label", "feedback.source", "outlier.is_outlier", "drift.window_id"),
            NEWEST,
        ),
        search(
            "unsure",
            "least confident answers",
            "Without a label: the ones to label first",
            INFERENCES,
            "response.confidence : * and not feedback.label : *",
            (*answer, "outlier.score", "drift.window_id"),
            ("response.confidence", "asc"),
        ),
        search(
            "prediction",
            "one prediction's whole story",
            "Asked, answered, judged, told the truth about, explained",
            INFERENCES,
            "",
            (
                *answer,
                "request.sent_at",
                "response.answered_at",
                "outlier.score",
                "outlier.is_outlier",
                "drift.window_id",
                "feedback.label",
                "feedback.correct",
                "explanation.anchors.outcome",
                "explanation.anchors.precision",
                "explanation.anchors.coverage",
            ),
            NEWEST,
        ),
        search(
            "performance-windows",
            "performance windows",
            "Figures of each window of time",
            PERFORMANCE,
            "",
            ("window_id", "model", "model_version", "size", "labelled", "accuracy", "macro.f1", "estimated_accuracy"),
            NEWEST,
        ),
    ]


def _charts() -> list[SavedObject]:
    return [
        chart(
            "flagged",
            "flagged pairs",
            "In the time shown",
            INFERENCES,
            FLAGGED,
            {"n": count("flagged")},
            number("n"),
        ),
        chart(
            "outliers-by-label",
            "outliers by answer",
            "Flagged pairs over time, by the label that was answered",
            INFERENCES,
            FLAGGED,
            {"label": by("response.label", "answer", "n"), "time": over_time(), "n": count("flagged")},
            bars("time", ["n"], "label"),
        ),
        chart(
            "scores",
            "outlier scores",
            "How many pairs have which score",
            INFERENCES,
            "outlier.score : *",
            {"score": spread("outlier.score", "score"), "n": count("pairs")},
            bars("score", ["n"]),
        ),
        chart(
            "drift-over-time",
            "windows by verdict",
            "Drift windows over time, with drift and without",
            DRIFT,
            "",
            {"verdict": by("is_drift", "drift", "n", "boolean"), "time": over_time(), "n": count("windows")},
            bars("time", ["n"], "verdict"),
        ),
        chart(
            "confusion",
            "wrong answers by truth and answer",
            "Which class is taken for which",
            INFERENCES,
            WRONG,
            {
                "truth": by("feedback.label", "truth", "n"),
                "answer": by("response.label", "answer", "n"),
                "n": count("pairs"),
            },
            grid(["truth"], ["answer"], ["n"]),
        ),
        chart(
            "right-and-wrong",
            "labelled pairs, right and wrong",
            "Over the time of the answer",
            INFERENCES,
            "feedback.label : *",
            {"correct": by("feedback.correct", "correct", "n", "boolean"), "time": over_time(), "n": count("pairs")},
            bars("time", ["n"], "correct"),
        ),
        chart(
            "accuracy",
            "accuracy of windows, realised and estimated",
            "Mean of the windows of each moment",
            PERFORMANCE,
            "",
            {
                "time": over_time(),
                "realised": mean("accuracy", "accuracy"),
                "estimated": mean("estimated_accuracy", "estimated"),
            },
            bars("time", ["realised", "estimated"], kind="line"),
        ),
        chart(
            "answers",
            "answers",
            "Pairs over time, by the label that was answered",
            INFERENCES,
            "",
            {"label": by("response.label", "answer", "n"), "time": over_time(), "n": count("pairs")},
            bars("time", ["n"], "label"),
        ),
    ]


def _texts() -> list[SavedObject]:
    return [
        words(
            "outliers",
            "**Outlier drill-down.** Pairs that are unlike what the model was trained on. One answer, one attribute or one "
            "time: a single source. A `request_id` leads to that prediction's whole story.",
        ),
        words(
            "drift",
            "**Drift windows to their pairs.** A `window_id` filters by that window: its pairs are then in the lower table. "
            "Clear the query above to see all windows again.",
        ),
        words(
            "wrong-answers",
            "**Wrong answers.** Which class is taken for which, since when, and the pairs themselves. Wrong labels are "
            "corrected by sending the right ones under the same `request_id`.",
        ),
        words(
            "prediction",
            "**One prediction's whole story.** Ask for `request_id : \"…\"` above; open the row to see the image's bytes, "
            "probabilities, timings, score map, truth and explanation. Below: the answers that the model was least sure of.",
        ),
    ]


def _dashboards(found: dict[str, SavedObject]) -> list[SavedObject]:
    return [
        dashboard(
            "outliers",
            "outlier drill-down",
            "Which images are strange, since when, and where they come from",
            INFERENCES,
            [
                (found["about-outliers"], (0, 0, 36, 6)),
                (found["chart-flagged"], (36, 0, 12, 6)),
                (found["chart-outliers-by-label"], (0, 6, 28, 13)),
                (found["chart-scores"], (28, 6, 20, 13)),
                (found["search-outliers"], (0, 19, 48, 20)),
            ],
        ),
        dashboard(
            "drift",
            "drift windows to their pairs",
            "When windows drifted, and the pairs in them",
            INFERENCES,
            [
                (found["about-drift"], (0, 0, 48, 5)),
                (found["chart-drift-over-time"], (0, 5, 48, 11)),
                (found["search-drift-windows"], (0, 16, 48, 14)),
                (found["search-window-pairs"], (0, 30, 48, 20)),
            ],
        ),
        dashboard(
            "wrong-answers",
            "wrong answers",
            "Which class is taken for which, and the pairs themselves",
            INFERENCES,
            [
                (found["about-wrong-answers"], (0, 0, 48, 5)),
                (found["chart-right-and-wrong"], (0, 5, 24, 12)),
                (found["chart-accuracy"], (24, 5, 24, 12)),
                (found["chart-confusion"], (0, 17, 48, 14)),
                (found["search-wrong-answers"], (0, 31, 48, 20)),
                (found["search-performance-windows"], (0, 51, 48, 14)),
            ],
        ),
        dashboard(
            "prediction",
            "one prediction's whole story",
            "Everything that is known about a request",
            INFERENCES,
            [
                (found["about-prediction"], (0, 0, 48, 5)),
                (found["search-prediction"], (0, 5, 48, 16)),
                (found["chart-answers"], (0, 21, 48, 12)),
                (found["search-unsure"], (0, 33, 48, 16)),
            ],
        ),
    ]
