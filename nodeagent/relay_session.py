"""One session of a relay with its controller: which index stands for which node, what waits to be sent, and whom a
frame that came is for.

Owns indices, batches and their bounds. Sans-IO: messages and times come in, messages come out. Must never look into
what nodes and controller say to each other, but for heartbeats, which are gathered.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from nodeagent.clock import span_s
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2

Request = relay_pb2.RelayLinkServiceConnectRequest
Response = relay_pb2.RelayLinkServiceConnectResponse

MAX_BATCH_FRAMES = 1000
"""Frames in one message, by the contract."""

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes of frames in one message, which the last frame may exceed by its own size."""

MAX_BATCH_HEARTBEATS = 20_000
"""Heartbeats in one message: some 200 kB."""

MAX_WAITING_FRAMES = 4 * MAX_BATCH_FRAMES
"""Frames of nodes that wait to be sent. Beyond it agents are read no further until there is room."""

MAX_UNANSWERED_BATCHES = 256
"""Batches of heartbeats without an answer: seconds of them. The pings of older ones are forgotten: nobody answers."""

MAX_ROUND_TRIP_US = 2**32 - 1
"""Longest round trip the wire can tell, 71 minutes."""


class RelaySessionBroken(Exception):
    """The controller contradicts the contract; the session must be left."""


class RelaySessionFull(Exception):
    """No further node can be carried."""


class Passage(Protocol):
    """The stream of one node through the relay."""

    def hear(self, response: nodelink_pb2.ConnectResponse) -> None:
        """The controller says something to the node."""
        ...

    def hear_ping(self, ping_ms: int) -> None:
        """The controller took the heartbeat that carried this ping."""
        ...

    def ended(self) -> None:
        """The controller says nothing more to the node."""
        ...


