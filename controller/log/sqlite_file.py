"""The SQLite file of a log as a file: its schema, its size, what SQLite's errors mean. Owns these; never
knows a commit.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from controller.log.errors import LogCorrupt, LogRefused, LogUnavailable
from controller.log.port import Space

VACUUM_PAGES = 2_000
"""Free pages given back in one step, some 8 MiB: an append waits for one step at most."""
MAX_REWRITTEN_BYTES = 384 * 1024 * 1024
"""Most that may be in use for a file of an earlier release to be rewritten, once, so that it can
shrink by steps: a second or two, in which appends wait."""

_SCHEMA_VERSION = 2
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
# The place in the chain from which on the file holds the log; NULL: from the first commit.
_TRIMMING = """
ALTER TABLE log ADD COLUMN start BLOB;
CREATE TABLE archived (replica TEXT PRIMARY KEY, log_offset INTEGER NOT NULL) STRICT;
"""
_UPDATES = {0: _SCHEMA + _TRIMMING, 1: _TRIMMING, _SCHEMA_VERSION: ""}
# In SQLite's numbering; it takes effect in a new file, or when the file is rewritten.
_INCREMENTAL = 2
# Nothing was written when SQLite answers so, whatever the statement was.
NOT_WRITTEN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }
)
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF


class Transaction:
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


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection whose commits are durable when they are confirmed. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
    try:
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def create_or_check(
    connection: sqlite3.Connection, path: Path, fresh_identity: str, fresh_head: bytes
) -> str:
    """Make the tables, or bring those of an earlier release up to date; the file's identity.

    Raises LogRefused for a file of a later release, sqlite3.Error.
    """
    with Transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in _UPDATES:
            raise LogRefused(
                f"{path} has format {version}, this release writes {_SCHEMA_VERSION}; "
                "use the release that wrote it"
            )
        for statement in _UPDATES[version].split(";"):
            connection.execute(statement)
        if version == 0:
            connection.execute(
                "INSERT INTO log VALUES (1, ?, ?, 0, '', NULL)", (fresh_identity, fresh_head)
            )
        if version != _SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        identity: str = connection.execute("SELECT identity FROM log").fetchone()[0]
        return identity


def space(connection: sqlite3.Connection) -> Space:
    """Size of the file, and what of it is free."""
    page_bytes, pages, free = (
        connection.execute(f"PRAGMA {what}").fetchone()[0]
        for what in ("page_size", "page_count", "freelist_count")
    )
    return Space(page_bytes * pages, page_bytes * free)


def make_shrinkable(connection: sqlite3.Connection) -> float:
    """Rewrite a file that an earlier release made, unless too much is in use; how long it took, in
    seconds.
    """
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    held = space(connection)
    if mode == _INCREMENTAL or held.file_bytes - held.free_bytes > MAX_REWRITTEN_BYTES:
        return 0.0
    began_s = time.monotonic()
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    connection.execute("VACUUM")
    return time.monotonic() - began_s


def give_back_pages(connection: sqlite3.Connection) -> bool:
    """Give back some free pages; tells whether that did anything and more are left."""
    before = space(connection).free_bytes
    if before:
        # As a script: `execute` takes one step of a statement without columns, which is one page.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    return 0 < space(connection).free_bytes < before


def cut_back_journal(connection: sqlite3.Connection) -> None:
    """Have the file take what its write-ahead log holds, and that be empty."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without what it adds to it."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & _PRIMARY_CODE


def as_log_error(path: Path, error: sqlite3.Error) -> LogCorrupt | LogRefused | LogUnavailable:
    """What an error of SQLite means at the log port."""
    code = primary_code(error)
    if code in DAMAGED:
        return LogCorrupt(f"{path}: {error}; restore it from a backup or a peer")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN}:
        return LogRefused(f"{path}: {error}; check its owner and permissions")
    return LogUnavailable(f"{path}: {error}")
