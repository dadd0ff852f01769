"""Who may ask the model by HTTP: callers that bring the bearer token, where one is set.

Source: RFC 6750, "The OAuth 2.0 Authorization Framework: Bearer Token Usage", sections 2.1 and 3.
"""

import hmac
from collections.abc import Callable

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

OPEN = ("/health/", "/v2/health/", "/metrics")
"""What orchestrators and scrapers ask without a token; it says nothing of any request."""
REALM = 'Bearer realm="modelwatch"'


def bearer_token(token: str, on_refused: Callable[[], None]) -> Middleware:
    """Answer 401 to whoever does not bring `token`, before the body is read.

    Args:
        on_refused: called for each such request, to count it.
    """
    expected = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(OPEN):
            return await handler(request)
        scheme, _, brought = request.headers.get("Authorization", "").partition(" ")
        # Compared in constant time, so that the time of an answer says nothing of the token.
        if scheme.lower() == "bearer" and hmac.compare_digest(_bytes(brought.strip()), expected):
            return await handler(request)
        on_refused()
        return _unauthorized(bool(scheme))

    return check


def _bytes(text: str) -> bytes:
    """What the caller sent: aiohttp puts surrogates for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape")


def _unauthorized(brought_some: bool) -> web.Response:
    challenge = f'{REALM}, error="invalid_token"' if brought_some else REALM
    what = "this bearer token is not the worker's" if brought_some else "this worker wants a bearer token"
    body = orjson.dumps({"error": f"{what}; send the header `Authorization: Bearer TOKEN`"})
    headers = {"WWW-Authenticate": challenge}
    return web.Response(body=body, status=401, headers=headers, content_type="application/json")
