"""What the SQLite log does beyond the contract of all logs."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from controller.log.errors import LogCorrupt, LogRefused, LogUnavailable, OutcomeUnknown
from controller.log.port import Head, Mastership
from controller.log.sqlite_log import SqliteLog
from tests.processes import ProcessStarter

NONCE = bytes(range(16))
PATIENCE_S = 20.0

HOLD_THE_LOCK = """
import asyncio, pathlib, sys
from controller.log.sqlite_log import SqliteLog

async def main():
    log = SqliteLog(pathlib.Path(sys.argv[1]), "uuid")
    await log.open(bytes(16))
    lease = await log.campaign("doomed", 5)
    await log.append(lease.mastership, await log.head(), b"by the doomed master")
    print("master", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log.db", "uuid-1")
    await opened.open(NONCE)
    yield opened
    await opened.close()


async def test_the_identity_is_that_of_the_creation(log: SqliteLog, tmp_path: Path) -> None:
    again = SqliteLog(tmp_path / "log.db", "uuid-2")
    await again.open(bytes(16))
    assert again.identity == log.identity == "uuid-1"
    await again.close()


async def test_each_commit_is_synced_before_it_is_acknowledged(
    log: SqliteLog, tmp_path: Path
) -> None:
    def pragma(name: str) -> object:
        return log._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert await log._run(lambda: pragma("journal_mode")) == "wal"
    full = 2
    assert await log._run(lambda: pragma("synchronous")) == full


async def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    log = SqliteLog(tmp_path / "log.db", "uuid")
    with pytest.raises(LogRefused, match="has format 99"):
        await log.open(NONCE)
    await log.close()


async def test_a_file_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database, and long enough to be sure" * 100)
    log = SqliteLog(tmp_path / "log.db", "uuid")
    with pytest.raises(LogCorrupt, match="restore it"):
        await log.open(NONCE)
    await log.close()


async def test_calls_before_opening_and_after_closing_are_refused(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", "uuid")
    with pytest.raises(LogUnavailable, match="not open"):
        await log.head()
    await log.open(NONCE)
    await log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        await log.head()


async def test_the_mastership_of_a_killed_process_is_free_at_once(
    start_process: ProcessStarter, tmp_path: Path
) -> None:
    path = tmp_path / "shared.db"
    doomed = start_process(
        "doomed",
        [sys.executable, "-c", HOLD_THE_LOCK, path],
        cwd=Path(__file__).parents[4],
    )
    await asyncio.to_thread(doomed.wait_for_log, "master")
    log = SqliteLog(path, "uuid")
    await log.open(NONCE)
    assert await log.current_master() == "doomed"
    doomed.kill()
    assert await log.current_master() is None
    async with asyncio.timeout(PATIENCE_S):
        lease = await log.campaign("heir", 5)
    head = await log.append(lease.mastership, await log.head(), b"by the heir")
    assert head.next_offset == 2
    await log.close()


FailingCommit = Callable[[int], None]


@pytest.fixture
def fail_commits(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> FailingCommit:
    """Makes the next proposals end as if the disk had failed at their commit, after writing."""

    def arrange(times: int) -> None:
        propose = log._propose
        left = iter(range(times))

        def failing(mastership: Mastership, expected: Head, appended: Head, stored: bytes) -> None:
            propose(mastership, expected, appended, stored)
            if next(left, None) is not None:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error

        monkeypatch.setattr(log, "_propose", failing)

    return arrange


async def test_a_commit_that_the_disk_did_not_confirm_is_found_to_stand_once(
    log: SqliteLog, fail_commits: FailingCommit
) -> None:
    lease = await log.campaign("a", 5)
    fail_commits(1)
    head = await log.append(lease.mastership, await log.head(), b"one")
    assert await log.head() == head
    assert await log.read(0, 100) == [(0, b"one")]


async def test_a_disk_that_never_confirms_leaves_the_outcome_unknown(
    log: SqliteLog, fail_commits: FailingCommit
) -> None:
    lease = await log.campaign("a", 5)
    fail_commits(1000)
    with pytest.raises(OutcomeUnknown, match="disk I/O error"):
        await log.append(lease.mastership, await log.head(), b"one")


async def test_a_path_that_cannot_be_a_database_is_told_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path, "uuid")
    with pytest.raises(LogRefused, match="owner and permissions"):
        await log.open(NONCE)
    await log.close()
