"""Drives one node's link over gRPC.

Owns channel, stream and tasks. Decides nothing: the link says what to do, the correspondent does it. One stream
at a time; a stream that is left is cancelled before the next is dialled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from nodeagent.certificates import AgentCertificate
from nodeagent.clock import Clock
from nodeagent.errors import NumberingBegunAnew, ReplayRefused, StateUnavailable
from nodeagent.link import CLOSING_TIMEOUT_S, Link, LinkState
from nodeagent.link_effects import Dial, Effect, Send, SendGoodbye, Trigger
from nodeagent.waiting import first_set
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from trust.channels import open_channel

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest frame either way: a chunk of 256 KiB and a configuration of 256 KiB fit with room to spare."""

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # a dial is a new connection: the back-off is the link's
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class Correspondent(Protocol):
    """Who is behind the link: carries out effects and fetches what is to be sent."""

    def apply(self, effect: Effect) -> None:
        """Carry out one effect. Raises StateUnavailable, NumberingBegunAnew, ReplayRefused."""
        ...

    def fetch(self, send: Send) -> nodelink_pb2.ConnectRequest | None:
        """The frame for a permission, or None when there is none. Raises StateUnavailable."""
        ...

    def sealed(self, frame: nodelink_pb2.ConnectRequest) -> nodelink_pb2.ConnectRequest:
        """The frame as it is sent: signed, where that is asked for."""
        ...


class Call(Protocol):
    """A stream to a controller, as gRPC's client has it."""

    async def read(self) -> Any:
        """The next frame, or grpc.aio.EOF. Raises grpc.aio.AioRpcError when the stream broke."""
        ...

    async def write(self, request: nodelink_pb2.ConnectRequest) -> None:
        """Send a frame. Raises grpc.aio.AioRpcError, asyncio.InvalidStateError when the stream is over."""
        ...

    async def done_writing(self) -> None:
        """Nothing more is sent."""
        ...

    def cancel(self) -> Any:
        """Leave the stream."""
        ...


Dialler = Callable[[str], AbstractAsyncContextManager[Call]]
"""Opens a stream to an address."""


@asynccontextmanager
async def dial(address: str) -> AsyncIterator[Call]:
    """A stream on a connection of its own, which ends with it; in clear, so within this machine only."""
    async with open_channel(address, CHANNEL_OPTIONS, None) as channel:
        call: Call = nodelink_pb2_grpc.NodeLinkServiceStub(channel).Connect()
        yield call


def secured_dialler(certificate: AgentCertificate) -> Dialler:
    """Dials by mutual TLS. A stream is left when a renewed certificate has been taken on another connection."""

    @asynccontextmanager
    async def dial_secured(address: str) -> AsyncIterator[Call]:
        tls = certificate.to_nodes_service()
        async with open_channel(address, CHANNEL_OPTIONS, tls) as channel:
            call: Call = nodelink_pb2_grpc.NodeLinkServiceStub(channel).Connect()

            async def change_over() -> None:
                await certificate.renewed(tls, address, CHANNEL_OPTIONS)
                call.cancel()

            changing = asyncio.create_task(change_over())
            try:
                yield call
            finally:
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)

    return dial_secured


