"""The record store's indices: their names, and their mappings, which `modelwatch setup` takes from `elasticsearch/`."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
from elastic_transport import TlsError

from elasticsearch import ApiError, AsyncElasticsearch, NotFoundError, TransportError
from runtime.elasticsearch_sink import DENIED_STATUS, client_from_settings
from runtime.errors import ConfigurationError, TransientError
from runtime.logging import get_logger
from runtime.settings import Settings

log = get_logger(__name__)

FOLDER = Path(__file__).resolve().parent.parent / "elasticsearch"
INFERENCES = "inferences"
DRIFT = "drift"
PERFORMANCE = "performance"
KINDS = (INFERENCES, DRIFT, PERFORMANCE)
"""Label `index` of `modelwatch_records_total`, and the middle of each index's name."""
POLICY = "modelwatch-retention"


def index_of_day(kind: str, moment: datetime) -> str:
    """`modelwatch-<kind>-YYYY.MM.DD`, by the day in UTC."""
    return f"modelwatch-{kind}-{moment.astimezone(timezone.utc):%Y.%m.%d}"


def all_of(kind: str) -> str:
    """The pattern that all indices of a kind match."""
    return f"modelwatch-{kind}-*"


def component_templates() -> dict[str, dict[str, Any]]:
    """The component templates by name: the files of `elasticsearch/component-templates/`."""
    return {file.stem: orjson.loads(file.read_bytes()) for file in sorted(FOLDER.glob("component-templates/*.json"))}


async def apply_templates(client: AsyncElasticsearch, retention_days: int = 30) -> list[str]:
    """Put mappings, settings and the retention policy into the store. Safe to repeat.

    Indices that are there learn the fields that are new: today's would refuse them until midnight.

    Args:
        retention_days: after so many days a day's index is deleted, also one that is there already.

    Returns:
        What was put there, in words.

    Raises:
        TransientError: the store does not answer.
        ConfigurationError: it refuses.
    """
    try:
        retention = await _put_policy(client, retention_days)
        for name, template in component_templates().items():
            await client.cluster.put_component_template(name=name, **template)
        for kind in KINDS:
            settings = {"index.lifecycle.name": POLICY} if retention else {}
            await client.indices.put_index_template(
                name=f"modelwatch-{kind}",
                index_patterns=[all_of(kind)],
                composed_of=["modelwatch-settings", f"modelwatch-{kind}"],
                priority=200,
                template={"settings": settings},
            )
            await _add_fields(client, kind)
    except TlsError as error:
        raise _not_trusted(error) from error
    except ApiError as error:
        raise ConfigurationError(
            f"the record store refuses the index templates: {error}; may the key of MODELWATCH_ELASTICSEARCH_API_KEY "
            "manage index templates?"
        ) from error
    except TransportError as error:
        raise TransientError(f"the record store does not answer ({error}); is ELASTICSEARCH_URL right?") from error
    return [
        f"index templates {', '.join(all_of(kind) for kind in KINDS)}",
        f"policy {POLICY} ({retention_days} days)" if retention else "no policy: old records are not deleted",
    ]


async def templates_are_there(client: AsyncElasticsearch) -> bool:
    """Whether the store has the templates: without, the first record would make an index with a guessed mapping.

    Raises:
        TransientError: the store does not answer.
        ConfigurationError: it refuses our key, or its certificate is not trusted.
    """
    try:
        for kind in KINDS:
            await client.indices.get_index_template(name=f"modelwatch-{kind}")
    except NotFoundError:
        return False
    except TlsError as error:
        raise _not_trusted(error) from error
    except (ApiError, TransportError) as error:
        if isinstance(error, ApiError) and error.status_code in DENIED_STATUS:
            raise ConfigurationError(
                f"the record store refuses this client: {error}; check MODELWATCH_ELASTICSEARCH_API_KEY and the "
                "privileges of the key"
            ) from error
        raise TransientError(f"the record store does not answer: {error}") from error
    return True


async def _add_fields(client: AsyncElasticsearch, kind: str) -> None:
    mappings = component_templates()[f"modelwatch-{kind}"]["template"]["mappings"]
    for index in await client.indices.get(index=all_of(kind), features="aliases"):
        await client.indices.put_mapping(index=index, properties=mappings["properties"])


def _not_trusted(error: TlsError) -> ConfigurationError:
    return ConfigurationError(
        f"the record store's certificate is not trusted: {error}; check MODELWATCH_ELASTICSEARCH_CA_CERTS, and that "
        "ELASTICSEARCH_URL has a name that the certificate has"
    )


async def _put_policy(client: AsyncElasticsearch, days: int) -> bool:
    """False where the store has no lifecycle management: then nothing deletes old indices but its operator."""
    policy = orjson.loads((FOLDER / "retention-policy.json").read_bytes())["policy"]
    policy["phases"]["delete"]["min_age"] = f"{days}d"
    try:
        await client.ilm.put_lifecycle(name=POLICY, policy=policy)
    except ApiError as error:
        if error.status_code not in (400, 404, 405, 410):
            raise
        log.warning("record store has no index lifecycle management: old records are not deleted", error=str(error))
        return False
    return True


async def setup_record_store(settings: Settings) -> list[str]:
    """`apply_templates` with a client of its own."""
    client = client_from_settings(settings)
    try:
        return await apply_templates(client, settings.record_retention_days)
    finally:
        await client.close()
