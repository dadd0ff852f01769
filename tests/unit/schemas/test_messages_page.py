"""The page of messages: its tables are complete, and its commands send what the worker takes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
from aiohttp import web
from PIL import Image
from prometheus_client import CollectorRegistry

from runtime.health import HttpServer
from schemas.base import Message
from schemas.markdown import REASON_MEANINGS, message_tables, reason_table, topic_table
from schemas.messages import MESSAGES, ExplanationRequest, Feedback
from schemas.model_spec import ModelSpec
from schemas.payloads import DecodedRequest, decode_request
from schemas.refusal import Reason
from schemas.topics import MAX_REQUEST_BYTES, TOPICS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "messages.md").read_text()
COMMANDS = dict(re.findall(r"```sh name=(\w+)\n(.*?)```", PAGE, re.DOTALL))
BASH = shutil.which("bash") or "/bin/bash"
MODEL = "cifar10-resnet32"
SPEC = ModelSpec.model_validate(
    {"name": MODEL, "version": "1", "input": {"shape": (32, 32, 3)}, "labels": ["a"], "weights": {"framework": "null"}}
)


def test_every_reason_for_refusal_is_explained_and_no_other() -> None:
    assert set(REASON_MEANINGS) == {reason.value for reason in Reason}, "explain it in schemas/markdown.py"
    assert all(f"| `{reason.value}` |" in reason_table() for reason in Reason)
    assert f"larger than {MAX_REQUEST_BYTES >> 20} MiB" in reason_table()


def test_the_tables_name_every_topic_every_message_and_every_field() -> None:
    assert all(f"| `{topic.name}` |" in topic_table() for topic in TOPICS)
    tables = message_tables()
    for model in MESSAGES:
        section = tables.partition(f"### {model.__name__}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}`" in section for field in model.model_fields), model


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", PAGE))
    assert links
    assert links <= anchors


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures of the page's preparation, and a `kcat` that writes its message to files."""
    folder = tmp_path_factory.mktemp("page")
    pixels = np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    recorder = folder / "kcat"
    recorder.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$@" > arguments\n'
        'if [ -f "${@: -1}" ]; then cat "${@: -1}" > value; else cat > value; fi\n'
    )
    recorder.chmod(0o755)
    return folder


def run(shell: Path, commands: str) -> None:
    path = os.pathsep.join([str(shell), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run([BASH, "-ec", commands], cwd=shell, env=environment, check=True, timeout=60)


def sent(shell: Path) -> tuple[bytes, bytes | None, list[tuple[str, bytes | None]], str]:
    """Value, key, headers and topic of the message that `kcat` was asked to produce."""
    given = (shell / "arguments").read_text().splitlines()
    options = list(pairwise(given))
    keys = [value.encode() for option, value in options if option == "-k"]
    found: list[tuple[str, bytes | None]] = []
    for option, value in options:
        if option == "-H":
            name, _, content = value.partition("=")
            found.append((name, content.encode()))
    (topic,) = [value for option, value in options if option == "-t"]
    assert ("-X", "partitioner=murmur2_random") in options
    return (shell / "value").read_bytes(), keys[0] if keys else None, found, topic


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("png", "truck-1"),
        ("jpeg", "truck-2"),
        ("npy", "truck-3"),
        ("json", "truck-4"),
        ("v2", "truck-5"),
        ("v1", "truck-6"),
    ],
)
def test_the_commands_of_the_page_send_what_the_worker_takes(shell: Path, name: str, request_id: str) -> None:
    run(shell, COMMANDS["prepare"] + COMMANDS[name])
    value, key, found, topic = sent(shell)
    decoded = decode_request(value, key, found, 0.0, {MODEL: SPEC}, MODEL)
    assert topic == "inference.requests"
    assert decoded.request_ids == [request_id]
    pixels = np.load(shell / "truck.npy")
    received = decoded.images[0] if name != "jpeg" else pixels  # JPEG loses detail
    np.testing.assert_array_equal(received, pixels)


@pytest.mark.parametrize(("name", "model"), [("feedback", Feedback), ("question", ExplanationRequest)])
def test_feedback_and_questions_of_the_page_parse(shell: Path, name: str, model: type[Message]) -> None:
    run(shell, COMMANDS[name])
    value, key, _, topic = sent(shell)
    message = model.model_validate_json(value)
    assert key is not None
    assert key.decode() == message.request_id  # type: ignore[attr-defined]
    assert next(one for one in TOPICS if one.name == topic).message is model


@pytest.fixture
def asked() -> Iterator[tuple[int, list[DecodedRequest]]]:
    """Port of a server that decodes what it is asked at the worker's address, and what it has decoded."""
    decoded: list[DecodedRequest] = []

    async def infer(request: web.Request) -> web.Response:
        found: list[tuple[str, bytes | None]] = [("content-type", request.headers["content-type"].encode())]
        model = request.match_info["model"]
        decoded.append(decode_request(await request.read(), None, found, 0.0, {MODEL: SPEC}, model))
        return web.Response(body=orjson.dumps({"id": decoded[-1].request_ids[0]}))

    server = HttpServer(
        "127.0.0.1", 0, CollectorRegistry(), lambda app: app.router.add_post("/v2/models/{model}/infer", infer) and None
    )
    yield server.start(), decoded
    server.stop()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_http_command_of_the_page_sends_what_the_worker_takes(
    shell: Path, asked: tuple[int, list[DecodedRequest]]
) -> None:
    port, decoded = asked
    assert "localhost:8080" in COMMANDS["curl"]
    run(shell, COMMANDS["prepare"] + COMMANDS["curl"].replace("localhost:8080", f"127.0.0.1:{port}"))
    np.testing.assert_array_equal(decoded[0].images[0], np.load(shell / "truck.npy"))
