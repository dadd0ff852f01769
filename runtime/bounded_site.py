"""Where the HTTP server listens: it takes so many connections and no more, so that other clients keep their files."""

import asyncio
import logging
import ssl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

HANDSHAKE_SECONDS = 10.0
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 44\r\n\r\n{"error": "too many connections; ask again"}'
)


class BoundedSite(web.BaseSite):
    """Listens, and refuses connections beyond a number; aiohttp's own sites take any."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None, max_connections: int
    ) -> None:
        super().__init__(runner, ssl_context=tls)
        self._address, self._most = (host, port), max_connections

    @property
    def name(self) -> str:
        """For aiohttp's messages."""
        return f"{self._address}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        limit = None if self._ssl_context is None else HANDSHAKE_SECONDS
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, *self._address, ssl=self._ssl_context, backlog=self._backlog, ssl_handshake_timeout=limit
        )

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._most:
            return _Refusing()
        return server()


class _Refusing(asyncio.Protocol):
    """Tells one caller to come again, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(TOO_MANY)
            transport.close()


def one_line(record: logging.LogRecord) -> bool:
    """A filter of aiohttp's log: what a stranger sends that is no HTTP is worth a line, and no traceback of ours."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
        record.levelno = min(record.levelno, logging.WARNING)
        record.levelname = logging.getLevelName(record.levelno)
        record.msg, record.args = "refused what is no HTTP: %s", (" ".join(str(error).split())[:200],)
        record.exc_info = record.exc_text = None
    return True