class RelaySession:
    """The session that a welcome began. All times are monotonic seconds."""

    def __init__(self, welcome: relay_pb2.RelayWelcome, now_s: float) -> None:
        self.max_nodes = welcome.max_nodes
        self.lease_ttl_s = span_s(welcome.lease_ttl)
        self.heartbeat_s = min(span_s(welcome.heartbeat_interval), self.lease_ttl_s / 3)
        self.heard_s = now_s
        self._passages: dict[int, Passage | None] = {}
        self._free: list[int] = []
        self._next_index = 0
        self._frames: deque[relay_pb2.RelayedRequest] = deque()
        self._heartbeats: dict[int, nodelink_pb2.AgentHeartbeat] = {}
        self._batch = 0
        self._batch_at_s = now_s
        self._unanswered: dict[int, list[tuple[Passage, int]]] = {}

    def __len__(self) -> int:
        return sum(passage is not None for passage in self._passages.values())

    @property
    def has_room(self) -> bool:
        """Tells whether a further frame may wait."""
        return len(self._frames) < MAX_WAITING_FRAMES

    @property
    def has_news(self) -> bool:
        """Tells whether anything waits to be sent."""
        return bool(self._frames or self._heartbeats)

    def is_silent(self, now_s: float) -> bool:
        """Tells whether nothing was heard for a lease TTL: another may be master by now."""
        return now_s - self.heard_s > self.lease_ttl_s

    # What nodes say.

    def open(self, passage: Passage, hello: nodelink_pb2.ConnectRequest) -> int:
        """Takes in a node; its index. Raises `RelaySessionFull`."""
        if self._free:
            index = heapq.heappop(self._free)
        elif self._next_index < self.max_nodes:
            index = self._next_index
            self._next_index += 1
        else:
            raise RelaySessionFull(
                f"the relay carries {self.max_nodes} nodes, as many as its controller allows"
            )
        self._passages[index] = passage
        self.say(index, hello)
        return index

    def say(self, index: int, request: nodelink_pb2.ConnectRequest) -> None:
        """Queues what a node says. Heartbeats are gathered: the newest of each node counts."""
        if self._passages.get(index) is None:
            return
        if request.HasField("heartbeat"):
            self._heartbeats[index] = request.heartbeat
        else:
            self._frames.append(relay_pb2.RelayedRequest(node=index, request=request))

    def close(self, index: int) -> None:
        """A node is gone. Its index is free when the controller has said so too."""
        if self._passages.get(index) is None:
            return
        self._passages[index] = None
        self._say_closed(index)

    def _say_closed(self, index: int) -> None:
        self._heartbeats.pop(index, None)
        closed = relay_pb2.StreamClosed()
        self._frames.append(relay_pb2.RelayedRequest(node=index, closed=closed))

    # What goes out.

    def messages(self, now_s: float) -> Iterator[Request]:
        """All that waits, as messages: frames first, so that a greeting goes before the heartbeats of its node."""
        while self._frames:
            batch = relay_pb2.RequestBatch()
            size = 0
            while self._frames and len(batch.requests) < MAX_BATCH_FRAMES:
                frame = self._frames.popleft()
                batch.requests.append(frame)
                size += frame.ByteSize()
                if size >= MAX_BATCH_BYTES:
                    break
            yield Request(requests=batch)
        while self._heartbeats or now_s - self._batch_at_s >= self.heartbeat_s:
            self._batch_at_s = now_s
            yield Request(heartbeats=self._gathered())

    def heartbeat_due_s(self) -> float:
        """When a batch falls due although no node was heard."""
        return self._batch_at_s + self.heartbeat_s

    def _gathered(self) -> relay_pb2.HeartbeatBatch:
        self._batch += 1
        indices = list(self._heartbeats)[:MAX_BATCH_HEARTBEATS]
        heard = [self._heartbeats.pop(index) for index in indices]
        batch = relay_pb2.HeartbeatBatch(number=self._batch, nodes=indices)
        rtts_us = [_rtt_us(heartbeat) for heartbeat in heard]
        if any(rtts_us):
            batch.rtts_us.extend(rtts_us)
        backlogs = [heartbeat.backlog_reports for heartbeat in heard]
        if any(backlogs):
            batch.backlogs.extend(backlogs)
        self._unanswered[self._batch] = [
            (passage, heartbeat.ping_ms)
            for index, heartbeat in zip(indices, heard, strict=True)
            if (passage := self._passages.get(index)) is not None
        ]
        if len(self._unanswered) > MAX_UNANSWERED_BATCHES:
            del self._unanswered[next(iter(self._unanswered))]
        return batch

    # What comes in.

    def receive(self, response: Response, now_s: float) -> None:
        """Hands what the controller says to the nodes it is for. Raises `RelaySessionBroken`."""
        self.heard_s = now_s
        match response.WhichOneof("kind"):
            case "heartbeats":
                for passage, ping_ms in self._unanswered.pop(response.heartbeats.number, ()):
                    passage.hear_ping(ping_ms)
            case "responses":
                for frame in response.responses.responses:
                    self._hear(frame)
            case kind:
                raise RelaySessionBroken(f"a frame of kind {kind or 'unknown'} out of place")

    def _hear(self, frame: relay_pb2.RelayedResponse) -> None:
        index = frame.node
        if index not in self._passages:
            raise RelaySessionBroken(f"a frame came under index {index}, which no node has")
        passage = self._passages[index]
        if frame.HasField("closed"):
            if passage is not None:
                passage.ended()
                self._say_closed(index)
            del self._passages[index]
            heapq.heappush(self._free, index)
        elif passage is not None:
            passage.hear(frame.response)

    def end(self) -> None:
        """The session is over: so are the passages."""
        for passage in list(self._passages.values()):
            if passage is not None:
                passage.ended()
        self._passages.clear()
        self._unanswered.clear()


def _rtt_us(heartbeat: nodelink_pb2.AgentHeartbeat) -> int:
    if not heartbeat.HasField("rtt"):
        return 0
    return max(1, min(MAX_ROUND_TRIP_US, round(span_s(heartbeat.rtt) * 1_000_000)))
