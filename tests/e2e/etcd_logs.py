"""Logs on a real etcd for the end-to-end tests, reached directly or through a failing link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from controller.etcd.access import Access
from controller.log.etcd_log import EtcdLog
from controller.log.port import CommitAt, Log

NONCE = bytes(range(16))
PREFIX = "/souverix/zone-a1"
TTL_S = 2.0
PATIENCE_S = 25.0
POLL_S = 0.005


@asynccontextmanager
async def opened(*endpoints: str) -> AsyncIterator[EtcdLog]:
    """The log below PREFIX, opened over these endpoints."""
    log = EtcdLog(Access(endpoints=endpoints), PREFIX)
    try:
        await log.open(NONCE)
        yield log
    finally:
        await log.close()


async def read_all(log: Log) -> list[CommitAt]:
    """Every commit of the log."""
    commits: list[CommitAt] = []
    while page := await log.read(len(commits), 1_000_000):
        commits += page
    return commits


async def follow_until(log: Log, end: int, seen: list[CommitAt]) -> None:
    """Collect what follow yields from the start, as it comes, up to and without `end`."""
    async with aclosing(log.follow(0)) as tail:
        async for commits in tail:
            seen += commits
            if seen[-1][0] >= end - 1:
                return


async def until_stored(log: Log, next_offset: int) -> None:
    """Wait until the log, seen from here, ends at `next_offset`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (await log.head()).next_offset < next_offset:
        assert time.monotonic() < deadline_s, f"commit {next_offset - 1} was not stored"
        await asyncio.sleep(POLL_S)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"in vain: {what}"
        await asyncio.sleep(POLL_S)
