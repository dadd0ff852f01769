"""A real HTTP server in front of a real record store: it writes down each bulk request, and fails when told to."""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import orjson
from aiohttp import ClientSession, web

PRODUCT = {"X-Elastic-Product": "Elasticsearch"}
DROP = 0
"""Instead of a status: close the connection without an answer."""


@dataclass(frozen=True)
class Bulk:
    """One bulk request as it arrived."""

    ids: list[str]
    size: int


class FlakyStore:
    """Passes requests on to `target`, except for the failures set in its attributes.

    Args:
        tls: with it, it speaks HTTPS only.
        api_key: with it, whoever brings another or none is refused.

    Attributes:
        bulks: the bulk requests so far.
        failures: answers to the next bulk requests as a whole: status, and body; used up from the left.
        refuse_once: by document id, status and error type of the answer to the next attempt to write it.
        poison: ids that make the store refuse any bulk request with them as a whole, with status 400.
        delay: seconds before each answer.
        delay_each: further seconds for each document. Nothing is stored of a caller that hung up meanwhile.
        most_at_once: largest number of bulk requests that were under way together.
    """

    def __init__(self, target: str, tls: ssl.SSLContext | None = None, api_key: str | None = None) -> None:
        self._tls, self._api_key = tls, api_key
        self.bulks: list[Bulk] = []
        self.failures: deque[tuple[int, dict[str, Any]]] = deque()
        self.refuse_once: dict[str, tuple[int, str]] = {}
        self.poison: set[str] = set()
        self.delay = 0.0
        self.delay_each = 0.0
        self.most_at_once = 0
        self._at_once = 0
        self._target = target

    async def __aenter__(self) -> "FlakyStore":
        self._session = ClientSession()
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self._api_key and request.headers.get("Authorization") != f"ApiKey {self._api_key}":
            return _fail(request, 401, {"error": {"type": "security_exception"}, "status": 401})
        if not request.path.endswith("/_bulk"):
            return await self._pass_on(request, body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay + self.delay_each * body.count(b"\n") / 2)
            if request.transport is None:
                return web.Response()
            return await self._bulk(request, body)
        finally:
            self._at_once -= 1

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        url = self._target + request.path_qs
        # Elasticsearch wants the version that the client speaks in both, or in neither.
        headers = {name: request.headers.get(name, "application/json") for name in ("Content-Type", "Accept")}
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            content = {"Content-Type": answer.headers["Content-Type"]}
            return web.Response(status=answer.status, body=await answer.read(), headers=PRODUCT | content)

    async def _bulk(self, request: web.Request, body: bytes) -> web.StreamResponse:
        lines = body.splitlines(keepends=True)
        actions = [(action, document) for action, document in zip(lines[::2], lines[1::2], strict=True)]
        targets = [next(iter(orjson.loads(action).items())) for action, _ in actions]
        ids = [target["_id"] for _, target in targets]
        self.bulks.append(Bulk(ids, len(body)))
        if self.failures:
            return _fail(request, *self.failures.popleft())
        if self.poison & set(ids):
            return _fail(request, 400, {"error": {"type": "action_request_validation_exception"}, "status": 400})
        refused = {one: self.refuse_once.pop(one) for one in dict.fromkeys(ids) if one in self.refuse_once}
        items: list[Any] = [None] * len(actions)
        for position, (kind, target) in enumerate(targets):
            if target["_id"] in refused:
                status, error = refused.pop(target["_id"])
                items[position] = {kind: target | {"status": status, "error": {"type": error, "reason": "told to"}}}
        passed = [position for position, item in enumerate(items) if item is None]
        if passed:
            rest = b"".join(actions[position][0] + actions[position][1] for position in passed)
            answer = await self._pass_on(request, rest)
            if answer.status != 200:
                return answer
            for position, item in zip(passed, orjson.loads(cast(bytes, answer.body))["items"], strict=True):
                items[position] = item
        return web.Response(
            body=orjson.dumps({"errors": True, "items": items}), headers=PRODUCT, content_type="application/json"
        )


def _fail(request: web.Request, status: int, body: dict[str, Any]) -> web.StreamResponse:
    if status == DROP:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    return web.Response(status=status, body=orjson.dumps(body), headers=PRODUCT, content_type="application/json")
