"""What a relay keeps on disk: who it is, how each node was last welcomed, and the reports it took while its controller
could not be reached.

Owns the SQLite file, its schema and its bounds. Of each node one batch is kept, as its agent signed it, until the
controller has it, or for 30 days. Must never tell anybody that a report arrived.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import StateDirUnusable
from nodeagent.statedir import BUSY_TIMEOUT_S, Database
from souverix.nodelink.v1 import nodelink_pb2

SCHEMA_VERSION = 2

MAX_KEPT_BYTES = 256 * 1024 * 1024
"""Bytes of reports kept: a day of a thousand nodes' reports, and no threat to a small disk."""

MAX_KEPT_AGE_S = 30 * 86_400
"""How long a report is kept that the controller does not take, as of a node that was deleted meanwhile."""

MAX_WELCOMES = 100_000
"""Nodes whose last welcome is remembered: five times what a relay carries at once."""

_KEPT = """
CREATE TABLE kept (
    node    TEXT NOT NULL,
    source  TEXT NOT NULL,
    last    INTEGER NOT NULL,
    reports INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    batch   BLOB NOT NULL,
    PRIMARY KEY (node, source)
) WITHOUT ROWID;
"""

_SCHEMA = f"""
CREATE TABLE relay (relay TEXT NOT NULL, source TEXT NOT NULL);
CREATE TABLE welcome (
    node    TEXT PRIMARY KEY,
    source  TEXT NOT NULL,
    welcome BLOB NOT NULL
) WITHOUT ROWID;
{_KEPT}"""

#: Reports that an earlier version kept are signed by nobody, and nobody takes them; their agents have them still.
_FROM_1 = f"DROP TABLE kept; {_KEPT}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch of the store. `source` numbers its reports; `time_us` is when the relay took it."""

    node: str
    source: str
    time_us: int
    batch: nodelink_pb2.ReplayChunk

    @property
    def last(self) -> int:
        """Number of its last report."""
        return int(self.batch.first_sequence) + len(self.batch.reports) - 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """How a node was welcomed: the frame as the controller sent it, to an agent of this source."""

    source: str
    frame: nodelink_pb2.ConnectResponse


class RelayStore:
    """The store of one relay. Every method raises StateUnavailable when the disk refuses."""

    def __init__(
        self, database: Database, relay: str, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        self._database = database
        self._max_kept_bytes = max_kept_bytes
        row = database.row("SELECT relay, source FROM relay")
        if row is None:
            self.source = secrets.token_hex(16)
            database.write("INSERT INTO relay VALUES (?, ?)", relay, self.source)
        elif row["relay"] != relay:
            raise StateDirUnusable(
                f"the state directory belongs to relay {row['relay']}, not to {relay}; name another --state-dir"
            )
        else:
            self.source = row["source"]
        self.kept_reports = self.kept_bytes = 0
        self._count()

    @property
    def is_full(self) -> bool:
        """Tells whether no further report is kept."""
        return self.kept_bytes >= self._max_kept_bytes

    def oldest_us(self) -> int | None:
        """When the oldest batch was taken; None when none is kept."""
        row = self._database.row("SELECT MIN(time_us) FROM kept")
        return row[0] if row is not None else None

    def remember(self, welcomes: Iterable[tuple[str, Remembered]]) -> None:
        """Keeps how nodes were welcomed, instead of how they were before."""
        with self._database.transaction():
            for node, welcome in welcomes:
                self._database.write(
                    "INSERT INTO welcome VALUES (?, ?, ?) ON CONFLICT (node) DO UPDATE SET "
                    "source = excluded.source, welcome = excluded.welcome",
                    node,
                    welcome.source,
                    welcome.frame.SerializeToString(),
                )
            more = self._database.number("SELECT COUNT(*) FROM welcome") - MAX_WELCOMES
            if more > 0:
                self._database.write(
                    "DELETE FROM welcome WHERE node IN (SELECT node FROM welcome LIMIT ?)", more
                )

    def welcome_of(self, node: str) -> Remembered | None:
        """How a node was last welcomed; None when it never was."""
        row = self._database.row("SELECT source, welcome FROM welcome WHERE node = ?", node)
        if row is None:
            return None
        return Remembered(row["source"], nodelink_pb2.ConnectResponse.FromString(row["welcome"]))

    def keep(self, batches: Iterable[Kept]) -> None:
        """Keeps batches, durable on return, as far as there is room. A later batch of an agent begins at what its
        controller lacks, and so stands for an earlier one, unless it ends before it.
        """
        with self._database.transaction():
            for kept in batches:
                if self.is_full:
                    break
                raw = kept.batch.SerializeToString()
                self.kept_bytes += len(raw) * self._database.write(
                    "INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last, "
                    "reports = excluded.reports, time_us = excluded.time_us, batch = excluded.batch "
                    "WHERE excluded.last > last",
                    kept.node,
                    kept.source,
                    kept.last,
                    len(kept.batch.reports),
                    kept.time_us,
                    raw,
                )
        self._count()

    def kept_for(self) -> list[tuple[str, str]]:
        """Node and source of all that is kept, the longest kept first."""
        rows = self._database.rows("SELECT node, source FROM kept ORDER BY time_us")
        return [(row["node"], row["source"]) for row in rows]

    def batch_of(self, node: str, source: str) -> nodelink_pb2.ReplayChunk | None:
        """The batch that is kept of an agent; None when none is."""
        row = self._database.row(
            "SELECT batch FROM kept WHERE node = ? AND source = ?", node, source
        )
        return None if row is None else nodelink_pb2.ReplayChunk.FromString(row["batch"])

    def arrived(self, node: str, source: str, sequence: int) -> None:
        """The controller has all reports up to `sequence`: forget the batch, if that is all of it."""
        self._database.write(
            "DELETE FROM kept WHERE node = ? AND source = ? AND last <= ?", node, source, sequence
        )
        self._count()

    def expire(self, now_us: int) -> int:
        """Forgets what nobody took for too long; how many batches."""
        gone = self._database.write(
            "DELETE FROM kept WHERE time_us < ?", now_us - MAX_KEPT_AGE_S * 1_000_000
        )
        if gone:
            self._count()
        return gone

    def _count(self) -> None:
        self.kept_reports = self._database.number("SELECT SUM(reports) FROM kept")
        self.kept_bytes = self._database.number("SELECT SUM(LENGTH(batch)) FROM kept")


def open_database(path: Path) -> Database:
    """The file of a relay's store, made if missing. Raises StateDirUnusable."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found in (0, 1):
            change = _SCHEMA if found == 0 else _FROM_1
            connection.executescript(
                f"BEGIN IMMEDIATE; {change} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
    except (sqlite3.Error, OSError) as error:
        raise StateDirUnusable(f"{path} cannot be opened: {error}") from error
    if found not in range(SCHEMA_VERSION + 1):
        connection.close()
        raise StateDirUnusable(
            f"{path} has schema version {found}, this relay knows {SCHEMA_VERSION}: run the relay that wrote it"
        )
    return Database(connection)
