"""One node's stream within a relay's. Stands towards `NodeLinkService.Connect` for gRPC's stream and context, so that a
node behind a relay is served by the very code that serves one that dials itself. Owns the frames that wait to be read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from controller.nodelink.link import Link
from souverix.nodelink.v1 import nodelink_pb2

#: Frames of one node that may wait to be read: as many as its agent may have on the way at once (64 reports, and the
#: chunks they name one by one). Beyond it the relay's stream is read no further until there is room.
MAX_WAITING_FRAMES = 128

Emit = Callable[[nodelink_pb2.ConnectResponse], Awaitable[None]]


class RelayedCall:
    """The stream of one node. `opened` is called with its link, once it stands."""

    def __init__(self, relay: str, peer: str, opened: Callable[[Link], None]) -> None:
        self.relay = relay
        self.opened = opened
        self._peer = peer
        self._waiting: deque[nodelink_pb2.ConnectRequest] = deque()
        self._over = False
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._callbacks: list[Callable[[object], None]] = []

    # What a servicer asks of a call.

    def peer(self) -> str:
        """Where the relay's stream comes from, and which relay it is."""
        return f"{self._peer} relay:{self.relay}"

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        """Has `callback` called when the stream is over."""
        self._callbacks.append(callback)

    def __aiter__(self) -> RelayedCall:
        return self

    async def __anext__(self) -> nodelink_pb2.ConnectRequest:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            self._moved.clear()
            await self._moved.wait()
        self._room.set()
        return self._waiting.popleft()

    # What the relay's stream does with it.

    async def offer(self, request: nodelink_pb2.ConnectRequest) -> None:
        """Hands on what the node said; waits while too much of it has not been read."""
        while len(self._waiting) >= MAX_WAITING_FRAMES and not self._over:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(request)
        self._moved.set()

    def close(self) -> None:
        """The node is gone, or nothing more is read: what waits is still handed out."""
        self._over = True
        self._moved.set()
        self._room.set()

    def done(self) -> None:
        """The stream is over."""
        self.close()
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()