class Connection:
    """One node's connection to its controller, kept up until told to stop."""

    def __init__(
        self, link: Link, correspondent: Correspondent, clock: Clock, dialler: Dialler = dial
    ) -> None:
        self._link = link
        self._correspondent = correspondent
        self._now_s = clock.monotonic_s
        self._dial = dialler
        self._to_send = asyncio.Event()
        self._moved = asyncio.Event()

    def something_to_send(self) -> None:
        """A report or a result is there to be sent."""
        self._to_send.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Dial, and dial again, until `stop` is set; then take leave."""
        stopper = asyncio.create_task(self._stop_when(stop))
        try:
            while self._link.state is not LinkState.STOPPED:
                for effect in self._link.tick(self._now_s()):
                    self._correspondent.apply(effect)
                    if isinstance(effect, Dial):
                        await self._stream(effect.address)
                await self._until_moved()
        finally:
            stopper.cancel()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._link.stop(self._now_s())
        self._to_send.set()
        self._moved.set()

    async def _stream(self, address: str) -> None:
        async with self._dial(address) as call:
            reader = asyncio.create_task(self._read(call))
            writer = asyncio.create_task(self._write(call))
            watcher = asyncio.create_task(self._watch())
            try:
                await asyncio.wait({reader, watcher}, return_when=asyncio.FIRST_COMPLETED)
                if self._link.state is LinkState.STOPPED:
                    await asyncio.wait({reader}, timeout=CLOSING_TIMEOUT_S)
            finally:
                call.cancel()
                for task in (reader, writer, watcher):
                    task.cancel()
                ends = await asyncio.gather(reader, writer, watcher, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _read(self, call: Call) -> None:
        """Hand frames to the link until the stream ends or is left."""
        detail = "the controller closed the stream"
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                self._carry_out(self._link.receive(frame, self._now_s()))
                self._to_send.set()
                self._moved.set()
                if self._link.state is LinkState.DISCONNECTED:
                    return
        except grpc.aio.AioRpcError as error:
            detail = f"{error.code().name} {error.details()}"
        self._leave(Trigger.STREAM_ENDED, detail)

    async def _write(self, call: Call) -> None:
        """Send what the link permits until it is left. How a stream ended is for the reader to tell."""
        try:
            while self._link.state not in (LinkState.DISCONNECTED, LinkState.STOPPED):
                self._to_send.clear()
                frame = self._next_frame()
                if frame is None:
                    await self._until(self._to_send, self._link.heartbeat_due_s())
                    continue
                await call.write(self._correspondent.sealed(frame))
                if frame.HasField("goodbye"):
                    self._link.sent(SendGoodbye(), self._now_s())
                    await call.done_writing()
                    self._moved.set()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def _watch(self) -> None:
        """Let time pass in the link, so that silence is noticed; return when the stream is over for us."""
        while self._link.state not in (LinkState.DISCONNECTED, LinkState.STOPPED):
            self._carry_out(self._link.tick(self._now_s()))
            await self._until_moved()

    def _next_frame(self) -> nodelink_pb2.ConnectRequest | None:
        """The most urgent frame there is. Noted as sent before it leaves, for its answer may come at once."""
        now_s = self._now_s()
        try:
            for send in self._link.willing(now_s):
                frame = self._correspondent.fetch(send)
                if frame is None:
                    self._link.not_there(send)
                    continue
                if not isinstance(send, SendGoodbye):
                    self._link.sent(
                        send,
                        now_s,
                        report=_last_report(frame),
                        is_end=bool(frame.replay_chunk.signature),
                    )
                return frame
        except StateUnavailable as error:
            self._leave(Trigger.OWN_FAILURE, str(error))
        return None

    def _carry_out(self, effects: list[Effect]) -> None:
        try:
            for effect in effects:
                self._correspondent.apply(effect)
        except StateUnavailable as error:
            self._leave(Trigger.OWN_FAILURE, str(error))
        except (NumberingBegunAnew, ReplayRefused) as error:
            self._leave(Trigger.PROTOCOL_BROKEN, str(error))

    def _leave(self, trigger: Trigger, detail: str) -> None:
        for effect in self._link.leave(trigger, detail, self._now_s()):
            self._correspondent.apply(effect)
        self._moved.set()

    async def _until_moved(self) -> None:
        """Wait until the link may have something to do: its deadline, or news."""
        self._moved.clear()
        if self._link.state is not LinkState.STOPPED:
            await self._until(self._moved, self._link.deadline_s())

    async def _until(self, event: asyncio.Event, deadline_s: float) -> None:
        left_s = max(deadline_s - self._now_s(), 0.0)
        await first_set(event, timeout_s=None if left_s == float("inf") else left_s)


def _last_report(frame: nodelink_pb2.ConnectRequest) -> int:
    """Number of the last report in a frame; 0 where there is none."""
    if frame.HasField("replay_chunk") and frame.replay_chunk.reports:
        return int(frame.replay_chunk.first_sequence + len(frame.replay_chunk.reports) - 1)
    return int(frame.report.sequence)
