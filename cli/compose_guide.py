"""`python -m cli.compose_guide`: where to look, printed by the last service that `docker compose up` starts."""

import os

from cli.compose_variables import PORTS, PUBLISH

PLACES = {
    "Grafana": ("GRAFANA", "http", "dashboards"),
    "Kibana": ("KIBANA", "http", "records: every prediction, window and explanation"),
    "Prometheus": ("PROMETHEUS", "http", "metrics, rules"),
    "Alertmanager": ("ALERTMANAGER", "http", "alerts"),
    "Worker": ("WORKER", "http", "V2 and V1, /metrics, /health/ready"),
    "Elasticsearch": ("ELASTICSEARCH", "http", "for `modelwatch` and other clients"),
    "Kafka": ("KAFKA", "", "for `modelwatch`, kcat and other clients"),
}


def guide() -> str:
    """The text."""
    lines = ["", "modelwatch is up. Where to look:", ""]
    for name, (service, scheme, what) in PLACES.items():
        port = os.environ.get(f"{PUBLISH}{service}") or PORTS[service]
        address = f"{scheme}://127.0.0.1:{port}" if scheme else f"127.0.0.1:{port}"
        lines.append(f"  {name:<14} {address:<24} {what}")
    lines += ["", "Traffic: docker compose --profile seed up seed", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(guide())  # noqa: T201
