"""What every log adapter must do when its beginning is dropped, run on each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest

from controller.log.errors import Fenced, HeadMoved, Trimmed
from controller.log.port import EMPTY_HASH, MAX_COMMIT_BYTES, Head, Mastership, StoredLog
from tests.contract.conftest import NONCE, OpenLog
from tests.contract.test_log_contract import PATIENCE_S, TTL_S, append_all, follow_until

POLL_S = 0.02
COMMITS = [f"commit {number}".encode() for number in range(10)]
NUMBERED = list(enumerate(COMMITS))


async def place(log: StoredLog, offset: int) -> Head:
    return Head(offset, await log.hash_before(offset), NONCE)


async def written(log: StoredLog) -> Mastership:
    lease = await log.campaign("a", TTL_S)
    await append_all(log, lease.mastership, await log.head(), COMMITS)
    return lease.mastership


async def test_an_untrimmed_log_starts_at_its_first_commit(open_log: OpenLog) -> None:
    log = await open_log()
    assert await log.start() == Head(0, EMPTY_HASH, NONCE)
    await written(log)
    assert await log.start() == Head(0, EMPTY_HASH, NONCE)


async def test_a_trimmed_log_reads_on_from_its_start_and_refuses_what_is_before(
    open_log: OpenLog,
) -> None:
    log = await open_log()
    mastership = await written(log)
    start = await place(log, 4)
    head = await log.head()
    await log.trim(mastership, await log.start(), start)

    assert await log.start() == start
    assert await log.head() == head
    assert await log.read(4, MAX_COMMIT_BYTES) == NUMBERED[4:]
    assert await log.hash_before(4) == start.hash
    assert await log.read(10, MAX_COMMIT_BYTES) == []
    for offset in (0, 3):
        with pytest.raises(Trimmed) as refused:
            await log.read(offset, MAX_COMMIT_BYTES)
        assert refused.value.start_offset == 4
        with pytest.raises(Trimmed):
            await log.hash_before(offset)
        with pytest.raises(Trimmed):
            async with aclosing(log.follow(offset)) as tail:
                await anext(tail)


async def test_a_log_goes_on_after_all_of_it_was_trimmed(open_log: OpenLog) -> None:
    log, standby = await open_log(), await open_log()
    mastership = await written(log)
    head = await log.head()
    await log.trim(mastership, await log.start(), head)

    with pytest.raises(Trimmed):
        await standby.read(0, MAX_COMMIT_BYTES)
    assert await standby.read(10, MAX_COMMIT_BYTES) == []
    assert await standby.hash_before(10) == head.hash
    await log.append(mastership, head, b"on")
    assert await standby.read(10, MAX_COMMIT_BYTES) == [(10, b"on")]
    reopened = await open_log()
    assert await reopened.start() == head
    assert (await reopened.head()).next_offset == 11


async def test_a_follower_that_is_level_does_not_notice(open_log: OpenLog) -> None:
    log, standby = await open_log(), await open_log()
    mastership = await written(log)
    async with asyncio.timeout(PATIENCE_S), aclosing(standby.follow(8)) as tail:
        assert await anext(tail) == NUMBERED[8:]
        following = asyncio.ensure_future(anext(tail))
        await log.trim(mastership, await log.start(), await log.head())
        await log.reclaim()
        await log.append(mastership, await log.head(), b"on")
        assert await following == [(10, b"on")]


async def test_trimming_again_is_told_of_the_start_that_stands(open_log: OpenLog) -> None:
    log = await open_log()
    mastership = await written(log)
    first, start = await log.start(), await place(log, 4)
    await log.trim(mastership, first, start)
    await log.trim(mastership, first, start)
    assert await log.start() == start
    with pytest.raises(HeadMoved):
        await log.trim(mastership, first, await place(log, 6))
    await log.trim(mastership, start, await place(log, 6))
    assert await log.read(6, MAX_COMMIT_BYTES) == NUMBERED[6:]


async def test_only_the_master_trims(open_log: OpenLog) -> None:
    paused, successor = await open_log(), await open_log()
    lease = await paused.campaign("old", TTL_S)
    await append_all(paused, lease.mastership, await paused.head(), COMMITS)
    await lease.release()
    await successor.campaign("new", TTL_S)
    with pytest.raises(Fenced):
        await paused.trim(lease.mastership, await paused.start(), await place(paused, 4))
    assert await successor.read(0, MAX_COMMIT_BYTES) == NUMBERED


async def in_use(log: StoredLog) -> int:
    space = await log.space()
    return space.file_bytes - space.free_bytes


async def until_in_use(log: StoredLog, fits: Callable[[int], bool]) -> int:
    """Waits until that much is in use: a store may tell a size of some moments ago."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not fits(found := await in_use(log)):
        assert time.monotonic() < deadline_s, f"{found} bytes are in use"
        await asyncio.sleep(POLL_S)
    return found


async def test_space_is_given_back_and_nothing_else_is_lost(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    empty = await in_use(log)
    large = [bytes([number]) * MAX_COMMIT_BYTES for number in range(8)]
    await append_all(log, lease.mastership, await log.head(), [*large, b"small"])
    full = await until_in_use(log, lambda used: used >= empty + 8 * MAX_COMMIT_BYTES)
    await log.trim(lease.mastership, await log.start(), await place(log, 8))
    await log.reclaim()
    await until_in_use(log, lambda used: used <= full - 7 * MAX_COMMIT_BYTES)
    assert await log.read(8, MAX_COMMIT_BYTES) == [(8, b"small")]
    async with asyncio.timeout(PATIENCE_S):
        assert await follow_until(log, 8, 9) == [(8, b"small")]


async def test_replicas_tell_one_another_what_they_have_archived(open_log: OpenLog) -> None:
    log, standby = await open_log(), await open_log()
    assert await log.archived() == {}
    await log.note_archived("r1", 4)
    await standby.note_archived("r2", 2)
    await log.note_archived("r1", 7)
    assert await standby.archived() == {"r1": 7, "r2": 2}
