"""Every metric of every process, declared once. The registry is injected, so that tests can read it."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version as package_version

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MAX_SCORE_BUCKETS = 40
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

PRECISION_BUCKETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
COVERAGE_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
DELAY_BUCKETS = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0)
PERFORMANCE_GAUGES: dict[str, tuple[str, ...]] = {
    "confusion": ("Labelled pairs of the window by class", "truth", "predicted"),
    "true_positives": ("Labelled pairs of a class that were answered so", "label"),
    "true_negatives": ("Labelled pairs of other classes that were not answered so", "label"),
    "false_positives": ("Labelled pairs of other classes that were answered so", "label"),
    "false_negatives": ("Labelled pairs of a class that were answered otherwise", "label"),
    "precision": ("Of a class; absent if it was never answered", "label"),
    "recall": ("Of a class; absent if it never was the truth", "label"),
    "specificity": ("Of a class; absent if every truth was this class", "label"),
    "f1": ("Of a class; absent if it was neither answered nor the truth", "label"),
    "average_precision": ("Over classes, macro or micro", "average"),
    "average_recall": ("Over classes, macro or micro", "average"),
    "average_specificity": ("Over classes, macro or micro", "average"),
    "average_f1": ("Over classes, macro or micro", "average"),
    "value_size": ("Pairs of the window by value of the attribute broken down by", "value"),
    "value_labelled": ("Labelled pairs of the window by value of the attribute broken down by", "value"),
    "value_accuracy": ("Share of labelled pairs answered rightly, by value of the attribute broken down by", "value"),
    "value_rmse": ("Root mean squared error of a regression model, by value of that attribute", "value"),
    "value_mae": ("Mean absolute error of a regression model, by value of that attribute", "value"),
    "accuracy": ("Share of labelled pairs that were answered rightly",),
    "log_loss": ("Mean negative logarithm of the probability of the truth, nats",),
    "brier": ("Mean squared distance of the probabilities from the truth, over all classes",),
    "calibration_error": ("Expected calibration error, 15 bins of equal width",),
    "kl_divergence": ("Of the predicted from the true class distribution, nats",),
    "rmse": ("Root mean squared error of a regression model, in the unit of its label",),
    "mae": ("Mean absolute error of a regression model, in the unit of its label",),
    "label_coverage": ("Share of pairs that have a label",),
    "labelled": ("Pairs of the window that have a label",),
    "estimated_accuracy": ("Mean calibrated confidence of the window's pairs, labelled or not",),
}
"""By name without prefix: help text, and labels beside model, version and window (rolling, lifetime, latest)."""


class CommonMetrics:
    """Metrics of every process."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        build = Info("modelwatch_build", "Version of modelwatch and the service this process runs", registry=registry)
        build.info({"version": package_version("modelwatch"), "service": service})
        self.dead_letters = Counter(
            "modelwatch_dead_letters",
            "Messages sent to the dead letters, by the stage that refused them and the reason",
            ["stage", "reason"],
            registry=registry,
        )
        self.records = Counter(
            "modelwatch_records",
            "Documents sent to the record store, by index kind and outcome (written, retried, rejected)",
            ["index", "outcome"],
            registry=registry,
        )
        self.consumer_lag = Gauge(
            "modelwatch_consumer_lag",
            "Messages between this consumer's position and the end of the partition",
            ["topic", "partition"],
            registry=registry,
        )


