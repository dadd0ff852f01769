"""Service: is it fast, does it answer, does it keep up, and what does it take?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from views.grafana.frame import BY_MODEL, framed, kibana, model_variable
from views.grafana.panels import GREEN, RED, YELLOW, Panel, Query, curves, figure, heat, linked, rows, transformed

PROCESSES = '{job=~"modelwatch-.+"}'
LATENCY = "modelwatch_request_latency_seconds"


def service() -> Dashboard:
    """The dashboard."""
    return framed(
        "service",
        "Service",
        "Rates, outcomes, latency, lag and resources of all processes",
        [
            ("At a glance", _glance()),
            ("Requests", _requests()),
            ("Inside the worker", _worker()),
            ("Keeping up", _keeping_up()),
            ("Processes", _processes()),
        ],
        [model_variable()],
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{BY_MODEL}[$__rate_interval]))"


def _quantiles(metric: str, *shares: float) -> list[Query]:
    buckets = _rate(f"{metric}_bucket", "le")
    return [Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g}") for share in shares]


def _glance() -> list[Panel]:
    asked = f"sum(rate(modelwatch_requests_total{BY_MODEL}[5m]))"
    answered = 'sum(rate(modelwatch_requests_total{model=~"$model", outcome="ok"}[5m]))'
    firing = 'count(ALERTS{alertname=~"Modelwatch.+", alertstate="firing"}) or vector(0)'
    return [
        figure("Requests", "Images asked about a second, over 5 minutes", "reqps", Query(asked)),
        figure(
            "Answered",
            "Share of requests that were answered; the rest was refused, expired, or ended with an error",
            "percentunit",
            Query(f"{answered} / {asked}"),
            ((None, RED), (0.95, YELLOW), (0.99, GREEN)),
        ),
        figure(
            "Latency p99",
            "99 % of requests of the last 5 minutes were answered within this time of their timestamp",
            "s",
            Query(f"max(model:modelwatch_request_latency_seconds:p99_5m{BY_MODEL})"),
            ((None, GREEN), (0.5, YELLOW), (1, RED)),
        ),
        figure(
            "Lag",
            "Messages that wait for any of our services",
            "short",
            Query("sum(modelwatch_consumer_lag)"),
            ((None, GREEN), (1000, YELLOW), (10_000, RED)),
        ),
        figure(
            "Processes up",
            "Share of our processes whose metrics can be read",
            "percentunit",
            Query(f"avg(up{PROCESSES})"),
            ((None, RED), (1, GREEN)),
        ),
        figure("Alerts firing", "Of modelwatch; Fleet lists them", "none", Query(firing), ((None, GREEN), (1, RED))),
    ]


def _requests() -> list[Panel]:
    return [
        linked(
            curves(
                "Requests by outcome",
                "ok: answered. expired: its deadline passed first. refused: it could not be read. error: see the worker's log",
                "reqps",
                Query(_rate("modelwatch_requests_total", "outcome"), "{{outcome}}"),
                stacked=True,
            ),
            "One prediction's whole story in Kibana",
            kibana("prediction"),
        ),
        curves(
            "Requests by model and way",
            "How requests came: from Kafka or by HTTP",
            "reqps",
            Query(_rate("modelwatch_requests_total", "model, transport"), "{{model}}, {{transport}}"),
            stacked=True,
        ),
        curves(
            "Latency",
            "From the request's timestamp until its answer was committed (Kafka) or sent (HTTP); waiting included",
            "s",
            *_quantiles(LATENCY, 0.5, 0.75, 0.99),
        ),
        heat("Latency, all of it", "Requests by how long they took", "s", LATENCY, BY_MODEL),
        curves(
            "Slow requests against the objective",
            "Share of requests slower than 1 s, over the windows that alerts compare, and the share that is allowed",
            "percentunit",
            Query(f"max(model:modelwatch_requests_slow:ratio_rate5m{BY_MODEL})", "5 minutes"),
            Query(f"max(model:modelwatch_requests_slow:ratio_rate1h{BY_MODEL})", "1 hour"),
            Query(f"max(model:modelwatch_requests_slow:ratio_rate6h{BY_MODEL})", "6 hours"),
            Query(f"1 - min(model:modelwatch_latency:objective{BY_MODEL})", "allowed"),
        ),
        curves(
            "Requests that failed",
            "Share of requests that were not answered, by model",
            "percentunit",
            Query(f"model:modelwatch_requests_failed:ratio_rate5m{BY_MODEL}", "{{model}}"),
        ),
    ]


def _worker() -> list[Panel]:
    images, batches = (_rate(f"modelwatch_batch_size_{suffix}", "") for suffix in ("sum", "count"))
    return [
        curves(
            "Waiting for a batch",
            "From reading a request to the start of its batch's computation",
            "s",
            *_quantiles("modelwatch_queue_seconds", 0.5, 0.99),
        ),
        curves(
            "Computing a batch",
            "On the device, padding included",
            "s",
            *_quantiles("modelwatch_inference_seconds", 0.5, 0.99),
        ),
        curves(
            "Batch size",
            "Images computed together; few where traffic is thin, full under load",
            "short",
            Query(f"{images} / {batches}", "mean"),
            *_quantiles("modelwatch_batch_size", 0.5, 0.95),
        ),
        curves(
            "Kafka transactions",
            "Committed and aborted; and how often a worker began again from the committed offsets",
            "ops",
            Query("sum by (outcome) (rate(modelwatch_transactions_total[$__rate_interval]))", "{{outcome}}"),
            Query("sum(rate(modelwatch_pipeline_restarts_total[$__rate_interval]))", "restarts"),
        ),
    ]


def _keeping_up() -> list[Panel]:
    return [
        curves(
            "Lag by service and topic",
            "Messages between what a service has read and the end of the topic",
            "short",
            Query("sum by (job, topic) (modelwatch_consumer_lag)", "{{job}}: {{topic}}"),
        ),
        curves(
            "Dead letters",
            "Messages of 15 minutes that could not be read or stored; they are whole in inference.dead-letters",
            "short",
            Query("stage_reason:modelwatch_dead_letters:increase15m", "{{stage}}: {{reason}}"),
            stacked=True,
        ).no_value("no dead letters"),
        curves(
            "Dead letters in all",
            "Since each process began",
            "short",
            Query("sum by (stage) (modelwatch_dead_letters_total)", "{{stage}}"),
        ).no_value("no dead letters"),
        curves(
            "Records by outcome",
            "Documents sent to Elasticsearch. retried: it was away or busy. rejected: they do not fit the mapping",
            "wps",
            Query(
                "sum by (index, outcome) (rate(modelwatch_records_total[$__rate_interval]))", "{{index}}: {{outcome}}"
            ),
            stacked=True,
        ),
        curves(
            "Assignments of partitions",
            "In 10 minutes; many are a storm of rebalances",
            "short",
            Query("sum by (job) (increase(modelwatch_assignments_total[10m]))", "{{job}}"),
        ),
        curves(
            "Pairs that agents do not watch",
            "By agent and reason. unknown_model: the worker has a model whose folder the agent lacks; start both with "
            "the same folders. other_version: of a version with another shape or other classes",
            "ops",
            Query(
                "sum by (job, reason) (rate(modelwatch_unwatched_pairs_total[$__rate_interval]))", "{{job}}: {{reason}}"
            ),
        ),
    ]


def _processes() -> list[Panel]:
    models = rows(
        "Models loaded",
        "What each worker serves, with the checksum of the weights and the device",
        "none",
        Query("group by (model, version, sha256, device, instance) (modelwatch_model_info)"),
        span=12,
    )
    builds = rows(
        "Builds", "Version of modelwatch that each process runs", "none", Query("modelwatch_build_info"), span=12
    )
    hidden = {"excludeByName": {"Time": True, "Value": True, "__name__": True}}
    return [
        curves(
            "CPU",
            "Cores in use",
            "short",
            Query(f"rate(process_cpu_seconds_total{PROCESSES}[$__rate_interval])", "{{job}} {{instance}}"),
        ),
        curves(
            "Memory",
            "Resident memory",
            "bytes",
            Query(f"process_resident_memory_bytes{PROCESSES}", "{{job}} {{instance}}"),
        ),
        curves(
            "Open files",
            "Connections included",
            "short",
            Query(f"process_open_fds{PROCESSES}", "{{job}} {{instance}}"),
        ),
        curves(
            "GPU memory",
            "In use by the workers; empty where there is no GPU",
            "bytes",
            Query("modelwatch_gpu_memory_bytes", "{{instance}} {{device}}"),
        ).no_value("no GPU"),
        transformed(models, organize=hidden),
        transformed(builds, organize=hidden),
    ]
