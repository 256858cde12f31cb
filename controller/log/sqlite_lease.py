"""Mastership by a lock on a file: it ends with the process, however that dies. Owns the belief to be master; never
decides what a master does.
"""

from __future__ import annotations

import asyncio
import os

from controller.log.port import Mastership


class SqliteMastershipLease:
    """A mastership held through a lock on a file."""

    def __init__(self, lock: int, mastership: Mastership) -> None:
        self._lock: int | None = lock
        self._mastership = mastership
        self._ended = asyncio.Event()

    @property
    def mastership(self) -> Mastership:
        """The token to append with."""
        return self._mastership

    @property
    def valid(self) -> bool:
        """Whether the lock is held: until it is released."""
        return not self._ended.is_set()

    async def lost(self) -> None:
        """Wait until the lock is released."""
        await self._ended.wait()

    async def release(self) -> None:
        """Let go of the lock."""
        self._ended.set()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
