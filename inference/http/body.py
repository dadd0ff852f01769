"""Reads the body of an HTTP request, bounded: in bytes as sent and unpacked, over all callers, and in time."""

from types import TracebackType

import aiohttp
from aiohttp import web

from inference.budget import Budget
from schemas.refusal import Reason, Refusal
from schemas.topics import MAX_REQUEST_BYTES

ENCODINGS = ("identity", "gzip", "deflate")
"""What `content-encoding` may say; aiohttp unpacks them as they come, a piece at a time."""


class Busy(Exception):  # noqa: N818 - an answer to the caller, not a failure of ours
    """More is asked at once than fits into memory."""


class Held:
    """Bytes of the budget that one request holds until it is answered; a context.

    Attributes:
        whole: whether its body has arrived.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0
        self.whole = False

    def set(self, nbytes: int) -> None:
        """Hold exactly `nbytes` from now on.

        Raises:
            Busy: the budget does not have them; what was held is kept.
        """
        more = nbytes - self._bytes
        if more > 0 and not self._budget.acquire(more, 0):
            raise Busy("too much is asked at once: the requests in hand fill the memory set aside for them")
        if more < 0:
            self._budget.release(-more)
        self._bytes = nbytes

    def at_least(self, nbytes: int) -> None:
        """Hold `nbytes` or what is held already; raises as `set`."""
        if nbytes > self._bytes:
            self.set(nbytes)

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set(0)


async def read_body(request: web.Request, held: Held) -> bytes:
    """The body, unpacked; `held` has its bytes as they are declared, and grows where that is not enough.

    Were they taken only as they come, many that arrive together would use up the budget in equal parts, and nobody
    would be answered.

    Raises:
        Refusal: OVERSIZE; UNKNOWN_CONTENT_TYPE for a content encoding that is not read; INVALID_FIELD for a body that
            breaks off or is not in its encoding.
        Busy: the budget is used up.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ENCODINGS:
        raise Refusal(
            Reason.UNKNOWN_CONTENT_TYPE, f"content-encoding {encoding[:40]!r} is not read; send {', '.join(ENCODINGS)}"
        )
    declared = request.content_length or 0
    if declared > MAX_REQUEST_BYTES:
        raise _too_large()
    held.at_least(declared)
    try:
        return await _read(request, held)
    except (web.RequestPayloadError, aiohttp.ClientError, ConnectionError) as error:
        raise Refusal(Reason.INVALID_FIELD, f"the body breaks off, or is not {encoding}: {str(error)[:200]}") from error


async def _read(request: web.Request, held: Held) -> bytes:
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_REQUEST_BYTES:
            raise _too_large()
        held.at_least(size)
        pieces.append(piece)
    held.whole = True
    return b"".join(pieces)


def _too_large() -> Refusal:
    return Refusal(
        Reason.OVERSIZE, f"a request may have at most {MAX_REQUEST_BYTES} bytes, unpacked; send its images in several"
    )
