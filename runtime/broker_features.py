"""What the brokers' own settings mean for our promises; `modelwatch doctor` asks."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from runtime import kafka
from runtime.errors import TransientError
from runtime.settings import Settings
from schemas.topics import REQUESTS

RETENTION = "offsets.retention.minutes"
MINUTE_MS = 60_000


def offset_retention_minutes(settings: Settings, timeout: float = 3.0) -> int | None:
    """How long the brokers remember the offsets of a group that is away; None if they do not say.

    Raises:
        TransientError: no broker answers.
    """
    client = kafka.admin(settings, log_level=0)
    try:
        brokers = client.list_topics(timeout=timeout).brokers
        resource = ConfigResource(ResourceType.BROKER, str(min(brokers)))
        found = client.describe_configs([resource], request_timeout=timeout)[resource].result(2 * timeout)
    except KafkaException as failure:
        raise TransientError(f"the brokers do not tell their settings: {failure.args[0].str()}") from failure
    return int(found[RETENTION].value) if RETENTION in found else None


def forgets_offsets_early(minutes: int) -> bool:
    """Whether a group may lose its offsets while requests that it has answered are still there."""
    return minutes * MINUTE_MS < REQUESTS.retention_ms
