"""The relay towards its agents: serves their streams as a controller would.

Owns the life of each stream: carried to the controller while it can be reached; else, for a node that the relay knows
and that has something to say, in custody, where reports are kept until the controller can be reached. Must never
acknowledge anything itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from nodeagent.certificates import AgentCertificate
from nodeagent.clock import Clock, duration
from nodeagent.errors import StateUnavailable
from nodeagent.logs import EventLog
from nodeagent.relay_passage import AgentPassage
from nodeagent.relay_session import RelaySession, RelaySessionFull
from nodeagent.relay_store import Kept, RelayStore, Remembered
from nodeagent.relay_upstream import Upstream
from nodeagent.replay import CHUNK_BYTES
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc

GREETING_TIMEOUT_S = 10.0
"""How long an agent may take to greet."""

AWAY_RETRY_S = 1.0
"""When an agent should try again that is not carried now: the relay's own stream is usually back within seconds."""

REFUSED_RETRY_S = 30.0
"""When an agent should try again whose certificate is another's: people must act first."""

KEEP_PAUSE_S = 0.1
"""Between two writes of what was taken meanwhile: many nodes' reports share one."""

MAX_TO_KEEP = 1024
"""Batches taken and not yet written, of 128 KiB and a report at most. Beyond it agents are read no further until they
are."""

MAX_SEQUENCE = 2**62
"""Highest number of a report that is kept: no agent comes near it, and the store's column holds signed numbers."""

BATCH_REPORTS = 64
"""Reports of a batch in custody, by the contract: what an agent sends without an acknowledgement."""

Request = nodelink_pb2.ConnectRequest
Response = nodelink_pb2.ConnectResponse


