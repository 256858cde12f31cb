"""A made-up node's stream, as its temper has it: late, cut off, or saying what it should not. Counts what passes.

Owns what is done to frames on their way; the agent behind it and the controller know nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from nodeagent.connection import Call, Dialler
from nodeagent.simulated_calls import ClosedCall
from nodeagent.simulated_temper import Misbehaviour, Temper
from souverix.nodelink.v1 import nodelink_pb2

LATE_S = 4.0
"""By how much a late node holds back a frame: nearly a heartbeat."""

MISDEED_EVERY = 5
"""Frames between two misdeeds of a node: enough in between for it to be a node at all."""


@dataclass(slots=True)
class Tally:
    """What a fleet has done so far."""

    linked: int = 0
    cut_off: int = 0
    heartbeats: int = 0
    reports: int = 0
    acknowledged: int = 0
    commands: int = 0
    upgrades: int = 0
    misdeeds: int = 0
    sent_away: int = 0


class TemperedCall:
    """A stream, as one node's temper has it. `age_s` tells how long the fleet has been running."""

    def __init__(
        self, inner: Call, temper: Temper, tally: Tally, age_s: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._temper = temper
        self._tally = tally
        self._age_s = age_s
        self._linked = False
        self._sent = 0
        self._held: nodelink_pb2.ConnectRequest | None = None

    async def read(self) -> Any:
        """The next frame, late; nothing more once the node is cut off."""
        cut_s = self._temper.next_cut_s(self._age_s())
        try:
            async with asyncio.timeout(None if cut_s is None else cut_s - self._age_s()):
                frame = await self._inner.read()
        except TimeoutError:
            self.cancel()
            return grpc.aio.EOF
        if frame is not grpc.aio.EOF:
            if self._temper.late_s:
                await asyncio.sleep(self._temper.late_s)
            self._note(frame)
        return frame

    def _note(self, frame: nodelink_pb2.ConnectResponse) -> None:
        match frame.WhichOneof("kind"):
            case "welcome":
                self._linked = True
                self._tally.linked += 1
            case "report_ack":
                self._tally.acknowledged += 1
            case "command":
                self._tally.commands += 1
            case "goodbye":
                self._tally.sent_away += 1

    async def write(self, request: nodelink_pb2.ConnectRequest) -> None:
        """Sends a frame, and what the node does amiss beside it."""
        kind = _kind_of(request)
        self._tally.heartbeats += kind == "heartbeat"
        self._tally.reports += kind == "report"
        self._tally.reports += len(request.replay_chunk.reports)
        self._sent += 1
        is_turn = self._linked and self._sent % MISDEED_EVERY == 0
        misbehaviour = self._temper.misbehaviour
        if misbehaviour is Misbehaviour.NONE:
            await self._inner.write(request)
        elif misbehaviour is Misbehaviour.LATE:
            self._tally.misdeeds += is_turn
            await asyncio.sleep(LATE_S if is_turn else 0)
            await self._inner.write(request)
        elif misbehaviour is Misbehaviour.DUPLICATE:
            await self._inner.write(request)
            if kind == "report" and self._linked:
                self._tally.misdeeds += 1
                await self._inner.write(request)
        elif misbehaviour is Misbehaviour.OUT_OF_ORDER:
            await self._write_out_of_order(request, kind)
        else:
            await self._inner.write(request)
            if is_turn:
                self._tally.misdeeds += 1
                await self._inner.write(_garbage(self._sent))

    async def _write_out_of_order(
        self, request: nodelink_pb2.ConnectRequest, kind: str | None
    ) -> None:
        held, self._held = self._held, None
        if kind == "report" and held is None:
            self._held = nodelink_pb2.ConnectRequest()
            self._held.CopyFrom(request)
            return
        await self._inner.write(request)
        if held is not None:
            self._tally.misdeeds += kind == "report"
            await self._inner.write(held)

    async def done_writing(self) -> None:
        """The node sends no more."""
        await self._inner.done_writing()

    def cancel(self) -> None:
        """Leaves the stream."""
        if self._linked:
            self._linked = False
            self._tally.linked -= 1
        self._inner.cancel()


def tempered(dialler: Dialler, temper: Temper, tally: Tally, age_s: Callable[[], float]) -> Dialler:
    """A dialler whose streams are as the temper has them; while the node is cut off, nobody answers."""

    @asynccontextmanager
    async def dial(address: str) -> AsyncIterator[Call]:
        if temper.cut_until_s(age_s()) is not None:
            yield ClosedCall()
            return
        async with dialler(address) as inner:
            call = TemperedCall(inner, temper, tally, age_s)
            try:
                yield call
            finally:
                call.cancel()

    return dial


def _kind_of(request: nodelink_pb2.ConnectRequest) -> str | None:
    """What a frame says, also of one that is signed."""
    if request.HasField("signed"):
        request = nodelink_pb2.ConnectRequest.FromString(request.signed.frame)
    kind: str | None = request.WhichOneof("kind")
    return kind


def _garbage(number: int) -> nodelink_pb2.ConnectRequest:
    """What no frame may say: nothing, a report without number or content, a second greeting."""
    match number // MISDEED_EVERY % 3:
        case 0:
            return nodelink_pb2.ConnectRequest()
        case 1:
            return nodelink_pb2.ConnectRequest(report=nodelink_pb2.Report())
        case _:
            return nodelink_pb2.ConnectRequest(hello=nodelink_pb2.AgentHello(node="?"))
