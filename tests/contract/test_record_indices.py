"""The index templates: every field that we write is in the mapping, and no other gets in."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from elasticsearch import AsyncElasticsearch, BadRequestError
from runtime.elasticsearch_sink import client_from_settings
from runtime.errors import TransientError
from runtime.record_indices import (
    DRIFT,
    INFERENCES,
    apply_templates,
    component_templates,
    index_of_day,
    templates_are_there,
)
from runtime.settings import Settings
from schemas.messages import DriftReport, InferenceRequest, InferenceResponse, OutlierVerdict
from tests.servers.record_bench import Store

Use = Callable[[AsyncElasticsearch], Awaitable[None]]


def with_store(url: str, use: Use) -> None:
    async def whole() -> None:
        client = client_from_settings(Settings(elasticsearch_url=url))
        try:
            await use(client)
        finally:
            await client.close()

    asyncio.run(whole())


def fields(name: str) -> dict[str, Any]:
    properties: dict[str, Any] = component_templates()[f"modelwatch-{name}"]["template"]["mappings"]["properties"]
    return properties


def test_the_index_is_that_of_the_day_in_utc() -> None:
    assert index_of_day("drift", datetime(2026, 3, 1, 23, 59, tzinfo=timezone.utc)) == "modelwatch-drift-2026.03.01"


@pytest.mark.parametrize(
    ("kind", "field", "model"),
    [
        (INFERENCES, "request", InferenceRequest),
        (INFERENCES, "response", InferenceResponse),
        (INFERENCES, "outlier", OutlierVerdict),
        (DRIFT, None, DriftReport),
    ],
)
def test_every_field_of_a_message_that_is_stored_is_mapped(kind: str, field: str | None, model: Any) -> None:
    mapped = fields(kind)[field]["properties"] if field else fields(kind)
    left_out = {"schema_version", "request_id", "model", "model_version"} if model is OutlierVerdict else set()
    assert set(model.model_fields) - left_out <= set(mapped)


def test_templates_can_be_applied_again_and_are_found(store: Store) -> None:
    async def use(client: AsyncElasticsearch) -> None:
        for _ in range(2):
            assert "modelwatch-inferences-*" in (await apply_templates(client))[0]
        assert await templates_are_there(client)

    with_store(store.url, use)


def test_an_index_of_an_earlier_version_learns_the_fields_that_are_new(store: Store, unique: str) -> None:
    async def use(client: AsyncElasticsearch) -> None:
        await apply_templates(client)
        index, earlier = f"modelwatch-inferences-{unique}", dict(component_templates()["modelwatch-inferences"])
        mappings = {**earlier["template"]["mappings"], "properties": {"request_id": {"type": "keyword"}}}
        await client.indices.create(index=index, mappings=mappings)
        document = {"request_id": "1", "model_version": "2", "response": {"primary": False}}
        try:
            await apply_templates(client)
            await client.index(index=index, id="1", document=document)
        finally:
            await client.indices.delete(index=index)

    with_store(store.url, use)


def test_an_unknown_field_is_refused_at_every_level(store: Store, unique: str) -> None:
    async def use(client: AsyncElasticsearch) -> None:
        await apply_templates(client)
        index = f"modelwatch-inferences-{unique}"
        await client.index(index=index, id="1", document={"request_id": "1", "outlier": {"score": 0.5}})
        for document in ({"surprise": 1}, {"outlier": {"surprise": 1}}, {"outlier": {"score": "high"}}):
            with pytest.raises(BadRequestError):
                await client.index(index=index, id="2", document=document)
        await client.indices.delete(index=index)

    with_store(store.url, use)


def test_a_store_that_is_away_is_waited_for() -> None:
    async def use(client: AsyncElasticsearch) -> None:
        with pytest.raises(TransientError, match="does not answer"):
            await templates_are_there(client)
        with pytest.raises(TransientError, match="ELASTICSEARCH_URL"):
            await apply_templates(client)

    with_store("http://127.0.0.1:9", use)