class RelayServer(nodelink_pb2_grpc.NodeLinkServiceServicer):
    """Serves the agents of one relay."""

    def __init__(
        self,
        relay: str,
        upstream: Upstream,
        store: RelayStore,
        clock: Clock,
        settled: Settled,
        certificate: AgentCertificate | None = None,
    ) -> None:
        self._certificate = certificate
        self._upstream = upstream
        self._store = store
        self._clock = clock
        self._settled = settled
        self._log = EventLog(relay)
        self._welcomes: dict[str, Remembered] = {}
        self._to_keep: list[Kept] = []
        self._written = asyncio.Event()
        self._in_custody: set[asyncio.Event] = set()

    async def Connect(  # noqa: N802 the method's name in the contract
        self, request_iterator: AsyncIterator[Request], context: Any
    ) -> AsyncGenerator[Response, None]:
        """One agent's stream."""
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                first = await anext(request_iterator)
                problem = self._certificate and self._certificate.judge_agent(
                    context, first.hello.node
                )
                if problem:
                    self._log.warning("agent_refused", of=first.hello.node, cause=problem)
                    yield _refused(problem)
                    return
                await self._settled.wait(first.hello.node)
        except (TimeoutError, StopAsyncIteration):
            yield _sent_away("no greeting in time")
            return
        if not first.HasField("hello"):
            yield _sent_away("the first frame must be a greeting")
            return
        session = self._upstream.session
        frames = (
            self._carry(session, first, request_iterator)
            if session is not None
            else self._take_in_custody(first.hello, request_iterator)
        )
        async for frame in frames:
            yield frame

    # Carried.

    async def _carry(
        self, session: RelaySession, hello: Request, requests: AsyncIterator[Request]
    ) -> AsyncGenerator[Response, None]:
        passage = AgentPassage()
        try:
            index = session.open(passage, hello)
        except RelaySessionFull as full:
            yield _sent_away(str(full))
            return
        self._upstream.something_to_send()
        reader = asyncio.create_task(self._forward(session, index, requests))
        try:
            async for frame in passage.frames():
                if frame is passage.welcome:
                    self._welcomes[hello.hello.node] = Remembered(hello.hello.source, frame)
                yield frame
        finally:
            reader.cancel()
            session.close(index)
            self._upstream.something_to_send()

    async def _forward(
        self, session: RelaySession, index: int, requests: AsyncIterator[Request]
    ) -> None:
        async for request in requests:
            await self._upstream.room()
            session.say(index, request)
            self._upstream.something_to_send()
        session.close(index)
        self._upstream.something_to_send()

    # In custody.

    async def _take_in_custody(
        self, hello: nodelink_pb2.AgentHello, requests: AsyncIterator[Request]
    ) -> AsyncGenerator[Response, None]:
        """Lets an agent hand over its reports. It hears nothing more, and leaves the stream after a lease TTL."""
        welcome = self._custodial_welcome(hello)
        if welcome is None:
            yield _sent_away("the relay has lost its controller, and nothing to keep for this node")
            return
        self._log.info("custody_begins", of=hello.node, backlog=hello.backlog_reports)
        yield welcome
        yield _turn(hello, welcome.fence)
        back = asyncio.Event()
        self._in_custody.add(back)
        reader = asyncio.create_task(self._keep(hello, requests))
        returned = asyncio.create_task(back.wait())
        try:
            await asyncio.wait({reader, returned}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._in_custody.discard(back)
            for task in (reader, returned):
                task.cancel()
        yield _sent_away(
            "the controller can be reached again"
            if back.is_set()
            else "the relay keeps no more of this node now",
            retry_after_s=0,
        )

    def _custodial_welcome(self, hello: nodelink_pb2.AgentHello) -> Response | None:
        """The controller's last welcome of this agent, again; None where it would not hold.

        The fence must be the highest that the agent has met: the relay knows of no newer master. What is durable at the
        controller the agent itself says, by the number of its oldest report.
        """
        try:
            known = self._welcomes.get(hello.node) or self._store.welcome_of(hello.node)
        except StateUnavailable:
            return None
        if known is None or self._store.is_full or not 0 < hello.oldest_report < MAX_SEQUENCE:
            return None
        if known.source != hello.source or known.frame.fence != hello.highest_fence:
            return None
        frame = Response()
        frame.CopyFrom(known.frame)
        frame.welcome.reports_acknowledged = hello.oldest_report - 1
        # Behind the lock an agent hands over what waits as it does in its turn: in order, chained and signed.
        frame.welcome.locked = True
        return frame

    async def _keep(self, hello: nodelink_pb2.AgentHello, requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            batch = request.replay_chunk
            is_asked_for = batch.first_sequence == hello.oldest_report and batch.signature
            if not is_asked_for or len(batch.reports) > BATCH_REPORTS:
                continue
            if self._store.is_full:
                return
            while len(self._to_keep) >= MAX_TO_KEEP:
                self._written.clear()
                await self._written.wait()
            self._to_keep.append(Kept(hello.node, hello.source, self._clock.wall_us(), batch))

    def controller_is_back(self) -> None:
        """Has agents in custody greet again, the controller this time."""
        for back in self._in_custody:
            back.set()

    async def run(self) -> None:
        """Writes what was taken, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_PAUSE_S)
            self.write()

    def write(self) -> None:
        """Writes what was taken; when the disk refuses, it is taken again: the agents have it still."""
        kept, self._to_keep = self._to_keep, []
        welcomes, self._welcomes = self._welcomes, {}
        self._written.set()
        try:
            if kept:
                self._store.keep(kept)
            if welcomes:
                self._store.remember(welcomes.items())
        except StateUnavailable as error:
            self._log.error("not_kept", batches=len(kept), cause=error)


class Settled:
    """Which nodes must wait until what the relay keeps of them was offered to the controller: that comes first."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._changed = asyncio.Event()

    def begin(self, nodes: set[str]) -> None:
        """These must wait."""
        self._waiting = nodes
        self._changed.set()

    def done(self, node: str) -> None:
        """This one need not wait any more."""
        self._waiting.discard(node)
        self._changed.set()

    async def wait(self, node: str) -> None:
        """Waits for the turn of a node."""
        while node in self._waiting:
            self._changed.clear()
            await self._changed.wait()


def _turn(hello: nodelink_pb2.AgentHello, fence: nodelink_pb2.Fence) -> Response:
    """Asks an agent for its next reports, in one signed chunk. Nothing is staged: nobody has looked at any of them."""
    turn = nodelink_pb2.ReplayTurn(
        first_sequence=hello.oldest_report,
        staged_sequence=hello.oldest_report - 1,
        next_chunk=1,
        max_reports=BATCH_REPORTS,
        max_bytes=CHUNK_BYTES,
        custody=True,
    )
    return Response(fence=fence, replay_turn=turn)


def _refused(problem: str) -> Response:
    goodbye = nodelink_pb2.LinkGoodbye(reason=nodelink_pb2.LINK_END_IDENTITY, message=problem)
    goodbye.retry_after.CopyFrom(duration(REFUSED_RETRY_S))
    return Response(goodbye=goodbye)


def _sent_away(message: str, retry_after_s: float = AWAY_RETRY_S) -> Response:
    goodbye = nodelink_pb2.LinkGoodbye(reason=nodelink_pb2.LINK_END_UNSPECIFIED, message=message)
    if retry_after_s:
        goodbye.retry_after.CopyFrom(duration(retry_after_s))
    return Response(goodbye=goodbye)
