"""The log port on SQLite, for a single replica or a machine where no etcd can be had.

Owns one database file, and the lock file beside it that stands for the mastership. Its blocking
calls run in one thread of its own, in order. Never waits for the lock while holding a
transaction.

The lock belongs to an open file: it ends with the process, however that dies, and has no time to
live. So a paused master stays master; there is no second machine that could take over anyway.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from controller.log import sqlite_file
from controller.log.errors import (
    CommitTooLarge,
    Fenced,
    HeadMoved,
    LogCorrupt,
    LogUnavailable,
    OutcomeUnknown,
    Trimmed,
)
from controller.log.port import (
    EMPTY_HASH,
    MAX_COMMIT_BYTES,
    CommitAt,
    Head,
    Mastership,
    Reclaimed,
    Space,
)
from controller.log.sqlite_file import DAMAGED, NOT_WRITTEN, Transaction, as_log_error, primary_code
from controller.log.sqlite_lease import SqliteMastershipLease
from controller.log.stored import (
    Chain,
    decode_head,
    encode_commit,
    encode_head,
    hash_before_in,
)

POLL_S = 0.2
"""For what another process has changed: a lock let go, a commit appended. Nobody tells us of
these."""
BUSY_TIMEOUT_S = 5.0
"""For another process's transaction: far longer than an append, and a backup does not block us."""
COMMIT_TRIES = 3
"""For a commit that the disk did not confirm: one hiccup passes, a full or broken disk does not."""
PAGE_BYTES = 4 * MAX_COMMIT_BYTES
"""What a page of the tail should come to: larger ones gain no throughput."""

T = TypeVar("T")


