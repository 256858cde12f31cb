"""What every log adapter must do, run on each of them."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing

import pytest

from controller.log.errors import CommitTooLarge, Fenced, HeadMoved
from controller.log.port import (
    EMPTY_HASH,
    MAX_COMMIT_BYTES,
    CommitAt,
    Head,
    Log,
    Mastership,
    hash_after,
)
from controller.log.witness import Continuity, Witness, check_continuity
from tests.contract.conftest import NONCE, OpenLog

TTL_S = 2.0
PATIENCE_S = 20.0


async def append_all(log: Log, mastership: Mastership, head: Head, commits: list[bytes]) -> Head:
    for commit in commits:
        head = await log.append(mastership, head, commit)
    return head


async def read_all(log: Log, max_bytes: int) -> list[CommitAt]:
    commits: list[CommitAt] = []
    while page := await log.read(len(commits), max_bytes):
        commits += page
    return commits


async def follow_until(log: Log, first_offset: int, end: int) -> list[CommitAt]:
    """All that follow yields from `first_offset` up to, and without, `end`."""
    seen: list[CommitAt] = []
    async with aclosing(log.follow(first_offset)) as tail:
        async for commits in tail:
            seen += commits
            if seen[-1][0] >= end - 1:
                return seen
    raise AssertionError("the tail ended")


async def test_a_new_log_is_empty_and_bears_the_given_nonce(open_log: OpenLog) -> None:
    log = await open_log()
    assert await log.head() == Head(0, EMPTY_HASH, NONCE)
    assert await log.read(0, MAX_COMMIT_BYTES) == []
    assert log.identity


async def test_opening_again_finds_the_log_as_it_was_left(open_log: OpenLog) -> None:
    first = await open_log()
    lease = await first.campaign("a", TTL_S)
    head = await append_all(first, lease.mastership, await first.head(), [b"one", b"two"])
    identity = first.identity
    await lease.release()
    await first.close()

    second = await open_log()
    assert await second.open(bytes(16)) == head
    assert second.identity == identity
    assert await read_all(second, MAX_COMMIT_BYTES) == [(0, b"one"), (1, b"two")]


async def test_offsets_are_dense_and_the_chain_is_sha256_of_all_before(
    open_log: OpenLog,
) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    commits = [f"commit {number}".encode() for number in range(5)]
    head = await append_all(log, lease.mastership, await log.head(), commits)

    expected = bytes(32)
    for offset, commit in enumerate(commits):
        assert await log.hash_before(offset) == expected
        expected = hashlib.sha256(expected + commit).digest()
    assert head == Head(5, expected, NONCE)
    assert await log.hash_before(5) == expected
    assert await log.head() == head
    assert await read_all(log, MAX_COMMIT_BYTES) == list(enumerate(commits))


async def test_there_is_no_hash_beyond_the_end(open_log: OpenLog) -> None:
    log = await open_log()
    with pytest.raises(IndexError):
        await log.hash_before(1)


async def test_an_old_master_is_fenced_whatever_it_believes(open_log: OpenLog) -> None:
    paused, successor = await open_log(), await open_log()
    old = await paused.campaign("old", TTL_S)
    head = await paused.append(old.mastership, await paused.head(), b"by the old master")
    await old.release()
    new = await successor.campaign("new", TTL_S)
    assert new.mastership.token > old.mastership.token

    with pytest.raises(Fenced):
        await paused.append(old.mastership, head, b"too late")
    head = await successor.append(new.mastership, head, b"by the new master")
    with pytest.raises(Fenced):
        await paused.append(old.mastership, head, b"far too late")
    assert [commit for _, commit in await read_all(successor, MAX_COMMIT_BYTES)] == [
        b"by the old master",
        b"by the new master",
    ]


async def test_no_append_without_any_master(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    token = lease.mastership.token
    with pytest.raises(Fenced):
        await log.append(Mastership(token + 1), await log.head(), b"from nowhere")
    assert (await log.head()).next_offset == 0


async def test_an_append_at_another_head_is_refused(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    empty = await log.head()
    head = await log.append(lease.mastership, empty, b"one")

    with pytest.raises(HeadMoved):
        await log.append(lease.mastership, empty, b"another one")
    forked = Head(head.next_offset, hash_after(empty.hash, b"another one"), head.nonce)
    with pytest.raises(HeadMoved):
        await log.append(lease.mastership, forked, b"two")
    assert await log.head() == head


async def test_appending_the_identical_commit_again_is_told_of_the_one_that_stands(
    open_log: OpenLog,
) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    empty = await log.head()
    head = await log.append(lease.mastership, empty, b"one")
    await log.append(lease.mastership, head, b"two")

    assert await log.append(lease.mastership, empty, b"one") == head
    assert await read_all(log, MAX_COMMIT_BYTES) == [(0, b"one"), (1, b"two")]


async def test_the_largest_commit_fits_and_a_larger_one_is_refused(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    largest = bytes(MAX_COMMIT_BYTES)
    head = await log.append(lease.mastership, await log.head(), largest)
    with pytest.raises(CommitTooLarge, match="split it"):
        await log.append(lease.mastership, head, largest + b"!")
    assert await log.read(0, MAX_COMMIT_BYTES) == [(0, largest)]
    assert await log.head() == head


async def test_reads_are_bounded_but_never_empty_before_the_end(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    commits = [bytes([number]) * 1000 for number in range(40)]
    await append_all(log, lease.mastership, await log.head(), commits)

    page = await log.read(3, 10_000)
    assert 1 <= len(page) <= 10
    assert [offset for offset, _ in page] == list(range(3, 3 + len(page)))
    assert await log.read(7, 1) == [(7, commits[7])]
    assert await log.read(40, 10_000) == []
    assert await read_all(log, 5_000) == list(enumerate(commits))


async def test_small_and_large_commits_are_read_in_one_go(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    large = [bytes([number]) * MAX_COMMIT_BYTES for number in range(20)]
    commits = [b"small"] * 40 + large + [b"small"] * 5
    await append_all(log, lease.mastership, await log.head(), commits)
    async with asyncio.timeout(PATIENCE_S):
        assert await follow_until(log, 0, len(commits)) == list(enumerate(commits))


async def test_followers_see_each_commit_once_while_appends_go_on(open_log: OpenLog) -> None:
    log, standby = await open_log(), await open_log()
    lease = await log.campaign("a", TTL_S)
    commits = [f"commit {number}".encode() for number in range(120)]
    head = await append_all(log, lease.mastership, await log.head(), commits[:60])

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        from_start = group.create_task(follow_until(standby, 0, 120))
        from_middle = group.create_task(follow_until(standby, 59, 120))
        same_log = group.create_task(follow_until(log, 30, 120))
        for commit in commits[60:]:
            head = await log.append(lease.mastership, head, commit)

    numbered = list(enumerate(commits))
    assert from_start.result() == numbered
    assert from_middle.result() == numbered[59:]
    assert same_log.result() == numbered[30:]


async def test_the_mastership_passes_on_when_it_is_released(open_log: OpenLog) -> None:
    first, second = await open_log(), await open_log()
    assert await first.current_master() is None
    lease = await first.campaign("replica-1@127.0.0.1:1", TTL_S)
    assert await second.current_master() == "replica-1@127.0.0.1:1"

    waiting = asyncio.create_task(second.campaign("replica-2@127.0.0.1:2", TTL_S))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    await lease.release()
    async with asyncio.timeout(PATIENCE_S):
        successor = await waiting
        await lease.lost()
    assert not lease.valid
    assert successor.valid
    assert successor.mastership.token > lease.mastership.token
    assert await first.current_master() == "replica-2@127.0.0.1:2"


async def test_a_cancelled_campaign_leaves_nothing_behind(open_log: OpenLog) -> None:
    first, second = await open_log(), await open_log()
    lease = await first.campaign("a", TTL_S)
    waiting = asyncio.create_task(second.campaign("b", TTL_S))
    await asyncio.wait({waiting}, timeout=0.2)
    waiting.cancel()
    await asyncio.wait({waiting})
    await lease.release()
    assert await first.current_master() is None


async def test_a_lease_is_kept_alive_beyond_its_time_to_live(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", 1.0)
    losing = asyncio.create_task(lease.lost())
    done, _ = await asyncio.wait({losing}, timeout=2.5)
    assert not done
    assert lease.valid
    await log.append(lease.mastership, await log.head(), b"still master")
    losing.cancel()


async def test_continuity_holds_for_the_log_that_was_seen(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    seen = await append_all(log, lease.mastership, await log.head(), [b"one", b"two"])
    witness = Witness(log.identity, seen)
    assert await check_continuity(witness, log) is Continuity.SAME
    await log.append(lease.mastership, seen, b"three")
    assert await check_continuity(witness, log) is Continuity.SAME


async def test_continuity_is_refused_to_a_log_set_back_or_exchanged(open_log: OpenLog) -> None:
    log = await open_log()
    lease = await log.campaign("a", TTL_S)
    one = await log.append(lease.mastership, await log.head(), b"one")
    await log.append(lease.mastership, one, b"two")

    ahead = Witness(log.identity, Head(9, bytes(32), NONCE))
    assert await check_continuity(ahead, log) is Continuity.REWOUND
    other_past = Witness(log.identity, Head(1, hash_after(EMPTY_HASH, b"uno"), NONCE))
    assert await check_continuity(other_past, log) is Continuity.REWOUND
    recreated = Witness(log.identity, Head(1, one.hash, bytes(16)))
    assert await check_continuity(recreated, log) is Continuity.OTHER_LOG
    elsewhere = Witness("another store", one)
    assert await check_continuity(elsewhere, log) is Continuity.OTHER_LOG
