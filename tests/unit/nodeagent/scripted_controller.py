"""A controller's side of the node link, on a real socket, that does what a test tells it to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc

DEADLINE_S = 10.0


def fence(
    token: int = 1, *, epoch: int = 1, controller: str = "zone-a1", incarnation: int = 1
) -> nodelink_pb2.Fence:
    return nodelink_pb2.Fence(
        placement_epoch=epoch,
        controller=controller,
        incarnation=incarnation,
        fencing_token=token,
    )


@dataclass
class Script:
    """How the controller behaves. Tests change it while it runs."""

    fence: nodelink_pb2.Fence = field(default_factory=fence)
    heartbeat_s: float = 0.2
    lease_ttl_s: float = 5.0
    answers_heartbeats: bool = True
    acknowledges_reports: bool = True
    acknowledges_results: bool = True
    wants_values: bool = False
    reports_acknowledged: int | None = None
    instead_of_welcome: nodelink_pb2.LinkGoodbye | None = None


class ScriptedController(nodelink_pb2_grpc.NodeLinkServiceServicer):
    """Records what agents say and answers by its script."""

    def __init__(self) -> None:
        self.script = Script()
        self.port = 0
        self.hellos: list[nodelink_pb2.AgentHello] = []
        self.heartbeats: list[nodelink_pb2.AgentHeartbeat] = []
        self.reports: list[nodelink_pb2.Report] = []
        self.results: list[nodelink_pb2.CommandResult] = []
        self.chunks: dict[str, bytes] = {}
        self.goodbyes: list[str] = []
        self.open_streams: dict[str, Stream] = {}
        self.ended_streams = 0
        self._durable: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def durable(self, source: str) -> int:
        return self._durable.get(source, 0)

    async def send(self, node: str, **frame: Any) -> None:
        await self.open_streams[node].send(self.script.fence, **frame)

    async def Connect(  # noqa: N802 - the contract's name
        self, requests: AsyncIterator[nodelink_pb2.ConnectRequest], context: Any
    ) -> None:
        stream = Stream(context)
        node = ""
        try:
            async for request in requests:
                if request.WhichOneof("kind") == "hello":
                    node = request.hello.node
                    if not await self._greet(stream, request.hello):
                        return
                else:
                    await self._take(stream, request)
        finally:
            self.ended_streams += 1
            if self.open_streams.get(node) is stream:
                del self.open_streams[node]

    async def _greet(self, stream: Stream, hello: nodelink_pb2.AgentHello) -> bool:
        self.hellos.append(hello)
        stream.source = hello.source
        if self.script.instead_of_welcome is not None:
            await stream.send(self.script.fence, goodbye=self.script.instead_of_welcome)
            return False
        acknowledged = self.script.reports_acknowledged
        welcome = nodelink_pb2.Welcome(
            domain="edge-zone-a1",
            heartbeat_interval=_span(self.script.heartbeat_s),
            lease_ttl=_span(self.script.lease_ttl_s),
            reports_acknowledged=self.durable(hello.source)
            if acknowledged is None
            else acknowledged,
        )
        await stream.send(self.script.fence, welcome=welcome)
        self.open_streams[hello.node] = stream
        return True

    async def _take(self, stream: Stream, request: nodelink_pb2.ConnectRequest) -> None:
        match request.WhichOneof("kind"):
            case "heartbeat":
                self.heartbeats.append(request.heartbeat)
                if self.script.answers_heartbeats:
                    echo = nodelink_pb2.HeartbeatAck(ping_ms=request.heartbeat.ping_ms)
                    await stream.send(self.script.fence, heartbeat_ack=echo)
            case "report":
                self.reports.append(request.report)
                await self._acknowledge(stream, request.report)
            case "result":
                self.results.append(request.result)
                if self.script.acknowledges_results:
                    ack = nodelink_pb2.ResultAck(command_id=request.result.command_id)
                    await stream.send(self.script.fence, result_ack=ack)
            case "chunk":
                digest = f"sha256:{hashlib.sha256(request.chunk.data).hexdigest()}"
                assert request.chunk.digest == digest
                self.chunks[digest] = request.chunk.data
            case "goodbye":
                self.goodbyes.append(request.goodbye.reason)

    async def _acknowledge(self, stream: Stream, report: nodelink_pb2.Report) -> None:
        expected = self.durable(stream.source) + 1
        if self.script.acknowledges_reports and report.sequence == expected:
            self._durable[stream.source] = report.sequence
            ack = nodelink_pb2.ReportAck(sequence=report.sequence)
            await stream.send(self.script.fence, report_ack=ack)
        if self.script.wants_values and report.HasField("inventory"):
            digests = [value.digest for value in report.inventory.large_values]
            want = nodelink_pb2.WantValues(digests=digests)
            await stream.send(self.script.fence, want_values=want)


class Stream:
    """One agent's stream, as the controller writes it."""

    def __init__(self, context: Any) -> None:
        self.source = ""
        self._context = context
        self._lock = asyncio.Lock()

    async def send(self, its_fence: nodelink_pb2.Fence, **frame: Any) -> None:
        async with self._lock:
            response = nodelink_pb2.ConnectResponse(fence=its_fence, **frame)
            await self._context.write(response)


def _span(span_s: float) -> Duration:
    span = Duration()
    span.FromMicroseconds(round(span_s * 1e6))
    return span


@asynccontextmanager
async def serving(controller: ScriptedController) -> AsyncIterator[ScriptedController]:
    """Serve on a free port, or again on the port it had before."""
    server = grpc.aio.server()
    nodelink_pb2_grpc.add_NodeLinkServiceServicer_to_server(controller, server)
    controller.port = server.add_insecure_port(f"127.0.0.1:{controller.port}")
    await server.start()
    try:
        yield controller
    finally:
        await server.stop(grace=None)


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fail after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - any condition, not only events
            await asyncio.sleep(0.01)
