"""Statistical performance: is it right, about what, and how sure can one be?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import (
    BY_MODEL,
    BY_VERSION,
    BY_WINDOW,
    framed,
    kibana,
    model_variable,
    version_variable,
    window_variable,
)
from views.grafana.panels import GREEN, RED, YELLOW, Panel, Query, bars, curves, dial, linked, rows, transformed

STEPS = ((None, RED), (0.7, YELLOW), (0.8, GREEN))
MEANINGS = {
    "precision": "Of the images that were answered with a class, the share that are of it",
    "recall": "Of the images that are of a class, the share that were answered so",
    "specificity": "Of the images that are of other classes, the share that were not answered so",
    "f1": "Harmonic mean of precision and recall",
}
NAMES = {"f1": "F1"}


def performance() -> Dashboard:
    """The dashboard."""
    return framed(
        "performance",
        "Statistical performance",
        "How right the model is, by labels where there are some, by its own estimate where not",
        [
            ("Now", _dials()),
            ("Over time", _overall()),
            ("By class", _by_class()),
            ("By attribute of the request", _by_value()),
            ("Regression", _regression()),
            ("Labels", _labels()),
        ],
        [model_variable(), version_variable(), window_variable()],
    )


def _name(figure: str) -> str:
    return NAMES.get(figure, figure.capitalize())


def _figure(name: str, selector: str = BY_WINDOW) -> str:
    return f"max by (model, version) (modelwatch_{name}{selector})"


def _dials() -> list[Panel]:
    macro = BY_WINDOW.replace("}", ', average="macro"}')
    return [
        dial(
            "Accuracy", "Share of labelled pairs that were answered rightly", Query(_figure("accuracy")), STEPS
        ).no_value("no labels yet"),
        *(
            dial(
                f"{_name(name)}, mean",
                f"{text}; the mean over classes",
                Query(_figure(f"average_{name}", macro)),
                STEPS,
            )
            for name, text in MEANINGS.items()
        ),
        dial(
            "Labelled",
            "Share of pairs that have a label; few labels may be of odd images",
            Query(_figure("label_coverage")),
            ((None, RED), (0.05, YELLOW), (0.2, GREEN)),
        ),
    ]


def _overall() -> list[Panel]:
    windowed = '{{model=~"$model", version=~"$version", window="{}"}}'
    accuracy = curves(
        "Accuracy, realised and estimated",
        "Realised: of pairs with labels. Estimated: mean calibrated confidence, of the newest pairs, labelled or not; it "
        "comes before labels do, and is not to be believed while there is drift",
        "percentunit",
        Query(_figure("accuracy", windowed.format("rolling")), "{{model}} {{version}} rolling"),
        Query(_figure("accuracy", windowed.format("lifetime")), "{{model}} {{version}} lifetime"),
        Query(_figure("estimated_accuracy", windowed.format("latest")), "{{model}} {{version}} estimated"),
        Query(_figure("estimated_accuracy", windowed.format("rolling")), "{{model}} {{version}} estimated, same pairs"),
        Query(f"model:modelwatch_accuracy:objective{BY_MODEL}", "{{model}} objective"),
        top=1,
    )
    averages = [
        Query(f"max by (average) (modelwatch_average_{name}{BY_WINDOW})", f"{_name(name)}, {{{{average}}}}")
        for name in MEANINGS
    ]
    return [
        linked(accuracy, "Wrong answers in Kibana", kibana("wrong-answers")),
        curves(
            "Averages over classes",
            "macro: each class counts the same. micro: each image does",
            "percentunit",
            *averages,
            top=1,
        ),
        curves(
            "Losses of the probabilities",
            "Logarithmic loss (nats), Brier score, and expected calibration error; lower is better",
            "short",
            Query(_figure("log_loss"), "{{model}} {{version}} log loss"),
            Query(_figure("brier"), "{{model}} {{version}} Brier score"),
            Query(_figure("calibration_error"), "{{model}} {{version}} calibration error"),
        ),
        curves(
            "Answers against truths",
            "Kullback-Leibler divergence of the predicted from the true class distribution, in nats: 0 if every class is "
            "answered as often as it occurs, right or not",
            "short",
            Query(_figure("kl_divergence"), "{{model}} {{version}}"),
        ),
    ]


def _by_class() -> list[Panel]:
    curves_of = [
        curves(f"{_name(name)} by class", text, "percentunit", Query(_by(name, "label"), "{{label}}"), top=1)
        for name, text in MEANINGS.items()
    ]
    matrix = rows(
        "Confusion matrix",
        "Labelled pairs by truth (rows) and answer (columns)",
        "short",
        Query(_by("confusion", "truth, predicted")),
        span=14,
        height=11,
    )
    pivot = {"rowField": "truth", "columnField": "predicted", "valueField": "Value", "emptyValue": "zero"}
    counts = rows(
        "Counts by class",
        "True and false positives and negatives of each class against all others",
        "short",
        *(Query(_by(name, "label")) for name in COUNTS),
        span=10,
        height=11,
    )
    names = {f"Value #{letter}": name.replace("_", " ") for letter, name in zip("ABCD", COUNTS, strict=True)}
    hidden = {f"Time {number}": True for number in range(1, 5)} | {"Time": True}
    return [
        *curves_of,
        linked(transformed(matrix, groupingToMatrix=pivot), "Wrong answers in Kibana", kibana("wrong-answers")),
        transformed(
            counts,
            joinByField={"byField": "label", "mode": "outer"},
            organize={"excludeByName": hidden, "renameByName": names},
        ),
    ]


COUNTS = ("true_positives", "true_negatives", "false_positives", "false_negatives")


def _by(name: str, labels: str) -> str:
    return f"max by ({labels}) (modelwatch_{name}{BY_WINDOW})"


def _by_value() -> list[Panel]:
    note = "of the attribute that the model's spec names in `breakdown`"
    return [
        curves(
            "Accuracy by value",
            f"By value {note}",
            "percentunit",
            Query(_by("value_accuracy", "value"), "{{value}}"),
            top=1,
            span=10,
        ).no_value("the model has no breakdown, or no labels yet"),
        bars("Pairs by value", f"Pairs {note}", "short", Query(_by("value_size", "value"), "{{value}}"), 7, 8).no_value(
            "the model has no breakdown"
        ),
        bars(
            "Labelled pairs by value",
            f"Those with a label, {note}",
            "short",
            Query(_by("value_labelled", "value"), "{{value}}"),
            7,
            8,
        ).no_value("the model has no breakdown"),
    ]


ERRORS = {"rmse": "root mean squared error", "mae": "mean absolute error"}


def _regression() -> list[Panel]:
    """Of models that predict numbers."""
    about = "Root mean squared and mean absolute error of models that predict numbers, in the unit of what they predict"
    return [
        curves(
            "Errors of numbers",
            about,
            "short",
            *(Query(_figure(name), f"{{{{model}}}} {{{{version}}}} {text}") for name, text in ERRORS.items()),
            span=14,
        ).no_value("no model here predicts numbers, or none has labels yet"),
        curves(
            "Errors of numbers by value",
            f"{about}; by value of the attribute that the model's spec names in `breakdown`",
            "short",
            *(Query(_by(f"value_{name}", "value"), f"{{{{value}}}} {text}") for name, text in ERRORS.items()),
            span=10,
        ).no_value("no model here predicts numbers, or it has no breakdown"),
    ]


def _labels() -> list[Panel]:
    delay = f"sum by (le) (rate(modelwatch_feedback_delay_seconds_bucket{BY_MODEL}[$__rate_interval]))"
    return [
        curves(
            "Label coverage",
            "Share of pairs that have a label: of the newest ones, of the rolling window's, and of a day's",
            "percentunit",
            Query(f"max by (model, window) (modelwatch_label_coverage{BY_VERSION})", "{{model}} {{window}}"),
            Query(f"model:modelwatch_label_coverage:ratio_increase1d{BY_MODEL}", "{{model}} of a day's"),
            Query(f"model:modelwatch_label_coverage:objective{BY_MODEL}", "{{model}} objective"),
        ),
        curves(
            "Labels",
            "Pairs with a label",
            "short",
            Query(
                f"max by (model, version, window) (modelwatch_labelled{BY_VERSION})", "{{model}} {{version}} {{window}}"
            ),
        ),
        curves(
            "Feedback by what it did",
            "joined: the first truth of a pair. corrected: another one. early: waits for its pair. late: its pair had left "
            "the state. orphan: no such pair. invalid: fits no model",
            "ops",
            Query("sum by (outcome) (rate(modelwatch_feedback_total[$__rate_interval]))", "{{outcome}}"),
            stacked=True,
        ),
        curves(
            "How late labels come",
            "From a pair's answer to the moment its first truth was given",
            "s",
            Query(f"histogram_quantile(0.5, {delay})", "p50"),
            Query(f"histogram_quantile(0.95, {delay})", "p95"),
        ).no_value("no labels yet"),
        curves(
            "Pairs joined",
            "Answered pairs that wait for their label, or have it",
            "ops",
            Query(f"sum by (model) (rate(modelwatch_joined_pairs_total{BY_MODEL}[$__rate_interval]))", "{{model}}"),
        ),
        curves(
            "Entries of the join",
            "Requests in the state of each instance",
            "short",
            Query("modelwatch_join_entries", "{{instance}}"),
            span=6,
        ),
        curves(
            "Disk of the join",
            "That the state takes",
            "bytes",
            Query("modelwatch_join_state_bytes", "{{instance}}"),
            span=6,
        ),
        curves(
            "Answers left out",
            "In the last hour. repeated: of a request that was answered again, the last answer counts. surplus: a request "
            "has more answers than are kept. unreadable: on a topic of the join's own",
            "short",
            Query("sum by (model) (increase(modelwatch_repeated_requests_total[1h]))", "{{model}} repeated"),
            Query("sum by (model) (increase(modelwatch_surplus_answers_total[1h]))", "{{model}} surplus"),
            Query("sum by (topic) (increase(modelwatch_unreadable_state_total[1h]))", "{{topic}} unreadable"),
        ).no_value("none"),
        curves(
            "Sums left out",
            "Sums of partitions on which no figure rests, in the last hour. old_version: of more versions than are kept. "
            "stale: of a former owner. unreadable: a dead letter",
            "short",
            Query("sum by (reason) (increase(modelwatch_sums_left_out_total[1h]))", "{{reason}}"),
        ).no_value("none"),
    ]
