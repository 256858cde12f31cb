"""One agent's stream through the relay: what waits to be passed on to it, and how it ends.

Owns the bound on what waits. Passes on what the controller said and nothing else; the answer to a heartbeat is the
controller's too, told by batch and completed here with the ping it answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from souverix.nodelink.v1 import nodelink_pb2

MAX_WAITING_FRAMES = 256
"""Frames that wait for a slow agent, as at a controller. Beyond it the agent is left, and nothing is lost: all of it is
sent again over the next link."""

UPSTREAM_LOST = nodelink_pb2.LinkGoodbye(
    reason=nodelink_pb2.LINK_END_UNSPECIFIED,
    message="the relay lost its controller; dial again, or another address",
)


class AgentPassage:
    """The stream of one agent. `welcomed` is set with the first frame that the controller's welcome is."""

    def __init__(self) -> None:
        self.welcome: nodelink_pb2.ConnectResponse | None = None
        self._fence = nodelink_pb2.Fence()
        self._waiting: deque[nodelink_pb2.ConnectResponse] = deque()
        self._over = False
        self._sent_away = False
        self._moved = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Tells whether the controller says nothing more."""
        return self._over

    def hear(self, response: nodelink_pb2.ConnectResponse) -> None:
        """The controller says something to the node."""
        if self._over:
            return
        if response.HasField("fence"):
            self._fence = response.fence
        if response.HasField("welcome"):
            self.welcome = response
        self._sent_away |= response.HasField("goodbye")
        self._put(response)

    def hear_ping(self, ping_ms: int) -> None:
        """The controller took the heartbeat that carried this ping."""
        answer = nodelink_pb2.HeartbeatAck(ping_ms=ping_ms)
        self._put(nodelink_pb2.ConnectResponse(fence=self._fence, heartbeat_ack=answer))

    def ended(self) -> None:
        """The controller says nothing more; an agent that was not told why is told that the relay is cut off."""
        if not self._over and not self._sent_away:
            self._put(nodelink_pb2.ConnectResponse(goodbye=UPSTREAM_LOST))
        self._over = True
        self._moved.set()

    async def frames(self) -> AsyncGenerator[nodelink_pb2.ConnectResponse, None]:
        """What goes to the agent, until nothing more comes."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            if self._over:
                return
            self._moved.clear()
            await self._moved.wait()

    def _put(self, response: nodelink_pb2.ConnectResponse) -> None:
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            self._over = True
            self._waiting.clear()
        elif not self._over:
            self._waiting.append(response)
        self._moved.set()
