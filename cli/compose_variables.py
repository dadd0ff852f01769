"""What docker-compose.yml itself reads from .env: versions of the images, and the ports published on this machine."""

from runtime.settings_documents import Variable

IMAGES = {
    "MODELWATCH_IMAGE": ("modelwatch:0.1.0", "Worker, agents and set-up; built from the Dockerfile."),
    "MODELWATCH_GPU_IMAGE": ("modelwatch:0.1.0-gpu", "Worker of the profile `gpu`; built from the Dockerfile."),
    "MODELWATCH_KAFKA_IMAGE": ("apache/kafka:4.1.1", "Broker."),
    "MODELWATCH_ELASTICSEARCH_IMAGE": ("elasticsearch:9.1.5", "Record store: 9, or 8.19 or later."),
    "MODELWATCH_KIBANA_IMAGE": ("kibana:9.1.5", "Of the record store's version."),
    "MODELWATCH_PROMETHEUS_IMAGE": ("prom/prometheus:v3.5.0", "Metrics and rules."),
    "MODELWATCH_ALERTMANAGER_IMAGE": ("prom/alertmanager:v0.28.1", "Alerts."),
    "MODELWATCH_GRAFANA_IMAGE": ("grafana/grafana:12.1.1", "Dashboards."),
}
PORTS = {
    "KAFKA": 9092,
    "ELASTICSEARCH": 9200,
    "WORKER": 8080,
    "OUTLIERS": 8090,
    "DRIFT": 8091,
    "CONFUSION": 8092,
    "EXPLANATIONS": 8093,
    "KIBANA": 5601,
    "PROMETHEUS": 9090,
    "ALERTMANAGER": 9093,
    "GRAFANA": 3000,
}
"""On the loopback address, by service."""
PUBLISH = "MODELWATCH_PUBLISH_"
TITLE = "Docker Compose only"


def compose_variables() -> list[Variable]:
    """All of them, as settings documents show variables."""
    images = [Variable(name, (), image, f"`{image}`", meaning) for name, (image, meaning) in IMAGES.items()]
    ports = [
        Variable(f"{PUBLISH}{service}", (), str(port), f"`{port}`", f"Port of {service.lower()} on this machine.")
        for service, port in PORTS.items()
    ]
    return [*images, *ports]
