"""A TCP relay that fails on purpose: for links to etcd, between controllers, or of agents.

Owns the connections that pass through it. Knows nothing of what they carry: faults are those of a
network, bytes lost, held or refused, never bytes changed.

    async with TcpProxy("127.0.0.1", port) as link:
        dial(link.endpoint)
        link.swallow_replies()   # requests arrive, their answers are lost
        link.heal()              # connections that lost bytes are reset, new ones work
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Iterator
from typing import Self

#: Bytes carried at once: a frame of a sync session, or a handful of small calls.
CHUNK_BYTES = 64 * 1024

#: Pieces a second that a slow link carries.
SLOW_PIECES_PER_S = 20


class ProxyNotOpen(Exception):
    """The proxy does not listen; the caller must enter its context first."""


class Fault(enum.Enum):
    """What is wrong with the link."""

    NONE = enum.auto()
    CUT = enum.auto()
    STALLED = enum.auto()
    REPLIES_LOST = enum.auto()
    REQUESTS_LOST = enum.auto()


class _Connection:
    """Two sockets and the two tasks that carry bytes between them."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.lost_bytes = False

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class TcpProxy:
    """Listens on a free loopback port and relays to one target."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._fault = Fault.NONE
        self._bytes_per_s: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[_Connection] = set()
        #: Bytes to the target after which it stalls; None: any number.
        self._bytes_left: int | None = None
        self._serving: set[asyncio.Task[None]] = set()
        #: Bytes lost so far; it grows when a loss has happened.
        self.swallowed_bytes = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        server = self._listening()
        server.close()
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await server.wait_closed()

    @property
    def port(self) -> int:
        """Port it listens on. Raises `ProxyNotOpen`."""
        port: int = self._listening().sockets[0].getsockname()[1]
        return port

    @property
    def endpoint(self) -> str:
        """Address to dial instead of the target's, HOST:PORT. Raises `ProxyNotOpen`."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset all connections and every new one."""
        self._set(Fault.CUT)
        for connection in self._connections:
            connection.reset()

    def reset_connections(self) -> None:
        """Reset all connections; new ones work."""
        for connection in self._connections:
            connection.reset()

    def slow(self, bytes_per_s: int) -> None:
        """Carry no more than so much each way, over each connection, from the next bytes on."""
        self._bytes_per_s = bytes_per_s

    def stall(self) -> None:
        """Hold all bytes both ways, without losing any."""
        self._set(Fault.STALLED)

    def stall_after(self, request_bytes: int) -> None:
        """Work, until so many bytes and at most a chunk more went to the target; then hold all."""
        self.heal()
        self._bytes_left = request_bytes

    def swallow_replies(self) -> None:
        """Lose what the target sends; what is sent to it arrives."""
        self._set(Fault.REPLIES_LOST)

    def swallow_requests(self) -> None:
        """Lose what is sent to the target."""
        self._set(Fault.REQUESTS_LOST)

    def heal(self) -> None:
        """Work again, at full speed. A connection that lost bytes is reset, for its stream is broken."""
        self._bytes_per_s = None
        for connection in self._connections:
            if connection.lost_bytes:
                connection.reset()
        self._set(Fault.NONE)

    def _piece(self) -> int:
        if self._bytes_per_s is None:
            return CHUNK_BYTES
        return max(1, min(CHUNK_BYTES, self._bytes_per_s // SLOW_PIECES_PER_S))

    def _listening(self) -> asyncio.Server:
        if self._server is None:
            raise ProxyNotOpen("the proxy does not listen yet; use it as an async context manager")
        return self._server

    def _set(self, fault: Fault) -> None:
        self._fault = fault
        self._bytes_left = None
        if fault is Fault.STALLED:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        with self._tracked() as connection:
            connection.writers.append(writer)
            if self._fault is Fault.CUT:
                return
            try:
                target_reader, target_writer = await asyncio.open_connection(*self._target)
            except OSError:
                return
            connection.writers.append(target_writer)
            await asyncio.gather(
                self._carry(connection, reader, target_writer, Fault.REQUESTS_LOST),
                self._carry(connection, target_reader, writer, Fault.REPLIES_LOST),
            )

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[_Connection]:
        connection = _Connection()
        self._connections.add(connection)
        try:
            yield connection
        finally:
            self._connections.discard(connection)
            connection.reset()

    async def _carry(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        loss: Fault,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(self._piece()):
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(chunk) / self._bytes_per_s)
                await self._flowing.wait()
                if self._fault is loss:
                    connection.lost_bytes = True
                    self.swallowed_bytes += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
                if loss is Fault.REQUESTS_LOST and self._bytes_left is not None:
                    self._bytes_left -= len(chunk)
                    if self._bytes_left <= 0:
                        self.stall()
        # One side has ended, and so the other: half-open connections are no fault we play.
        connection.reset()
