"""`modelwatch pairs` shows as many pairs as it is asked for, whatever else has offsets on the topic."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from runtime import kafka
from runtime.settings import Settings
from schemas.topics import PAIRS
from tests.unit.agents.test_pairs import pair

WRITTEN, TAKEN_BACK = 9, 60


def test_the_latest_pairs_are_shown_though_each_has_a_transaction_and_others_were_taken_back(
    kafka_settings: Settings, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.create_topics(kafka_settings)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_settings.kafka_bootstrap_servers)
    producer = kafka.producer(kafka_settings, unique)
    producer.init_transactions(30)
    for number in range(WRITTEN):
        producer.begin_transaction()
        kafka.produce(producer, PAIRS.name, value=pair(f"{unique}-{number}"), key="id", partition=0)
        producer.commit_transaction(30)
    for number in range(TAKEN_BACK):
        producer.begin_transaction()
        kafka.produce(producer, PAIRS.name, value=pair(f"{unique}-gone-{number}"), key="id", partition=0)
        producer.flush(30)
        producer.abort_transaction(30)
    del producer  # it would report a lost broker until the tests end
    for last in (0, 1, 4):
        done = CliRunner().invoke(app, ["pairs", "--no-follow", "--json", "--last", str(last)], catch_exceptions=False)
        shown = [json.loads(line)["response"]["model"] for line in done.output.splitlines()]
        ours = [model for model in shown if model.startswith(unique)]
        assert ours == [f"{unique}-{number}" for number in range(WRITTEN - last, WRITTEN)]