class AgentMetrics(CommonMetrics):
    """Metrics of every agent."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        super().__init__(registry, service)
        self.assignments = Counter(
            "modelwatch_assignments",
            "Times that partitions were assigned to this instance; many in a short time are a storm of rebalances",
            registry=registry,
        )
        self._unwatched = Counter(
            "modelwatch_unwatched_pairs",
            "Pairs that this agent did not look at (unknown_model: it has no folder of their model; other_version: of "
            "another shape or with other classes than the version that it has, which the confusion agent counts all "
            "the same unless one of them is no classifier)",
            ["reason"],
            registry=registry,
        )
        for reason in ("unknown_model", "other_version"):
            self._unwatched.labels(reason)

    def count_unwatched(self, pairs: Mapping[str, int]) -> None:
        """Pairs that were not looked at, by why."""
        for reason, count in pairs.items():
            self._unwatched.labels(reason).inc(count)


class WorkerMetrics(CommonMetrics):
    """Metrics of the inference worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "inference")
        self.requests = Counter(
            "modelwatch_requests",
            "Images asked about, by how it ended (ok, expired, refused, error) and by the way they came (kafka, http)",
            ["model", "outcome", "transport"],
            registry=registry,
        )
        self.request_latency = Histogram(
            "modelwatch_request_latency_seconds",
            "From the request's timestamp to its answer being committed (Kafka) or sent (HTTP)",
            ["model", "transport"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.queue = Histogram(
            "modelwatch_queue_seconds",
            "From reading a request to the start of its batch's computation",
            ["model"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.inference = Histogram(
            "modelwatch_inference_seconds",
            "Computation of one batch",
            ["model"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "modelwatch_batch_size",
            "Images computed together, padding excluded",
            ["model"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.transactions = Counter(
            "modelwatch_transactions",
            "Kafka transactions, by outcome (committed, aborted)",
            ["outcome"],
            registry=registry,
        )
        self.pipeline_restarts = Counter(
            "modelwatch_pipeline_restarts",
            "Times the worker dropped uncommitted work and started again from the committed offsets",
            registry=registry,
        )
        self.model_info = Gauge(
            "modelwatch_model_info",
            "1 for each model loaded",
            ["model", "version", "sha256", "device"],
            registry=registry,
        )
        self.gpu_memory = Gauge(
            "modelwatch_gpu_memory_bytes", "GPU memory in use by this process", ["device"], registry=registry
        )


class OutliersMetrics(AgentMetrics):
    """Metrics of the outliers agent.

    Args:
        thresholds: of the models that have a detector; the histogram's buckets lie about them.
    """

    def __init__(self, registry: CollectorRegistry, thresholds: Sequence[float]) -> None:
        super().__init__(registry, "outliers")
        self.scores = Histogram(
            "modelwatch_outlier_score",
            "Outlier scores of pairs, in the unit of the model's threshold",
            ["model"],
            buckets=buckets_about(thresholds),
            registry=registry,
        )
        self.threshold = Gauge(
            "modelwatch_outlier_threshold", "A pair scored above it is an outlier", ["model"], registry=registry
        )
        self.outliers = Counter(
            "modelwatch_outliers",
            "Pairs flagged, by the label that the model answered",
            ["model", "label"],
            registry=registry,
        )
        self.scored = Counter("modelwatch_scored", "Pairs scored whose record is safe", ["model"], registry=registry)
        self.unscored = Counter(
            "modelwatch_unscored",
            "Pairs recorded without a score (expired: no answer; no_detector: the model has none, or is not here)",
            ["reason"],
            registry=registry,
        )
        self.explanations_asked = Counter(
            "modelwatch_explanations_asked",
            "Flagged pairs for which the policy would ask an explanation (asked, dropped: over the rate)",
            ["model", "outcome"],
            registry=registry,
        )
        self.score_seconds = Histogram(
            "modelwatch_score_seconds",
            "Decoding and scoring of one batch",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def begin_at_zero(self, model: str, labels: Iterable[str]) -> None:
        """Show a model's counters before they count: a rate does not see the first step of a series that appears."""
        self.scored.labels(model)
        for label in labels:
            self.outliers.labels(model, label)


class DriftMetrics(AgentMetrics):
    """Metrics of the drift agent.

    Gauges are those of the models whose windows this instance keeps; another takes them over with the partition.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "drift")
        by_detector = ["model", "version", "detector"]
        self.featured = Counter(
            "modelwatch_featured", "Pairs whose features are safe on monitoring.features", ["model"], registry=registry
        )
        self.detected = Gauge(
            "modelwatch_drift_detected",
            "1 if the last window that was large enough to say drifted, else 0",
            by_detector,
            registry=registry,
        )
        self.p_value = Gauge(
            "modelwatch_drift_p_value", "Of the last tested window", [*by_detector, "feature"], registry=registry
        )
        self.distance = Gauge(
            "modelwatch_drift_distance",
            "Kolmogorov-Smirnov statistic of the last tested window",
            [*by_detector, "feature"],
            registry=registry,
        )
        self.threshold = Gauge(
            "modelwatch_drift_threshold",
            "p-value under which a feature of the last tested window drifts, after correction",
            by_detector,
            registry=registry,
        )
        self.windows = Counter(
            "modelwatch_drift_windows",
            "Windows reported, by result (drift, no_drift; too_small: for a test; no_detector: that the features are "
            "of is not here; no_features: of some pairs)",
            ["model", "detector", "result"],
            registry=registry,
        )
        self.closed = Counter(
            "modelwatch_drift_windows_closed",
            "Windows reported, by why they closed (full, age, superseded: by other detectors)",
            ["model", "by"],
            registry=registry,
        )
        self.window_fill = Gauge(
            "modelwatch_drift_window_fill", "Pairs in the open window", ["model", "version"], registry=registry
        )
        self.duplicates = Counter(
            "modelwatch_drift_duplicates",
            "Features of pairs that the window had already, after a retry of the first stage",
            ["model"],
            registry=registry,
        )
        self.unwindowed = Counter(
            "modelwatch_drift_unwindowed",
            "Features that were passed over: of models that are not here or have no drift detector",
            registry=registry,
        )
        self.unreadable = Counter(
            "modelwatch_drift_unreadable_states",
            "Messages of monitoring.drift-state that are none of ours, and were passed over",
            registry=registry,
        )
        self.made_anew = Counter(
            "modelwatch_drift_topics_made_anew",
            "Times that counting began anew because the topic that it counts was deleted and made anew",
            ["topic"],
            registry=registry,
        )

    def begin_at_zero(self, model: str, detectors: Iterable[str]) -> None:
        """Show a model's counters before they count: a rate does not see the first step of a series that appears."""
        self.featured.labels(model)
        for detector in detectors:
            for result in ("drift", "no_drift"):
                self.windows.labels(model, detector, result)


class ConfusionMetrics(AgentMetrics):
    """Metrics of the confusion agent.

    Attributes:
        performance: gauges of figures, by name; one instance shows those of a model, for all partitions.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "confusion")
        self.joined_pairs = Counter(
            "modelwatch_joined_pairs", "Answered pairs whose entry is safe", ["model"], registry=registry
        )
        self.repeated = Counter(
            "modelwatch_repeated_requests",
            "Answers that took the place of an earlier one: the same request id was asked the same model version again",
            ["model"],
            registry=registry,
        )
        self.surplus = Counter(
            "modelwatch_surplus_answers",
            "Answers that are not counted, as their request has more of them, or larger ones, than are kept",
            ["model"],
            registry=registry,
        )
        self.unreadable_state = Counter(
            "modelwatch_unreadable_state",
            "Messages of the join's own topics that are none of ours, and were passed over when a partition was opened",
            ["topic"],
            registry=registry,
        )
        self.feedback = Counter(
            "modelwatch_feedback",
            "Feedback by what it did (joined, corrected, duplicate, early: waits for its pair, late: by its record, "
            "orphan, invalid); model is empty where it is not known",
            ["model", "outcome"],
            registry=registry,
        )
        self.feedback_delay = Histogram(
            "modelwatch_feedback_delay_seconds",
            "From a pair's answer to the moment its first truth was given",
            ["model"],
            buckets=DELAY_BUCKETS,
            registry=registry,
        )
        self.join_entries = Gauge(
            "modelwatch_join_entries", "Requests in the join's state of this instance", registry=registry
        )
        self.join_state = Gauge(
            "modelwatch_join_state_bytes", "Disk that the join's state of this instance takes", registry=registry
        )
        self.sums_left_out = Counter(
            "modelwatch_sums_left_out",
            "Sums of partitions that no figure rests on, by reason (unreadable: a dead letter; unknown_model, "
            "in_future, stale: of a former owner of the partition; old_version: of more versions than are kept; "
            "other_classes: than the model has now)",
            ["reason"],
            registry=registry,
        )
        self.performance = {
            name: Gauge(f"modelwatch_{name}", text, ["model", "version", "window", *more], registry=registry)
            for name, (text, *more) in PERFORMANCE_GAUGES.items()
        }


class ExplanationsMetrics(AgentMetrics):
    """Metrics of the explanations agent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "explanations")
        by_method = ["model", "method"]
        self.explanations = Counter(
            "modelwatch_explanations",
            "Questions answered, by outcome (ok, no_anchor, timeout, overloaded, not_found, expired, invalid, failed)",
            [*by_method, "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "modelwatch_explanation_seconds",
            "From the beginning of an explanation to its end, waiting for its turn excluded",
            by_method,
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.precision = Histogram(
            "modelwatch_anchor_precision",
            "Precision of anchors found",
            ["model"],
            buckets=PRECISION_BUCKETS,
            registry=registry,
        )
        self.coverage = Histogram(
            "modelwatch_anchor_coverage",
            "Coverage of anchors found",
            ["model"],
            buckets=COVERAGE_BUCKETS,
            registry=registry,
        )
        self.predictor_calls = Counter(
            "modelwatch_predictor_calls", "Batches sent to the model for explanations", by_method, registry=registry
        )
        self.evaluations = Counter(
            "modelwatch_predictor_evaluations",
            "Images sent to the model for explanations",
            by_method,
            registry=registry,
        )
        self.in_hand = Gauge(
            "modelwatch_explanations_in_hand",
            "Questions that wait for their turn or are being answered",
            registry=registry,
        )
        self.asked = Counter(
            "modelwatch_policy_questions",
            "Explanations that a policy (outliers, low_confidence, wrong_answers, one_in) wanted, by what became of it "
            "(asked, dropped: over the rate)",
            ["model", "policy", "outcome"],
            registry=registry,
        )
        self.not_compared = Counter(
            "modelwatch_feedback_not_compared",
            "Feedback that policy wrong_answers did not compare with its answer, as no question could have been asked "
            "or too many came at once",
            registry=registry,
        )
        self.recent_pairs = Gauge(
            "modelwatch_recent_pairs", "Pairs kept in memory, whose images need not be fetched", registry=registry
        )

    def begin_at_zero(self, model: str, methods: Iterable[str]) -> None:
        """Show a model's counters before they count: a rate does not see the first step of a series that appears."""
        self.precision.labels(model)
        self.coverage.labels(model)
        for method in methods:
            for outcome in ("ok", "timeout", "overloaded", "failed"):
                self.explanations.labels(model, method, outcome)
            for metric in (self.seconds, self.predictor_calls, self.evaluations):
                metric.labels(model, method)


def buckets_about(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Histogram buckets that resolve scores about each threshold; coarser ones where there are many."""
    factors = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
    bounds = sorted({float(f"{threshold * factor:.4g}") for threshold in thresholds for factor in factors})
    if not bounds:
        return (1.0,)
    if len(bounds) <= MAX_SCORE_BUCKETS:
        return tuple(bounds)
    spread = np.geomspace(bounds[0], bounds[-1], MAX_SCORE_BUCKETS)
    return tuple(float(f"{bound:.4g}") for bound in spread)


def observe_many(child: Histogram, values: Sequence[float]) -> None:
    """Observe all `values` at once; the same as `observe` for each, at a fraction of the cost.

    prometheus-client has no such call, so this reaches into a histogram child's buckets; a test compares the two.
    """
    bounds = np.asarray(child._upper_bounds[:-1])
    counts = np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1)
    child._sum.inc(float(np.sum(values)))
    for bucket, count in zip(child._buckets, counts.tolist(), strict=True):
        if count:
            bucket.inc(count)
