"""The bearer token and TLS of the worker's HTTP server."""

import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from inference.authorization import bearer_token
from inference.settings import WorkerSettings
from runtime.errors import ConfigurationError
from runtime.health import HttpServer
from runtime.settings import Settings, read_settings
from runtime.tls import client_context, server_context
from tests.servers.certificates import Authority

TOKEN = "a-token-of-the-test-0"
REFUSED: list[int] = []


async def answer(_request: web.Request) -> web.Response:
    return web.Response(text="answered")


def routes(app: web.Application) -> None:
    app.middlewares.append(bearer_token(TOKEN, lambda: REFUSED.append(1)))
    app.router.add_post("/v2/models/m/infer", answer)
    app.router.add_get("/v2/health/ready", answer)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Settings:
    issued = authority.issue("worker")
    return Settings(http_certificate_location=issued.certificate, http_key_location=issued.key)


@pytest.fixture(scope="module")
def port(secured: Settings) -> Iterator[int]:
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), routes, tls=server_context(secured))
    server.health.ready("models", True)
    yield server.start()
    server.stop()


def ask(
    port: int, path: str, authority: Authority, authorization: str | None = None, body: bytes | None = None
) -> tuple[int, str, bytes]:
    headers = {} if authorization is None else {"Authorization": authorization}
    request = urllib.request.Request(f"https://127.0.0.1:{port}{path}", body, headers)
    context = client_context(authority.certificate, "NAME")
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, "", response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["WWW-Authenticate"], error.read()


def test_the_right_token_is_let_in_whatever_the_case_of_its_scheme(port: int, authority: Authority) -> None:
    for scheme in ("Bearer", "bearer"):
        assert ask(port, "/v2/models/m/infer", authority, f"{scheme} {TOKEN}", b"x") == (200, "", b"answered")


@pytest.mark.parametrize(
    ("brought", "challenge"),
    [
        (None, 'Bearer realm="modelwatch"'),
        ("Bearer wrong", 'Bearer realm="modelwatch", error="invalid_token"'),
        (f"Bearer {TOKEN}0", 'Bearer realm="modelwatch", error="invalid_token"'),
        (f"Bearer {TOKEN[:-1]}", 'Bearer realm="modelwatch", error="invalid_token"'),
        ("Bearer", 'Bearer realm="modelwatch", error="invalid_token"'),
        (f"Basic {TOKEN}", 'Bearer realm="modelwatch", error="invalid_token"'),
        ("Bearer caf\udce9", 'Bearer realm="modelwatch", error="invalid_token"'),
    ],
)
def test_any_other_is_answered_401_as_the_rfc_says_in_the_protocols_form(
    port: int, authority: Authority, brought: str | None, challenge: str
) -> None:
    before = len(REFUSED)
    sent = brought.encode(errors="surrogateescape").decode("latin-1") if brought else None
    status, told, body = ask(port, "/v2/models/m/infer", authority, sent, b"x")
    assert (status, told) == (401, challenge)
    error = orjson.loads(body)
    assert set(error) == {"error"} and "Bearer TOKEN" in error["error"] and TOKEN not in error["error"]
    assert len(REFUSED) == before + 1


def test_health_and_metrics_are_open_and_unknown_addresses_are_not(port: int, authority: Authority) -> None:
    for path in ("/health/live", "/health/ready", "/v2/health/ready", "/metrics"):
        assert ask(port, path, authority)[0] == 200
    for path in ("/", "/v2", "/v2/healthy", "/nothing"):
        assert ask(port, path, authority)[0] == 401


def test_a_client_that_trusts_another_authority_or_speaks_plain_http_gets_nothing(
    port: int, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(port, "/health/live", Authority(tmp_path, "another"))
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5)
    old = ssl.create_default_context(cafile=str(authority.certificate))
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        urllib.request.urlopen(f"https://127.0.0.1:{port}/health/live", timeout=5, context=old)


def test_the_probe_of_the_container_sees_what_the_service_says(port: int, secured: Settings) -> None:
    environment = {
        "MODELWATCH_PORT": str(port),
        "MODELWATCH_HTTP_CERTIFICATE_LOCATION": str(secured.http_certificate_location),
    }
    done = [
        subprocess.run(
            [sys.executable, "-m", "runtime.probe", *arguments],
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
        )
        for arguments, variables in ((["live"], environment), ([], {"MODELWATCH_PORT": "1"}), (["well"], environment))
    ]
    assert [one.returncode for one in done] == [0, 1, 2], [one.stderr for one in done]
    assert "does not answer" in done[1].stderr and "live|ready" in done[2].stderr


def test_a_wrong_certificate_setting_is_named(secured: Settings, authority: Authority, tmp_path: Path) -> None:
    other = authority.issue("other")
    with pytest.raises(ConfigurationError, match="MODELWATCH_HTTP_KEY_LOCATION"):
        server_context(Settings(http_certificate_location=other.certificate))
    for certificate, key in ((tmp_path / "none.pem", other.key), (secured.http_certificate_location, other.key)):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            server_context(Settings(http_certificate_location=certificate, http_key_location=key))
    with pytest.raises(ConfigurationError, match="NAME"):
        client_context(other.key, "NAME")
    assert server_context(Settings()) is None and client_context(None, "NAME") is None


def test_a_short_token_is_refused_and_no_token_is_ever_shown() -> None:
    with pytest.raises(ConfigurationError, match="MODELWATCH_HTTP_TOKEN") as error:
        read_settings(WorkerSettings, http_token="hush-hush")
    assert "hush-hush" not in str(error.value)
    assert TOKEN not in repr(WorkerSettings(http_token=TOKEN))
