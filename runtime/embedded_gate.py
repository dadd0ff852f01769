"""A gate before the embedded broker that gives its empty fetches the pause that a real broker's long poll has.

The embedded broker answers a fetch at once even when there is nothing to fetch (measured: 4,700 fetches a second from
one idle consumer, half a core on each side; and a fetch costs it the more the longer the log is), so a few idle
consumers would take the whole machine. The gate passes every byte through unchanged, but holds a fetch response that
is too small to carry data back until something was written, at least `LEAST_HOLD_SECONDS` and at most `HOLD_SECONDS`,
and writes its own port over the broker's where the broker says where it can be reached.

Source of the frame layout: Kafka protocol guide, "Common Request and Response Structure".
"""

import asyncio
import contextlib
import signal
import struct
import sys
from collections import deque

PRODUCE, FETCH, METADATA, FIND_COORDINATOR, END_TXN = 0, 1, 3, 10, 26
WRITING = (PRODUCE, END_TXN)
REWRITTEN = (METADATA, FIND_COORDINATOR)
HOLD_SECONDS = 0.5
LEAST_HOLD_SECONDS = 0.01
EMPTY_BYTES = 2048
"""A fetch response below this size is held back: an empty one has about 40 bytes a partition."""
REQUEST_HEADER = struct.Struct(">ihhi")
RESPONSE_HEADER = struct.Struct(">ii")
HIGH_WATER = 8 << 20


class Frames:
    """Follows the frames in a byte stream: says where each begins and how long it is."""

    def __init__(self, header: struct.Struct) -> None:
        self._header = header
        self._buffer = bytearray()
        self._remaining = 0

    def feed(self, data: bytes) -> "list[tuple[tuple[int, ...] | None, bytes]]":
        """Pieces of the stream in order: the header of the frame that begins there, or None, and the bytes."""
        pieces: list[tuple[tuple[int, ...] | None, bytes]] = []
        if self._remaining:
            pieces.append((None, data[: self._remaining]))
            self._remaining -= len(pieces[0][1])
            data = data[len(pieces[0][1]) :]
        if not data:
            return pieces
        self._buffer += data
        while len(self._buffer) >= self._header.size:
            header = self._header.unpack_from(self._buffer)
            piece = bytes(self._buffer[: header[0] + 4])
            if len(piece) < header[0] + 4 and header[0] < EMPTY_BYTES * 32:
                break  # a short frame is passed on whole
            del self._buffer[: len(piece)]
            self._remaining = header[0] + 4 - len(piece)
            pieces.append((header, piece))
        return pieces


class _Side(asyncio.Protocol):
    """One end of a connection; what it receives goes to `peer`."""

    def __init__(self, gate: "_Connection") -> None:
        self.gate = gate
        self.transport: asyncio.Transport | None = None
        self.peer: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
            transport.set_write_buffer_limits(HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class _ClientSide(_Side):
    """Notes which requests are fetches, and passes all on."""

    def __init__(self, gate: "_Connection") -> None:
        super().__init__(gate)
        self._frames = Frames(REQUEST_HEADER)
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.gate.connect_upstream()

    def data_received(self, data: bytes) -> None:
        for header, piece in self._frames.feed(data):
            if header is not None:
                self.gate.kinds[header[3]] = header[1]
            if self.peer is None:
                self._early.append(piece)
            else:
                self.peer.write(piece)

    def connected(self, peer: _Side) -> None:
        """The broker's side is open: send what came before it was."""
        self.peer = peer
        for piece in self._early:
            peer.write(piece)
        self._early.clear()


class _BrokerSide(_Side):
    """Passes responses on in order, holding small fetch responses back."""

    def __init__(self, gate: "_Connection") -> None:
        super().__init__(gate)
        self._frames = Frames(RESPONSE_HEADER)
        self._held: deque[bytes] = deque()
        self._held_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        for header, piece in self._frames.feed(data):
            kind = self.gate.kinds.pop(header[1], None) if header is not None else None
            if kind in REWRITTEN:
                piece = piece.replace(*self.gate.addresses)
            hold = kind == FETCH and header is not None and header[0] < EMPTY_BYTES
            if kind in WRITING:
                for side in list(HOLDING):
                    side.hurry()
            if hold and not self._held:
                self._hold()
            if hold or self._held:
                self._held.append(piece)
            elif self.peer is not None:
                self.peer.write(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        HOLDING.discard(self)
        super().connection_lost(exc)

    def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        HOLDING.add(self)
        self._held_at = loop.time()
        self._timer = loop.call_at(self._held_at + HOLD_SECONDS, self._release)

    def hurry(self) -> None:
        """Something was written: let the client fetch again as soon as the least hold is over."""
        HOLDING.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._held_at + LEAST_HOLD_SECONDS, self._release)

    def _release(self) -> None:
        HOLDING.discard(self)
        if self.peer is not None:
            self.peer.write(b"".join(self._held))
        self._held.clear()


HOLDING: set[_BrokerSide] = set()
"""Connections whose client waits for something to be written."""


class _Connection:
    """A client's connection and ours to the broker behind it."""

    def __init__(self, host: str, upstream: int, listen: int) -> None:
        self._host, self._upstream = host, upstream
        self.addresses = (host.encode() + struct.pack(">i", upstream), host.encode() + struct.pack(">i", listen))
        self.kinds: dict[int, int] = {}
        self.client = _ClientSide(self)
        self._task: asyncio.Task[None] | None = None

    def connect_upstream(self) -> None:
        """Open the broker's side."""
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        broker = _BrokerSide(self)
        broker.peer = self.client
        try:
            await asyncio.get_running_loop().create_connection(lambda: broker, self._host, self._upstream)
        except OSError:
            if self.client.transport is not None:
                self.client.transport.abort()
            return
        self.client.connected(broker)


async def serve(host: str, listen: int, upstream: int) -> None:
    """Listen until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = await loop.create_server(lambda: _Connection(host, upstream, listen).client, host, listen)
    await stopping.wait()
    server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
