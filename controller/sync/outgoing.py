"""Frames on their way to one peer. Owns the queue and its bounds; knows nothing of what a frame says.

Runs are bounded by the peer's credit and large values by what it asks for at once. What is left - forwards, their
replies, acknowledgements - comes as it comes, so that a peer that stays connected and reads too slowly could fill this
process's memory. Beyond the bounds the session ends, and goes on later by position.
"""

from __future__ import annotations

import asyncio

from souverix.sync.v1 import sync_pb2

#: Frames that may wait: all the forwards that may be under way, and as many acknowledgements.
MAX_FRAMES = 8192

#: Bytes that may wait beside runs: four times the chunks a peer asks for at once.
MAX_BYTES = 64 * 1024 * 1024


class TooSlow(Exception):
    """More waits than may: the peer does not read, or reads too slowly."""


class Outgoing:
    """One session's frames, in order, until it is closed."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[tuple[sync_pb2.Frame, int] | None] = asyncio.Queue()
        self._bytes = 0
        self._closed = False

    def put(self, frame: sync_pb2.Frame, size_bytes: int = 0) -> None:
        """Takes a frame; `size_bytes` where nothing else bounds it. Frames after the end are dropped.

        Raises `TooSlow`.
        """
        if self._closed:
            return
        if self._frames.qsize() >= MAX_FRAMES or self._bytes + size_bytes > MAX_BYTES:
            raise TooSlow(
                f"the peer reads too slowly: {self._frames.qsize()} frames wait to be sent"
            )
        self._bytes += size_bytes
        self._frames.put_nowait((frame, size_bytes))

    def close(self) -> None:
        """Nothing more will come."""
        if not self._closed:
            self._closed = True
            self._frames.put_nowait(None)

    async def get(self) -> sync_pb2.Frame | None:
        """The next frame; None after the last one."""
        entry = await self._frames.get()
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]
