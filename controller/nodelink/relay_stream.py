"""One relay's stream. Owns the indices, the frames that wait to go out, and how the stream ends; what a frame of a node
means is the node link's to say.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from controller.nodelink.link import Link, goodbye
from controller.nodelink.relay_call import RelayedCall
from controller.nodelink.relay_heartbeats import RelayHeartbeats
from controller.nodelink.reports import ProtocolBroken
from controller.nodelink.service import NodeLinkService
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

Response = relay_pb2.RelayLinkServiceConnectResponse

#: Frames in one message to a relay, or from one.
MAX_BATCH_FRAMES = 1000

#: Bytes of frames in one message to a relay: a share of the largest message, of which the last frame may take another.
MAX_BATCH_BYTES = 1024 * 1024

#: Frames that may wait for a slow relay. Beyond it those of its nodes wait in their links, which have bounds of their
#: own.
MAX_OUTBOX_FRAMES = 4 * MAX_BATCH_FRAMES


class _Use(enum.Enum):
    """How far the use of an index has come. It is free when both sides have said `closed`."""

    OPEN = enum.auto()
    #: The relay said so; the node's stream ends here.
    CLOSED_THERE = enum.auto()
    #: This side said so; what the relay sent before it heard is dropped.
    CLOSED_HERE = enum.auto()


@dataclass(slots=True)
class _Carried:
    call: RelayedCall
    use: _Use
    task: asyncio.Task[None] | None = None


class RelayStream:
    """The stream of one relay. `may_speak` tells whether the mastership lease stands."""

    def __init__(
        self,
        relay: str,
        source: str,
        peer: str,
        nodes: NodeLinkService,
        heartbeats: RelayHeartbeats,
        max_nodes: int,
        now_s: float,
        may_speak: Callable[[], bool],
    ) -> None:
        self.relay = relay
        self.source = source
        self.heard_s = now_s
        self.deposits = 0
        self.peer = peer
        self._nodes = nodes
        self._heartbeats = heartbeats
        self._max_nodes = max_nodes
        self._may_speak = may_speak
        self._carried: dict[int, _Carried] = {}
        self._outbox: deque[relay_pb2.RelayedResponse] = deque()
        self._answers: deque[Response] = deque()
        self._goodbye: nodelink_pb2.LinkGoodbye | None = None
        self._over = False
        self._to_send = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._carried)

    @property
    def is_over(self) -> bool:
        """Tells whether nothing more goes out or comes in."""
        return self._over

    # What comes in.

    def take_heartbeats(self, batch: relay_pb2.HeartbeatBatch, now_s: float) -> None:
        """Takes in a batch, and answers it. Raises `ProtocolBroken`."""
        self._heartbeats.take(batch, now_s)
        self.answer(Response(heartbeats=relay_pb2.HeartbeatBatchAck(number=batch.number)))

    async def take_requests(self, batch: relay_pb2.RequestBatch) -> None:
        """Hands what nodes say to their streams, in order. Raises `ProtocolBroken`."""
        if len(batch.requests) > MAX_BATCH_FRAMES:
            raise ProtocolBroken(
                f"{len(batch.requests)} frames came in one batch; at most {MAX_BATCH_FRAMES} are allowed"
            )
        for frame in batch.requests:
            match frame.WhichOneof("kind"):
                case "request":
                    await self._take_request(frame.node, frame.request)
                case "closed":
                    self._closed_there(frame.node)
                case _:
                    raise ProtocolBroken(f"a frame under index {frame.node} says nothing")

    async def _take_request(self, index: int, request: nodelink_pb2.ConnectRequest) -> None:
        carried = self._carried.get(index)
        if carried is None:
            if not request.HasField("hello"):
                raise ProtocolBroken(f"a frame came under index {index}, which no node has")
            carried = self._begin(index)
        elif carried.use is _Use.CLOSED_THERE:
            raise ProtocolBroken(f"a frame came under index {index} after it was closed")
        elif carried.use is _Use.CLOSED_HERE:
            return
        await carried.call.offer(request)

    def _begin(self, index: int) -> _Carried:
        if index >= self._max_nodes:
            raise ProtocolBroken(
                f"index {index} is too high; a relay carries at most {self._max_nodes} nodes"
            )
        call = RelayedCall(self.relay, self.peer, lambda link: self._opened(index, link))
        carried = _Carried(call, _Use.OPEN)
        self._carried[index] = carried
        self._heartbeats.greeted(index)
        carried.task = asyncio.create_task(self._serve(index, carried))
        return carried

    def _closed_there(self, index: int) -> None:
        carried = self._carried.get(index)
        if carried is None or carried.use is _Use.CLOSED_THERE:
            raise ProtocolBroken(f"index {index} was closed, which no node has")
        if carried.use is _Use.CLOSED_HERE:
            self._free(index)
        else:
            carried.use = _Use.CLOSED_THERE
            carried.call.close()

    def _free(self, index: int) -> None:
        del self._carried[index]
        self._heartbeats.freed(index)

    # One node.

    def _opened(self, index: int, link: Link) -> None:
        self._heartbeats.opened(index, link)

    async def _serve(self, index: int, carried: _Carried) -> None:
        """The node's stream, served as one of its own would be."""
        call = carried.call
        try:
            async for response in self._nodes.Connect(call, call):
                await self._pass_on(relay_pb2.RelayedResponse(node=index, response=response))
        finally:
            call.done()
            self._heartbeats.ended(index)
            self._closed_here(index, carried)

    def _closed_here(self, index: int, carried: _Carried) -> None:
        if self._over:
            return
        closed = relay_pb2.RelayedResponse(node=index, closed=relay_pb2.StreamClosed())
        self._outbox.append(closed)
        self._to_send.set()
        if carried.use is _Use.CLOSED_THERE:
            self._free(index)
        else:
            carried.use = _Use.CLOSED_HERE

    async def _pass_on(self, frame: relay_pb2.RelayedResponse) -> None:
        while len(self._outbox) >= MAX_OUTBOX_FRAMES and not self._over:
            self._room.clear()
            await self._room.wait()
        self._outbox.append(frame)
        self._to_send.set()

    # What goes out.

    def answer(self, response: Response) -> None:
        """Queues an answer to the relay itself."""
        self._answers.append(response)
        self._to_send.set()

    def end(self, reason: nodelink_pb2.LinkEnd, message: str, retry_after_s: float = 0) -> None:
        """Ends the stream with a goodbye to the relay; what waits is dropped."""
        if not self._over:
            self._goodbye = goodbye(reason, message, retry_after_s).goodbye
            self.left()

    def left(self) -> None:
        """The relay has gone."""
        self._over = True
        self._to_send.set()
        self._room.set()

    async def frames(self) -> AsyncGenerator[Response, None]:
        """What goes out, until the stream is over. The lease is checked right before each message leaves."""
        while not self._over:
            self._to_send.clear()
            while (message := self._next()) is not None:
                if not self._may_speak():
                    self.end(
                        nodelink_pb2.LINK_END_NOT_MASTER,
                        "this replica ceased to be the master; try the controller's other addresses",
                    )
                    break
                yield message
            if not self._over:
                await self._to_send.wait()
        if self._goodbye is not None:
            yield Response(goodbye=self._goodbye)

    def _next(self) -> Response | None:
        """The next message: what nodes are told goes before answers that rest on it."""
        if self._over:
            return None
        if not self._outbox:
            return self._answers.popleft() if self._answers else None
        batch = relay_pb2.ResponseBatch()
        size = 0
        while self._outbox and len(batch.responses) < MAX_BATCH_FRAMES and size < MAX_BATCH_BYTES:
            frame = self._outbox.popleft()
            size += frame.ByteSize()
            batch.responses.append(frame)
        self._room.set()
        return Response(responses=batch)

    async def stop(self) -> None:
        """Ends the streams of all nodes carried."""
        self.left()
        tasks = [carried.task for carried in self._carried.values() if carried.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._carried.clear()
