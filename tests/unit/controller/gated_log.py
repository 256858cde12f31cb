"""A real SQLite log whose appends a test can hold back or let fail, each in a way that the port allows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from enum import Enum
from pathlib import Path

from controller.log.errors import LogError
from controller.log.port import CommitAt, Head, Mastership, MastershipLease
from controller.log.sqlite_log import SqliteLog


class Stands(Enum):
    """What became of the commit of a failed append."""

    WRITTEN = "written"
    NOT_WRITTEN = "not written"


class GatedLog:
    """The log port on a `SqliteLog`."""

    def __init__(self, path: Path) -> None:
        self.log = SqliteLog(path, "test-log")
        #: Appends wait until it is set.
        self.gate = asyncio.Event()
        self.gate.set()
        #: Set while an append waits at the gate.
        self.waiting = asyncio.Event()
        #: How the next appends fail: the error, and whether the commit stands nevertheless.
        self.failures: deque[tuple[LogError, Stands]] = deque()
        self.appended: list[bytes] = []

    @property
    def identity(self) -> str:
        return self.log.identity

    async def open(self, fresh_nonce: bytes) -> Head:
        return await self.log.open(fresh_nonce)

    async def head(self) -> Head:
        return await self.log.head()

    async def append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
            self.waiting.clear()
        failure = self.failures.popleft() if self.failures else None
        if failure is not None and failure[1] is Stands.NOT_WRITTEN:
            raise failure[0]
        head = await self.log.append(mastership, expected, commit)
        if failure is not None:
            raise failure[0]
        self.appended.append(commit)
        return head

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        return await self.log.read(first_offset, max_bytes)

    async def hash_before(self, offset: int) -> bytes:
        return await self.log.hash_before(offset)

    def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        return self.log.follow(first_offset)

    async def campaign(self, candidate: str, ttl_s: float) -> MastershipLease:
        return await self.log.campaign(candidate, ttl_s)

    async def current_master(self) -> str | None:
        return await self.log.current_master()

    async def close(self) -> None:
        await self.log.close()
