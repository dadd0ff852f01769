"""The forms of answers and errors: both protocols say `{"error": "..."}` and leave the rest to the status."""

from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from runtime.logging import get_logger
from schemas.refusal import Reason, Refusal

log = get_logger(__name__)

STATUS = {Reason.UNKNOWN_MODEL: 404, Reason.OVERSIZE: 413, Reason.UNKNOWN_CONTENT_TYPE: 415} | {
    Reason.UNUSABLE_ANSWER: 422
}
"""Of a refusal, by its reason; any other is 400."""
COME_AGAIN = {"Retry-After": "1"}


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def error_answer(text: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    """An error in the form of both protocols."""
    return json_answer({"error": text}, status, headers)


def refused_answer(refusal: Refusal) -> web.Response:
    """The error that a refusal is."""
    return error_answer(f"{refusal.reason.value}: {refusal.detail}", STATUS.get(refusal.reason, 400))


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What no route answers itself: an address or method that does not exist, and failures of ours."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refused_answer(refusal)
    except web.HTTPError as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return error_answer(f"{request.method} {request.path!r}: {error.reason}", error.status, allowed)
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return error_answer("the request failed inside the worker; the worker's log says why", 500)