class SqliteLog:
    """One controller's log in one SQLite file.

    `fresh_identity` names the file if it is created here (a uuid).
    """

    def __init__(self, path: Path, fresh_identity: str) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._fresh_identity = fresh_identity
        self._identity: str | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-log")
        self._opened: sqlite3.Connection | None = None
        self._closed = False
        self._appended = asyncio.Event()
        self._leases: list[SqliteMastershipLease] = []

    @property
    def identity(self) -> str:
        """The file's uuid; known once opened."""
        if self._identity is None:
            raise LogUnavailable("the log is not open yet")
        return self._identity

    async def open(self, fresh_nonce: bytes) -> Head:
        """As Log.open."""
        return await self._run(lambda: self._open(Head(0, EMPTY_HASH, fresh_nonce)))

    async def close(self) -> None:
        """As Log.close. The lock goes with it, for this process will append no more."""
        for lease in self._leases:
            await lease.release()
        if self._opened is not None:
            await self._run(self._opened.close)
        self._opened = None
        self._closed = True
        self._thread.shutdown(wait=False)

    async def head(self) -> Head:
        """As Log.head."""
        return await self._run(self._head)

    async def append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        """As Log.append."""
        if len(commit) > MAX_COMMIT_BYTES:
            raise CommitTooLarge(
                f"a commit of {len(commit)} bytes exceeds {MAX_COMMIT_BYTES}; split it"
            )
        appended = await self._run(lambda: self._append(mastership, expected, commit))
        self._appended.set()
        self._appended = asyncio.Event()
        return appended

    async def read(self, first_offset: int, max_bytes: int) -> list[CommitAt]:
        """As Log.read."""
        return await self._run(lambda: self._read(Chain(first_offset), max_bytes))

    async def hash_before(self, offset: int) -> bytes:
        """As Log.hash_before."""
        return await self._run(lambda: self._hash_before(offset))

    async def start(self) -> Head:
        """As StoredLog.start."""
        return await self._run(self._start)

    async def trim(self, mastership: Mastership, expected: Head, start: Head) -> None:
        """As StoredLog.trim."""
        await self._run(lambda: self._trim(mastership, expected, start))

    async def reclaim(self) -> Reclaimed:
        """As StoredLog.reclaim: step by step, so that appends go on between."""
        before = await self.space()
        stalled_s = await self._run(lambda: sqlite_file.make_shrinkable(self._connection))
        while await self._run(lambda: sqlite_file.give_back_pages(self._connection)):
            pass
        await self._run(lambda: sqlite_file.cut_back_journal(self._connection))
        after = await self.space()
        return Reclaimed(max(0, before.file_bytes - after.file_bytes), stalled_s)

    async def space(self) -> Space:
        """As StoredLog.space."""
        return await self._run(lambda: sqlite_file.space(self._connection))

    async def note_archived(self, replica: str, offset: int) -> None:
        """As StoredLog.note_archived."""
        await self._run(lambda: self._note_archived(replica, offset))

    async def archived(self) -> dict[str, int]:
        """As StoredLog.archived."""
        query = "SELECT replica, log_offset FROM archived"
        return dict(await self._run(lambda: self._connection.execute(query).fetchall()))

    async def follow(self, first_offset: int) -> AsyncGenerator[list[CommitAt], None]:
        """As Log.follow."""
        chain = Chain(first_offset)
        while True:
            appended = self._appended
            commits: list[CommitAt] = []
            with suppress(LogUnavailable):
                commits = await self._run(lambda: self._read(chain, PAGE_BYTES))
            if commits:
                yield commits
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(appended.wait(), POLL_S)

    async def campaign(self, candidate: str, ttl_s: float) -> SqliteMastershipLease:
        """As Log.campaign; the time to live does not apply, for the lock ends with the process."""
        lock = await self._lock()
        try:
            token = await self._run(lambda: self._elect(candidate))
        except BaseException:
            os.close(lock)
            raise
        lease = SqliteMastershipLease(lock, Mastership(token))
        self._leases = [held for held in self._leases if held.valid] + [lease]
        return lease

    async def current_master(self) -> str | None:
        """As Log.current_master."""
        return await self._run(self._current_master)

    async def _run(self, work: Callable[[], T]) -> T:
        """Do blocking work in the log's own thread, after all that was given to it before."""

        def answer() -> T:
            try:
                return work()
            except sqlite3.Error as error:
                raise as_log_error(self._path, error) from error
            except OSError as error:
                raise LogUnavailable(f"{self._path}: {error}") from error

        if self._closed:
            raise LogUnavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, answer)

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise LogUnavailable(f"{self._path} is not open")
        return self._opened

    def _open(self, fresh: Head) -> Head:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite_file.connect(self._path, BUSY_TIMEOUT_S)
        try:
            self._identity = sqlite_file.create_or_check(
                connection, self._path, self._fresh_identity, encode_head(fresh)
            )
            self._opened = connection
            return self._head()
        except BaseException:
            self._opened = None
            connection.close()
            raise

    def _head(self) -> Head:
        return decode_head(self._connection.execute("SELECT head FROM log").fetchone()[0])

    def _append(self, mastership: Mastership, expected: Head, commit: bytes) -> Head:
        """Propose until the disk confirms; conditions let at most one of the proposals through."""
        appended = expected.after(commit)
        stored = encode_commit(expected.hash, commit)
        for attempt in range(1, COMMIT_TRIES + 1):
            try:
                self._propose(mastership, expected, appended, stored)
                return appended
            except sqlite3.Error as error:
                code = primary_code(error)
                if code in DAMAGED or (attempt == 1 and code in NOT_WRITTEN):
                    raise
                doubt = error
        raise OutcomeUnknown(f"{self._path}: the disk does not confirm a commit: {doubt}")

    def _propose(
        self, mastership: Mastership, expected: Head, appended: Head, stored: bytes
    ) -> None:
        connection = self._connection
        with Transaction(connection):
            token, head_bytes = connection.execute("SELECT token, head FROM log").fetchone()
            head = decode_head(head_bytes)
            if head != expected and self._stored(expected.next_offset) == stored:
                return
            if token != mastership.token:
                raise Fenced(f"mastership {mastership.token} has ended; {token} is the last one")
            if head.nonce != expected.nonce:
                raise LogCorrupt("this is another log than the one opened: its nonce differs")
            if head != expected:
                raise HeadMoved(f"the log ends at {head.next_offset}, not {expected.next_offset}")
            connection.execute("INSERT INTO commits VALUES (?, ?)", (expected.next_offset, stored))
            connection.execute("UPDATE log SET head = ?", (encode_head(appended),))

    def _stored(self, offset: int) -> bytes | None:
        row = self._connection.execute(
            "SELECT stored FROM commits WHERE log_offset = ?", (offset,)
        ).fetchone()
        return row[0] if row else None

    def _read(self, chain: Chain, max_bytes: int) -> list[CommitAt]:
        commits: list[CommitAt] = []
        left = max_bytes
        rows = self._connection.execute(
            "SELECT log_offset, stored FROM commits WHERE log_offset >= ? ORDER BY log_offset",
            (chain.next_offset,),
        )
        with closing(rows):
            for offset, stored in rows:
                if commits and len(stored) > left:
                    break
                if not commits and offset != chain.next_offset:
                    self._refuse_trimmed(chain.next_offset)
                commits.append(chain.take(offset, stored))
                left -= len(stored)
        if not commits:
            self._refuse_trimmed(chain.next_offset)
        return commits

    def _refuse_trimmed(self, offset: int) -> None:
        start = self._start().next_offset
        if offset < start:
            raise Trimmed(start)

    def _start(self) -> Head:
        head, start = self._connection.execute("SELECT head, start FROM log").fetchone()
        return decode_head(start) if start else Head(0, EMPTY_HASH, decode_head(head).nonce)

    def _trim(self, mastership: Mastership, expected: Head, start: Head) -> None:
        connection = self._connection
        with Transaction(connection):
            found = self._start()
            if found == start:
                return
            (token,) = connection.execute("SELECT token FROM log").fetchone()
            if token != mastership.token:
                raise Fenced(f"mastership {mastership.token} has ended; {token} is the last one")
            if found != expected:
                raise HeadMoved(
                    f"the log starts at {found.next_offset}, not at {expected.next_offset}"
                )
            connection.execute("UPDATE log SET start = ?", (encode_head(start),))
            connection.execute("DELETE FROM commits WHERE log_offset < ?", (start.next_offset,))

    def _note_archived(self, replica: str, offset: int) -> None:
        with Transaction(self._connection):
            self._connection.execute(
                "INSERT OR REPLACE INTO archived VALUES (?, ?)", (replica, offset)
            )

    def _hash_before(self, offset: int) -> bytes:
        stored = self._stored(offset)
        if stored is not None:
            return hash_before_in(stored)
        head = self._head()
        if offset == head.next_offset:
            return head.hash
        if offset > head.next_offset:
            raise IndexError(f"the log ends at {head.next_offset}, before {offset}")
        self._refuse_trimmed(offset)
        raise LogCorrupt(f"commit {offset} is missing")

    async def _lock(self) -> int:
        while True:
            lock = await self._run(lambda: self._try_lock(fcntl.LOCK_EX))
            if lock is not None:
                return lock
            await asyncio.sleep(POLL_S)

    def _try_lock(self, kind: int) -> int | None:
        """An open file with the lock, None if another holds one in its way."""
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _elect(self, candidate: str) -> int:
        with Transaction(self._connection):
            self._connection.execute(
                "UPDATE log SET token = token + 1, candidate = ?", (candidate,)
            )
            token: int = self._connection.execute("SELECT token FROM log").fetchone()[0]
            return token

    def _current_master(self) -> str | None:
        free = self._try_lock(fcntl.LOCK_SH)
        if free is not None:
            os.close(free)
            return None
        candidate: str = self._connection.execute("SELECT candidate FROM log").fetchone()[0]
        return candidate
