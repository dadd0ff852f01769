"""A TCP proxy that lets the network between two processes fail."""

import asyncio
import contextlib
import socket
import struct
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
            await asyncio.gather(self._requests(reader, far_writer), self._pump(far_reader, writer))
        finally:
            for one in (writer, far_writer):
                self._connected.discard(one)
                one.close()

    async def _requests(self, reader: StreamReader, writer: StreamWriter) -> None:
        """From the client to the server."""
        await self._pump(reader, writer)

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()
        writer.close()  # what was written is sent first; the other direction then ends, too


class HoldingProxy(TcpProxy):
    """Before a broker: keeps one request back as a network might, lets the client try again, and delivers it later."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._wanted: int | None = None
        self.held: bytes | None = None

    def hold(self, api_key: int) -> None:
        """Keep the next request of this kind back, and break the connection that it came by."""
        self.held, self._wanted = None, api_key

    def deliver(self) -> int:
        """Send the request that was kept back, and return the broker's error code.

        Of requests whose response begins with its throttle time and its error, without tagged fields in the header.
        """
        with socket.create_connection((HOST, self._target), 10) as broker:
            broker.sendall(struct.pack(">i", len(self.held or b"")) + (self.held or b""))
            answer = broker.recv(CHUNK)
        code: int = struct.unpack_from(">h", answer, 12)[0]
        return code

    async def _requests(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                size = await reader.readexactly(4)
                request = await reader.readexactly(struct.unpack(">i", size)[0])
                if struct.unpack_from(">h", request)[0] == self._wanted:
                    self.held, self._wanted = request, None
                    self._abort()
                    return
                await self._open.wait()
                writer.write(size + request)
                await writer.drain()
        writer.close()
