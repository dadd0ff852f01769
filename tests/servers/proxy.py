"""A TCP proxy that lets the network between two processes fail."""

import asyncio
import contextlib
import threading
from asyncio import StreamReader, StreamWriter

from runtime.embedded import free_ports

HOST = "127.0.0.1"
CHUNK = 1 << 16


class TcpProxy:
    """Passes bytes on to a port of this machine, from a thread of its own, except for the faults set by its methods.

    Attributes:
        port: where to connect.
    """

    def __init__(self, target: int) -> None:
        self.port = free_ports(1, HOST)[0]
        self._target = target
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connected: set[StreamWriter] = set()
        self._refusing = False

    def start(self) -> "TcpProxy":
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def stop(self) -> None:
        """Close everything."""
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """As a pulled cable: what is sent waits, new connections are taken and hear nothing, until `heal`."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def delay(self, seconds: float) -> None:
        """Hold each piece of data back for so long."""
        self._delay = seconds

    def refuse(self) -> None:
        """As a process that is away: reset what is open, and what is opened until `heal`."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Abort all connections that are open now."""
        self._loop.call_soon_threadsafe(self._abort)

    def heal(self) -> None:
        """The end of every fault."""
        self._delay, self._refusing = 0.0, False
        self._loop.call_soon_threadsafe(self._open.set)

    async def _listen(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        await asyncio.start_server(self._serve, HOST, self.port)

    def _abort(self) -> None:
        for writer in list(self._connected):
            writer.transport.abort()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self._connected.add(writer)
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            self._connected.discard(writer)
            writer.transport.abort()
            return
        self._connected.add(far_writer)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            for one in (writer, far_writer):
                self._connected.discard(one)
                one.close()

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()
        writer.close()  # what was written is sent first; the other direction then ends, too
