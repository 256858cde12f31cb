"""How made-up nodes reach their controller: by streams on shared connections, or through relays of their own.

Owns connections and the relays' sessions, which speak the real protocols. Decides nothing about frames.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from nodeagent.certificates import AgentCertificate
from nodeagent.clock import Clock
from nodeagent.connection import CHANNEL_OPTIONS, Call
from nodeagent.dialling import DialPlan
from nodeagent.relay_passage import AgentPassage
from nodeagent.relay_session import RelaySession, RelaySessionFull
from nodeagent.relay_upstream import Upstream
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from trust.channels import open_channel

STREAMS_A_CONNECTION = 500
"""Streams on one connection: far below a controller's bound, and few connections."""


class ClosedCall:
    """A stream to where nobody answers."""

    async def read(self) -> object:
        """Nothing comes."""
        return grpc.aio.EOF

    async def write(self, request: nodelink_pb2.ConnectRequest) -> None:
        """Nothing goes."""
        raise asyncio.InvalidStateError("nobody answers")

    async def done_writing(self) -> None:
        """Nothing more goes either."""

    def cancel(self) -> None:
        """It is over already."""


class SharedConnections:
    """Streams of many nodes on few connections."""

    def __init__(self, nodes: int, certificate: AgentCertificate | None = None) -> None:
        self._certificate = certificate
        self._wanted = -(-nodes // STREAMS_A_CONNECTION)
        self._channels: dict[tuple[str, bytes | None], list[grpc.aio.Channel]] = {}
        self._turn = itertools.count()

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[Call]:
        """A stream to an address."""
        tls = self._certificate.to_nodes_service() if self._certificate else None
        # A renewed certificate gets connections of its own; streams on the others go on.
        way = (address, tls.chain_pem if tls else None)
        channels = self._channels.get(way)
        if channels is None:
            channels = [open_channel(address, CHANNEL_OPTIONS, tls) for _ in range(self._wanted)]
            self._channels[way] = channels
        channel = channels[next(self._turn) % len(channels)]
        call: Call = nodelink_pb2_grpc.NodeLinkServiceStub(channel).Connect()
        try:
            yield call
        finally:
            call.cancel()

    async def close(self) -> None:
        """Ends all connections."""
        for channel in itertools.chain.from_iterable(self._channels.values()):
            await channel.close()


class PassageCall:
    """One node's stream through a relay in this process."""

    def __init__(self, upstream: Upstream, session: RelaySession) -> None:
        self._upstream = upstream
        self._session = session
        self._passage = AgentPassage()
        self._frames = self._passage.frames()
        self._index: int | None = None

    async def read(self) -> object:
        """The next frame, or the end."""
        try:
            return await anext(self._frames)
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def write(self, request: nodelink_pb2.ConnectRequest) -> None:
        """Sends a frame; the first is the greeting."""
        if self._passage.is_over:
            raise asyncio.InvalidStateError("the stream is over")
        await self._upstream.room()
        if self._index is None:
            try:
                self._index = self._session.open(self._passage, request)
            except RelaySessionFull as full:
                self._passage.ended()
                raise asyncio.InvalidStateError(str(full)) from full
        else:
            self._session.say(self._index, request)
        self._upstream.something_to_send()

    async def done_writing(self) -> None:
        """The node sends no more."""
        self.cancel()

    def cancel(self) -> None:
        """Leaves the stream."""
        if self._index is not None:
            self._session.close(self._index)
            self._upstream.something_to_send()


class SimulatedRelay:
    """A relay in this process, which carries made-up nodes without sockets of their own."""

    def __init__(
        self,
        relay: str,
        controllers: Sequence[str],
        clock: Clock,
        chance: Callable[[], float],
        certificate: AgentCertificate | None = None,
    ) -> None:
        self._upstream = Upstream(
            relay,
            f"simulated-{relay}",
            DialPlan(controllers, chance),
            clock,
            lambda: None,
            certificate,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the session up until `stop` is set."""
        await self._upstream.run(stop)

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[Call]:
        """A stream through the relay, whatever the address."""
        session = self._upstream.session
        call: Call = ClosedCall() if session is None else PassageCall(self._upstream, session)
        try:
            yield call
        finally:
            call.cancel()
