"""The state directory: all that an agent keeps across restarts.

Owns the directory, its lock, its SQLite file and the schema. Knows tables, not meanings: identity, backlog and
ledger each speak for their own rows, keyed by node, so that many simulated nodes share one file.

    DIR/lock                      held while an agent runs
    DIR/agent.db                  identity, key, fence, backlog, ledger (SQLite, WAL, synchronous=FULL)
    DIR/attestation.key           key that signs what the node measures, made when it is first needed
    DIR/config/NAME.json          configuration documents (DIR/nodes/NODE/config/ for a simulated node)
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodeagent.errors import StateDirUnusable, StateUnavailable

SCHEMA_VERSION = 3

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for a reader such as `souverix-node status`; readers are done in milliseconds."""

MIN_FREE_BYTES = 1024 * 1024
"""Free space in the file that is given back to the system; less of it is soon used again."""

_INCREMENTAL = 2
"""auto_vacuum, as SQLite numbers it: a file can shrink without being written anew."""

_SCHEMA = """
CREATE TABLE node (
    node             TEXT PRIMARY KEY,
    source           TEXT NOT NULL,
    private_key      BLOB,
    domain           TEXT NOT NULL DEFAULT '',
    fence            BLOB,
    frames_refused   INTEGER NOT NULL DEFAULT 0,
    acknowledged     INTEGER NOT NULL DEFAULT 0,
    numbered         INTEGER NOT NULL DEFAULT 0,
    superseded       INTEGER NOT NULL DEFAULT 0,
    inventory_digest BLOB,
    config_name      TEXT,
    config_time_us   INTEGER,
    policy_bundle    TEXT,
    policy_version   TEXT
) WITHOUT ROWID;

CREATE TABLE report (
    entry    INTEGER PRIMARY KEY AUTOINCREMENT,
    node     TEXT NOT NULL,
    sequence INTEGER,
    kind     TEXT NOT NULL,
    body     BLOB NOT NULL
);
CREATE INDEX report_by_sequence ON report (node, sequence);

CREATE TABLE chunk (
    digest TEXT PRIMARY KEY,
    data   BLOB NOT NULL
);
CREATE TABLE report_chunk (
    entry  INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (digest, entry)
) WITHOUT ROWID;
CREATE INDEX report_chunk_by_entry ON report_chunk (entry);

CREATE TABLE command (
    entry        INTEGER PRIMARY KEY AUTOINCREMENT,
    node         TEXT NOT NULL,
    command_id   TEXT NOT NULL,
    state        TEXT NOT NULL,
    at_most_once INTEGER NOT NULL,
    action       BLOB,
    receive_us   INTEGER NOT NULL,
    expire_us    INTEGER NOT NULL,
    result       BLOB,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    UNIQUE (node, command_id)
);
CREATE INDEX command_by_state ON command (node, state, acknowledged);
"""

Row = sqlite3.Row

_FROM_VERSION_1 = "ALTER TABLE node ADD COLUMN private_key BLOB; PRAGMA user_version = 2;"
"""Agents had no key before: the first start makes one."""

_FROM_VERSION_2 = """
ALTER TABLE node ADD COLUMN policy_bundle TEXT;
ALTER TABLE node ADD COLUMN policy_version TEXT;
PRAGMA user_version = 3;
"""
"""Agents were told of no policy before."""


class Database:
    """One SQLite connection. Raises StateUnavailable when the file cannot be read or written now."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.row_factory = sqlite3.Row
        self._in_transaction = False

    def rows(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query."""
        with _storage_failures():
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Row | None:
        """The first row of a query, or None."""
        with _storage_failures():
            first: Row | None = self._connection.execute(sql, values).fetchone()
            return first

    def number(self, sql: str, *values: object) -> int:
        """The one number a query gives; 0 where it gives none."""
        row = self.row(sql, *values)
        return int(row[0]) if row is not None and row[0] is not None else 0

    def write(self, sql: str, *values: object) -> int:
        """Change rows; return how many. On its own it is durable on return; in a transaction, at its end."""
        with _storage_failures():
            return self._connection.execute(sql, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes within happen together, durable on leaving, or not at all. Joins an outer transaction."""
        if self._in_transaction:
            yield
            return
        with _storage_failures():
            self._connection.execute("BEGIN IMMEDIATE")
        self._in_transaction = True
        try:
            yield
            with _storage_failures():
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._in_transaction = False

    def give_back(self) -> None:
        """Make the file smaller if much of it is free: after a long backlog, say, which bounds the time it takes.

        A file of an earlier release is written anew for it, once.
        """
        page_bytes = self.number("PRAGMA page_size")
        if (
            self._in_transaction
            or self.number("PRAGMA freelist_count") * page_bytes < MIN_FREE_BYTES
        ):
            return
        if self.number("PRAGMA auto_vacuum") == _INCREMENTAL:
            with _storage_failures():
                # As a script: `execute` takes one step of a statement without columns, which is one page.
                self._connection.executescript("PRAGMA incremental_vacuum")
        else:
            self.write(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            self.write("VACUUM")
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


class StateDir:
    """An open state directory, held against other agents."""

    def __init__(self, path: Path, database: Database, lock_fd: int) -> None:
        self.path = path
        self.database = database
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path) -> StateDir:
        """Open `path`, making it first if need be. Raises StateDirUnusable."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirUnusable(
                f"cannot use {path} as state directory: {error.strerror}; name another with --state-dir"
            ) from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock_fd)
            raise StateDirUnusable(
                f"{path} is in use by another agent; stop that one, or name another --state-dir"
            ) from error
        try:
            database = Database(_connect(path / "agent.db"))
        except (sqlite3.Error, StateDirUnusable) as error:
            os.close(lock_fd)
            if isinstance(error, StateDirUnusable):
                raise
            raise StateDirUnusable(
                f"{path / 'agent.db'} cannot be opened ({error}); move it away to begin anew, which gives up its "
                "unsent reports and its ledger"
            ) from error
        return cls(path, database, lock_fd)

    def nodes(self) -> list[str]:
        """The ids of the nodes whose state is kept here."""
        return [row["node"] for row in self.database.rows("SELECT node FROM node ORDER BY node")]

    def close(self) -> None:
        """Let go of files and lock."""
        self.database.close()
        os.close(self._lock_fd)


def open_to_read(path: Path) -> Database:
    """The database of a state directory for reading, also while an agent runs. Raises StateDirUnusable."""
    file = path / "agent.db"
    if not file.exists():
        raise StateDirUnusable(f"{path} is not a state directory: it holds no agent.db")
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    connection.execute("PRAGMA query_only = ON")
    _check_version(connection, file)
    return Database(connection)


def in_memory() -> Database:
    """A database that is gone with the process, for made-up nodes."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_SCHEMA)
    return Database(connection)


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    file.chmod(0o600)
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    if connection.execute("PRAGMA user_version").fetchone()[0] == 1:
        connection.executescript(f"BEGIN IMMEDIATE; {_FROM_VERSION_1} COMMIT;")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 2:
        connection.executescript(f"BEGIN IMMEDIATE; {_FROM_VERSION_2} COMMIT;")
    _check_version(connection, file)
    return connection


def _check_version(connection: sqlite3.Connection, file: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != SCHEMA_VERSION:
        connection.close()
        raise StateDirUnusable(
            f"{file} has schema version {found}, this agent knows {SCHEMA_VERSION}: run the agent that wrote it, "
            "or name another --state-dir"
        )


@contextmanager
def _storage_failures() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailable(f"the state directory cannot be used now: {error}") from error
