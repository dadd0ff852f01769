"""What the agents need of the record store and of the sink before it, checked over HTTP against a real one."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.elasticsearch_sink import client_from_settings
from runtime.errors import ConfigurationError
from runtime.record_indices import apply_templates, templates_are_there
from runtime.settings import Settings
from runtime.tls import server_context
from tests.servers.certificates import Authority
from tests.servers.flaky_store import FlakyStore
from tests.servers.record_bench import Store, bench, run


def test_writing_twice_has_the_effect_of_writing_once(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            for _ in range(2):
                await made.sink.write(made.numbers(10))
            assert await made.stored() == {str(number): {"number": number} for number in range(10)}
            assert (made.count("written"), made.rejected) == (20, [])

    run(test())


def test_partial_updates_of_two_writers_merge(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            ids = [str(number) for number in range(200)]
            await asyncio.gather(
                made.sink.write([made.record(id, {"response": {"label": "truck"}}) for id in ids]),
                made.sink.write([made.record(id, {"outlier": {"score": 0.5}}) for id in ids]),
            )
            both = {"response": {"label": "truck"}, "outlier": {"score": 0.5}}
            assert await made.stored() == dict.fromkeys(ids, both)

    run(test())


def test_mode_index_replaces_the_document(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            await made.sink.write([made.record("a", {"number": 1, "name": "first"})])
            await made.sink.write([made.record("a", {"number": 2}, mode="index")])
            assert await made.stored() == {"a": {"number": 2}}

    run(test())


def test_json_given_as_bytes_may_span_lines(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            pretty = b'{\r\n  "number": 1,\n  "name": "two\\nlines"\n}\n'
            await made.sink.write([made.record("a", pretty), made.record("b", pretty, mode="index")])
            assert await made.stored() == {id: {"number": 1, "name": "two\nlines"} for id in "ab"}

    run(test())


def test_a_document_that_breaks_the_mapping_is_rejected_and_only_it(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            bad = [made.record("unknown", {"colour": "red"}), made.record("type", {"number": "many"})]
            await made.sink.write([*made.numbers(5), *bad, made.record("last", {"number": 9})])
            assert set(await made.stored()) == {"0", "1", "2", "3", "4", "last"}
            reasons = dict(made.rejected)
            assert set(reasons) == {"unknown", "type"}
            assert "strict_dynamic_mapping_exception" in reasons["unknown"] and "colour" in reasons["unknown"]
            assert "number" in reasons["type"] and "many" in reasons["type"]
            assert [made.count(outcome) for outcome in ("written", "retried", "rejected")] == [6, 0, 2]

    run(test())


def test_a_document_that_is_no_json_is_rejected_and_only_it(store: Store, unique: str) -> None:
    async def test() -> None:
        async with bench(store.url, unique) as made:
            await made.sink.write([made.record("bad", {"name": "\ud800"}), made.record("good", {"number": 1})])
            assert await made.stored() == {"good": {"number": 1}}
            assert [id for id, _ in made.rejected] == ["bad"]
            assert made.count("rejected") == 1

    run(test())


def test_a_missing_authority_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    settings = Settings(elasticsearch_url="https://store.example:9200", elasticsearch_ca_certs=tmp_path / "no.pem")
    with pytest.raises(ConfigurationError, match="MODELWATCH_ELASTICSEARCH_CA_CERTS"):
        client_from_settings(settings)


def test_a_store_with_tls_and_a_key_is_served_and_one_that_refuses_us_is_a_wrong_setting(
    store: Store, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "right")
    issued = authority.issue("store")
    tls = server_context(Settings(http_certificate_location=issued.certificate, http_key_location=issued.key))

    async def ready(url: str, apply: bool = True, **changes: Any) -> bool:
        right = {
            "elasticsearch_url": url,
            "elasticsearch_api_key": "a2V5",
            "elasticsearch_ca_certs": authority.certificate,
        }
        client = client_from_settings(Settings(**right | changes))
        try:
            if apply:
                await apply_templates(client)
            return await templates_are_there(client)
        finally:
            await client.close()

    async def test() -> None:
        async with FlakyStore(store.url, tls, "a2V5") as guarded:
            assert await ready(guarded.url)
            other = Authority(tmp_path / "other").certificate
            for changes, named in (
                ({"elasticsearch_api_key": "b3RoZXI="}, "MODELWATCH_ELASTICSEARCH_API_KEY"),
                ({"elasticsearch_api_key": None}, "MODELWATCH_ELASTICSEARCH_API_KEY"),
                ({"elasticsearch_ca_certs": other}, "MODELWATCH_ELASTICSEARCH_CA_CERTS"),
            ):
                for apply in (True, False):
                    with pytest.raises(ConfigurationError, match=named) as error:
                        await ready(guarded.url, apply, **changes)
                    assert "b3RoZXI" not in str(error.value)

    run(test())
