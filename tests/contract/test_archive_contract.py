"""A log with an archive reads as if nothing had ever been moved, on every store, whenever its process ends."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

import pytest

from controller.archive import archived_log, segment
from controller.archive.archived_log import ArchivedLog
from controller.archive.directory import ArchiveDirectory
from controller.archive.segment import Segment
from controller.log.errors import Fenced, LogCorrupt
from controller.log.port import MAX_COMMIT_BYTES, CommitAt, Head, MastershipLease, hash_after
from controller.log.sqlite_log import SqliteLog
from controller.log.witness import Continuity, Witness, check_continuity
from tests.contract.conftest import NONCE, OpenLog
from tests.contract.test_log_contract import PATIENCE_S, TTL_S, append_all, follow_until, read_all

COMMITS = [f"commit {number} ".encode() * (1 + number % 7) for number in range(25)]
NUMBERED = list(enumerate(COMMITS))
SEGMENT_COMMITS = 4


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived_log, "SEGMENT_COMMITS", SEGMENT_COMMITS)
    monkeypatch.setattr(archived_log, "LOOK_AGAIN_S", 0.0)


async def opened(open_log: OpenLog, directory: Path) -> ArchivedLog:
    log = ArchivedLog(await open_log(), ArchiveDirectory(directory))
    await log.open(NONCE)
    return log


async def archive_all(log: ArchivedLog) -> list[Segment]:
    made = []
    while (made_now := await log.archive_next()) is not None:
        made.append(made_now)
    return made


async def filled(log: ArchivedLog) -> tuple[MastershipLease, Head]:
    lease = await log.campaign("a", TTL_S)
    head = await append_all(log, lease.mastership, await log.head(), COMMITS)
    return lease, head


async def trim_to(log: ArchivedLog, lease: MastershipLease, offset: int) -> None:
    for held in log.in_both():
        if held.end <= offset:
            await log.trim(lease.mastership, held)


async def assert_whole(log: ArchivedLog, commits: list[CommitAt] = NUMBERED) -> None:
    """Every way of reading tells the same as if nothing had been moved."""
    assert await read_all(log, MAX_COMMIT_BYTES) == commits
    assert await read_all(log, 1) == commits
    running = bytes(32)
    for offset, commit in commits:
        assert await log.hash_before(offset) == running
        assert (await log.read(offset, 1))[0] == (offset, commit)
        running = hash_after(running, commit)
    assert await log.hash_before(len(commits)) == running
    async with asyncio.timeout(PATIENCE_S):
        for first in (0, 7, len(commits) - 1):
            assert await follow_until(log, first, len(commits)) == commits[first:]


async def test_a_log_reads_the_same_wherever_it_was_trimmed(
    open_log: OpenLog, tmp_path: Path
) -> None:
    log = await opened(open_log, tmp_path)
    lease, _ = await filled(log)
    assert [(s.first, s.end) for s in await archive_all(log)] == [
        (0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24),
    ]  # fmt: skip
    for offset in (0, 4, 12, 24):
        await trim_to(log, lease, offset)
        assert log.start == offset
        await assert_whole(log)
    await log.append(lease.mastership, await log.head(), b"on")
    await assert_whole(log, [*NUMBERED, (25, b"on")])


async def test_whatever_step_was_the_last_the_next_life_reads_everything(
    open_log: OpenLog, tmp_path: Path
) -> None:
    """Each step is followed by a process that knows nothing but what is in the store and on disk."""
    log = await opened(open_log, tmp_path)
    lease, _ = await filled(log)
    for step in itertools.cycle(("archive", "trim")):
        if step == "archive" and await log.archive_next() is None:
            break
        if step == "trim" and log.in_both():
            await log.trim(lease.mastership, log.in_both()[0])
        after = await opened(open_log, tmp_path)
        assert after.start == log.start
        assert after.archived_to == log.archived_to
        await assert_whole(after)
    assert log.start == log.archived_to == 24


async def test_a_half_written_segment_is_as_good_as_none(open_log: OpenLog, tmp_path: Path) -> None:
    log = await opened(open_log, tmp_path)
    lease, _ = await filled(log)
    first = await log.archive_next()
    assert first is not None
    file = log.directory.file_of(first)
    (tmp_path / "half.segment.1.2.new").write_bytes(file.read_bytes()[:40])
    (tmp_path / "short.segment").write_bytes(b"SVX")
    file.write_bytes(file.read_bytes()[:-9])

    after = await opened(open_log, tmp_path)
    with pytest.raises(LogCorrupt, match="copy it from"):
        await after.trim(lease.mastership, after.in_both()[0])
    await assert_whole(after)
    file.unlink()
    again = await opened(open_log, tmp_path)
    assert (await again.archive_next()) == first
    await again.trim(lease.mastership, first)
    await assert_whole(again)


async def test_a_fenced_master_moves_nothing(open_log: OpenLog, tmp_path: Path) -> None:
    log = await opened(open_log, tmp_path)
    lease, _ = await filled(log)
    await archive_all(log)
    await lease.release()
    successor = await opened(open_log, tmp_path)
    await successor.campaign("b", TTL_S)
    with pytest.raises(Fenced):
        await log.trim(lease.mastership, log.in_both()[0])
    assert (await opened(open_log, tmp_path)).start == 0
    await assert_whole(log)


async def test_replicas_with_archives_of_their_own_read_the_same(
    open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, standby = [await opened(open_log, tmp_path / name) for name in ("r1", "r2")]
    lease, _ = await filled(master)
    await archive_all(master)
    # The standby's segments end elsewhere: it was down for a while, or is of another release.
    monkeypatch.setattr(archived_log, "SEGMENT_COMMITS", 5)
    await archive_all(standby)
    await trim_to(master, lease, 12)
    await assert_whole(standby)
    assert [s.first for s in standby.in_both()] == [10, 15, 20]
    await lease.release()
    next_lease = await standby.campaign("b", TTL_S)
    await trim_to(standby, next_lease, 25)
    assert standby.start == 25
    await assert_whole(standby)
    # The master of before has commit 24 neither in the store nor in its archive.
    with pytest.raises(LogCorrupt, match="does not hold commit 24"):
        await read_all(master, MAX_COMMIT_BYTES)


async def test_a_replica_without_the_archive_says_what_to_do_and_goes_on_when_it_was_done(
    open_log: OpenLog, tmp_path: Path
) -> None:
    master = await opened(open_log, tmp_path / "r1")
    lease, _ = await filled(master)
    await archive_all(master)
    await trim_to(master, lease, 16)
    late = await opened(open_log, tmp_path / "r2")
    assert await late.read(16, MAX_COMMIT_BYTES) == NUMBERED[16:]
    with pytest.raises(LogCorrupt, match=r"copy the missing \*.segment files"):
        await late.read(0, 1)
    shutil.copytree(tmp_path / "r1", tmp_path / "r2")
    await assert_whole(late)


async def test_segments_of_another_past_are_not_read(open_log: OpenLog, tmp_path: Path) -> None:
    """The log was set back to before what they hold, and went on otherwise."""
    lost = await opened(open_log, tmp_path / "lost")
    lease, _ = await filled(lost)
    await archive_all(lost)
    first = (await lost.read(0, MAX_COMMIT_BYTES))[:8]
    others = [*first, *((n, f"other {n}".encode()) for n in range(8, 30))]

    shutil.copytree(tmp_path / "lost", tmp_path / "now")
    now = ArchivedLog(await _another_store(tmp_path), ArchiveDirectory(tmp_path / "now"))
    await now.open(NONCE)
    lease = await now.campaign("b", TTL_S)
    await append_all(now, lease.mastership, await now.head(), [c for _, c in others])
    again = ArchivedLog(await _another_store(tmp_path), now.directory)
    await again.open(NONCE)
    assert again.archived_to == 8
    await archive_all(again)
    await trim_to(again, lease, 28)
    assert again.start == 28
    await assert_whole(again, others)


async def _another_store(tmp_path: Path) -> SqliteLog:
    """As the store was before it was set back, and went on: a second one, always SQLite."""
    log = SqliteLog(tmp_path / "set-back.db", "set back")
    await log.open(NONCE)
    return log


async def test_continuity_is_proven_below_the_start(open_log: OpenLog, tmp_path: Path) -> None:
    log = await opened(open_log, tmp_path)
    lease, _ = await filled(log)
    seen = Head(6, await log.hash_before(6), NONCE)
    await archive_all(log)
    await trim_to(log, lease, 20)
    assert await check_continuity(Witness(log.identity, seen), log) is Continuity.SAME
    other = Head(6, hash_after(seen.hash, b"other"), NONCE)
    assert await check_continuity(Witness(log.identity, other), log) is Continuity.REWOUND


async def test_commits_of_the_largest_size_are_archived(open_log: OpenLog, tmp_path: Path) -> None:
    log = await opened(open_log, tmp_path)
    lease = await log.campaign("a", TTL_S)
    large = [bytes([number]) * MAX_COMMIT_BYTES for number in range(9)]
    await append_all(log, lease.mastership, await log.head(), large)
    made = await archive_all(log)
    assert all(s.commit_bytes <= segment.SEGMENT_BYTES + MAX_COMMIT_BYTES for s in made)
    await trim_to(log, lease, 8)
    await assert_whole(log, list(enumerate(large)))
