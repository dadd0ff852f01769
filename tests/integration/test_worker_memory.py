"""The worker's memory has a bound in bytes, whatever small messages unpack to."""

import io
from pathlib import Path

import numpy as np
import orjson
import psutil
import pybase64
import yaml
from PIL import Image

from runtime.embedded import EmbeddedServers
from runtime.settings import Settings
from tests.integration.traffic import Traffic
from tests.integration.workers import WorkerProcess

SIDE, PICTURES, MESSAGES = 320, 64, 60
BOUND = 96 << 20
"""What the setting lets the worker hold of messages and images; 1.2 GB are sent."""
CLIENT = 64 << 20
"""Pairs that wait in the client for the brokers; and some for the allocator."""


def test_small_messages_that_unpack_to_a_gigabyte_stay_within_the_bound_and_are_all_answered(
    own_servers: EmbeddedServers, own_settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "null"
    folder.mkdir(parents=True)
    spec = {"name": "null", "version": "1", "labels": ["a"], "input": {"shape": [SIDE, SIDE, 3]}}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec | {"weights": {"framework": "null"}}))
    stream = io.BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(stream, "PNG")
    picture = {"b64": pybase64.b64encode_as_string(stream.getvalue())}
    value = orjson.dumps({"instances": [picture] * PICTURES})
    assert len(value) < 200_000
    traffic = Traffic(own_settings)
    environment = {"MODELWATCH_DEFAULT_MODEL": "null", "MODELWATCH_DECODED_BYTES": str(BOUND)}
    worker = WorkerProcess(own_servers.kafka, tmp_path, models=tmp_path / "models", environment=environment).start()
    try:
        program = psutil.Process(worker.wait_ready().pid)
        before = highest = program.memory_info().rss
        for number in range(MESSAGES):
            traffic.send(value, "application/json", f"m{number}")
        traffic.flush()
        done = 0.0
        while done < MESSAGES * PICTURES:
            highest = max(highest, program.memory_info().rss)
            done = worker.metric("modelwatch_requests_total", model="null", outcome="ok", transport="kafka")
        assert done == MESSAGES * PICTURES
        assert highest - before < 3 * (BOUND + CLIENT)
        assert worker.metric("modelwatch_pipeline_restarts_total") == 0
    finally:
        worker.kill()
        traffic.close()
