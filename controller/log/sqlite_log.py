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

from controller.log.errors import (
    CommitTooLarge,
    Fenced,
    HeadMoved,
    LogCorrupt,
    LogRefused,
    LogUnavailable,
    OutcomeUnknown,
)
from controller.log.port import (
    EMPTY_HASH,
    MAX_COMMIT_BYTES,
    CommitAt,
    Head,
    Mastership,
)
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

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL,
    head BLOB NOT NULL,
    token INTEGER NOT NULL,
    candidate TEXT NOT NULL
) STRICT;
CREATE TABLE commits (
    log_offset INTEGER PRIMARY KEY,
    stored BLOB NOT NULL
) STRICT;
"""
# Nothing was written when SQLite answers so, whatever the statement was.
_NOT_WRITTEN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF

T = TypeVar("T")


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
                raise _as_log_error(self._path, error) from error
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
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._opened = connection
            self._identity = self._create_or_check(connection, fresh)
            return self._head()
        except BaseException:
            self._opened = None
            connection.close()
            raise

    def _create_or_check(self, connection: sqlite3.Connection, fresh: Head) -> str:
        with _Transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO log VALUES (1, ?, ?, 0, '')",
                    (self._fresh_identity, encode_head(fresh)),
                )
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                raise LogRefused(
                    f"{self._path} has format {version}, this release writes {_SCHEMA_VERSION}; "
                    "use the release that wrote it"
                )
            identity: str = connection.execute("SELECT identity FROM log").fetchone()[0]
            return identity

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
                code = _primary_code(error)
                if code in _DAMAGED or (attempt == 1 and code in _NOT_WRITTEN):
                    raise
                doubt = error
        raise OutcomeUnknown(f"{self._path}: the disk does not confirm a commit: {doubt}")

    def _propose(
        self, mastership: Mastership, expected: Head, appended: Head, stored: bytes
    ) -> None:
        connection = self._connection
        with _Transaction(connection):
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
                commits.append(chain.take(offset, stored))
                left -= len(stored)
        return commits

    def _hash_before(self, offset: int) -> bytes:
        stored = self._stored(offset)
        if stored is not None:
            return hash_before_in(stored)
        head = self._head()
        if offset == head.next_offset:
            return head.hash
        if offset > head.next_offset:
            raise IndexError(f"the log ends at {head.next_offset}, before {offset}")
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
        with _Transaction(self._connection):
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


class _Transaction:
    """A write transaction: committed at the end of the block, rolled back if it or the commit
    fails.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & _PRIMARY_CODE


def _as_log_error(path: Path, error: sqlite3.Error) -> LogCorrupt | LogRefused | LogUnavailable:
    code = _primary_code(error)
    if code in _DAMAGED:
        return LogCorrupt(f"{path}: {error}; restore it from a backup or a peer")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}:
        return LogRefused(f"{path}: {error}; check its owner and permissions")
    return LogUnavailable(f"{path}: {error}")
