"""The store's file: SQLite beside the controller. Owns its schema and its blocking reads and writes; never decides when
something is written, and never runs on the event loop but for single rows.

One row a domain and subject. What a batch brings, the offset it was cut at and the core's checkpoint are one
transaction, so that the file is right whenever the process dies. `synchronous = NORMAL`: a loss of power may take the
last batches, never a part of one; the log has them all.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from controller.store.compression import MAX_SAMPLES, MIN_SAMPLES, Compression, dictionary_of
from controller.store.errors import StoreInUse
from controller.twin.history import Transitions, newest
from controller.twin.marks import mark_of
from federation.checkpoint import Parts
from federation.codec import EventDecoder, Write
from federation.stored_writes import pack_aspects, pack_history, unpack_history
from federation.table import Aspects

#: Of the tables below, and of what their blobs and marks mean.
SCHEMA_VERSION = 2

#: Kinds of subjects that need not be in memory: those there may be a million of.
COOLED_KINDS = frozenset({"nodes"})

#: Pages of 8 KiB hold ten rows of nodes with little waste.
PAGE_BYTES = 8192

#: Cache of each of the two connections; the operating system's holds the rest.
CACHE_KIB = 16 * 1024

#: Longest wait for a lock of the file; only a backup by hand would take one.
BUSY_TIMEOUT_S = 5.0

#: Size to which the write-ahead log is cut back after a large batch.
JOURNAL_BYTES = 64 * 1024 * 1024

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE parts (name TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY,
    domain INTEGER NOT NULL,
    subject TEXT NOT NULL,
    pinned INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    link BLOB,
    aspects BLOB NOT NULL,
    history BLOB,
    UNIQUE (domain, subject)
) STRICT;
CREATE TABLE summaries (subject INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
"""

_PUT_SUBJECT = """
INSERT INTO subjects (domain, subject, pinned, mark, link, aspects) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (domain, subject) DO UPDATE SET pinned = excluded.pinned, mark = excluded.mark,
    link = excluded.link, aspects = excluded.aspects
"""

_DROP_SUMMARY = """
DELETE FROM summaries WHERE subject = (SELECT id FROM subjects WHERE domain = ? AND subject = ?)
"""

#: Summaries put by one statement: each statement lets go of the interpreter's lock, and a busy event loop gives it back
#: milliseconds later.
SUMMARIES_AT_ONCE = 500


def _put_summaries(count: int) -> str:
    """The statement that puts so many summaries: domain, subject and bytes of each."""
    return (
        "INSERT OR REPLACE INTO summaries SELECT id, column3"  # noqa: S608
        f" FROM (VALUES {', '.join(['(?, ?, ?)'] * count)})"
        " JOIN subjects ON domain = column1 AND subject = column2 WHERE NOT pinned"
    )


class Grounds(NamedTuple):
    """What a store rests on; it is good for nothing else."""

    #: Of the log.
    nonce: bytes
    controller: str
    root_key: str
    #: Names the release's meaning of events.
    meaning: str


class Cut(NamedTuple):
    """A place between two commits."""

    next_offset: int
    log_hash: bytes


#: What is to be written of one subject: domain, subject, what stands of it.
SubjectRow = tuple[str, str, Aspects]

#: What was made of subjects beside their aspects, when it is asked for: domain, subject, summary.
Summaries = Callable[[], Iterator[tuple[str, str, bytes]]]


class Batch(NamedTuple):
    """What one transaction writes."""

    cut: Cut
    rows: Sequence[SubjectRow]
    histories: Transitions
    parts: Parts
    #: Of subjects as they stand once `rows` are written.
    summaries: Summaries


class IndexRow(NamedTuple):
    """What is read of every subject at a start."""

    id: int
    domain: str
    subject: str
    mark: int
    #: All that stands of it, packed; None for a subject that stays cold.
    aspects: bytes | None


class StoreFile:
    """The file, once opened. `write` and the reads of pages are for a worker thread, single rows for the loop's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._writing = Compression()
        self._reading = Compression()
        self._domains: dict[str, int] = {}
        self._decoder = EventDecoder()

    @property
    def _distrusted(self) -> Path:
        """Its being there says that the file was found damaged."""
        return self._path.with_name(self._path.name + ".damaged")

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    def open(self, grounds: Grounds) -> Cut | None:
        """Opens the file; returns where it was cut, None when it is new or rests on other grounds and was begun anew.

        Raises `StoreInUse`, `sqlite3.Error`.
        """
        self._take_lock()
        cut = None
        try:
            cut = self._connect(grounds)
        except sqlite3.DatabaseError:
            cut = None
        if cut is None:
            self.discard()
            self._create(grounds)
        return cut

    def discard(self) -> None:
        """Drops the file and all that is in it."""
        self._disconnect()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._distrusted.unlink(missing_ok=True)

    def begin_anew(self, grounds: Grounds) -> None:
        """Drops all that is in the file and goes on with an empty one."""
        self.discard()
        self._create(grounds)

    def distrust(self) -> None:
        """Has the next start discard the file."""
        self._distrusted.touch()

    def close(self) -> None:
        """Lets go of the file."""
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Reading.

    def load(self, domain: str, subject: str) -> tuple[bytes, int]:
        """What stands of a subject, packed, and its mark. Raises `KeyError`, `sqlite3.Error`, `ValueError`."""
        row = self._one("aspects, mark", domain, subject)
        if row is None:
            raise KeyError(f"{subject} of {domain}")
        return self._reading.unpack(row[0]), row[1]

    def history(self, domain: str, subject: str) -> bytes | None:
        """Its transitions, packed; None when there are none. Raises `sqlite3.Error`, `ValueError`."""
        row = self._one("history", domain, subject)
        return self._reading.unpack(row[0]) if row is not None and row[0] is not None else None

    def _one(self, columns: str, domain: str, subject: str) -> Any:
        assert self._reader is not None  # noqa: S101
        return self._reader.execute(
            f"SELECT {columns} FROM subjects WHERE domain = ? AND subject = ?",  # noqa: S608
            (self._domains.get(domain, -1), subject),
        ).fetchone()

    def parts(self) -> dict[str, bytes]:
        """All parts of the checkpoint."""
        rows = self._write_connection.execute("SELECT name, data FROM parts")
        return {name: self._writing.unpack(data) for name, data in rows}

    def index(self, after_id: int, limit: int) -> list[IndexRow]:
        """Subjects in the order in which they were first met."""
        names = {number: name for name, number in self._domains.items()}
        rows = self._write_connection.execute(
            "SELECT id, domain, subject, mark, CASE WHEN pinned THEN aspects END FROM subjects WHERE id > ?"
            " ORDER BY id LIMIT ?",
            (after_id, limit),
        )
        return [
            IndexRow(
                number,
                names[domain],
                subject,
                mark,
                self._writing.unpack(aspects) if aspects is not None else None,
            )
            for number, domain, subject, mark, aspects in rows
        ]

    def links(self, after_id: int, limit: int) -> list[tuple[int, str, str, bytes | None]]:
        """The events of links of subjects that need not be in memory, with id, domain, subject."""
        return self._page(
            "SELECT id, domain, subject, link FROM subjects WHERE id > ? AND NOT pinned"
            " ORDER BY id LIMIT ?",
            after_id,
            limit,
        )

    def summaries(self, after_id: int, limit: int) -> list[tuple[int, str, str, bytes | None]]:
        """The summaries of all subjects, None where there is none, with id, domain, subject."""
        return self._page(
            "SELECT id, domain, subjects.subject, data FROM subjects"
            " LEFT JOIN summaries ON summaries.subject = id WHERE id > ? ORDER BY id LIMIT ?",
            after_id,
            limit,
        )

    def _page(
        self, query: str, after_id: int, limit: int
    ) -> list[tuple[int, str, str, bytes | None]]:
        names = {number: name for name, number in self._domains.items()}
        rows = self._write_connection.execute(query, (after_id, limit))
        return [(number, names[domain], subject, data) for number, domain, subject, data in rows]

    def expect_summaries(self, form: str) -> None:
        """Drops all summaries, unless they were stored under the same name of their form."""
        connection = self._write_connection
        held = connection.execute("SELECT value FROM meta WHERE name = 'summaries'").fetchone()
        if held != (form.encode(),):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM summaries")
            self._put_meta(summaries=form.encode())
            connection.execute("COMMIT")

    # Writing.

    def write(self, batch: Batch) -> dict[tuple[str, str], int]:
        """Writes a batch; returns the marks of its subjects. Raises `sqlite3.Error`: nothing was written."""
        connection = self._write_connection
        packed = [pack_aspects(aspects) for _, _, aspects in batch.rows]
        marks = {}
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._writing.dictionary and len(packed) >= MIN_SAMPLES:
                self._learn(packed[:MAX_SAMPLES])
            for row, data in zip(batch.rows, packed, strict=True):
                marks[row[0], row[1]] = self._put(row, data)
            connection.executemany(
                _DROP_SUMMARY,
                (
                    (self._domain(domain), subject)
                    for domain, subject, _ in batch.rows
                    if subject.partition("/")[0] in COOLED_KINDS
                ),
            )
            summaries = batch.summaries()
            while some := list(islice(summaries, SUMMARIES_AT_ONCE)):
                connection.execute(
                    _put_summaries(len(some)),
                    [
                        each
                        for d, subject, data in some
                        for each in (self._domain(d), subject, data)
                    ],
                )
            for (domain, subject), fresh in batch.histories.items():
                self._put_history(domain, subject, fresh)
            encoded = ((name, encode()) for name, encode in batch.parts.encode.items())
            for name, data in chain(batch.parts.put.items(), encoded):
                connection.execute(
                    "INSERT OR REPLACE INTO parts VALUES (?, ?)", (name, self._writing.pack(data))
                )
            for name in batch.parts.dropped:
                connection.execute("DELETE FROM parts WHERE name = ?", (name,))
            self._put_meta(
                next_offset=batch.cut.next_offset.to_bytes(8, "big"), log_hash=batch.cut.log_hash
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._remember()
            raise
        return marks

    def _put(self, row: SubjectRow, data: bytes) -> int:
        domain, subject, aspects = row
        contested = any(len(siblings) > 1 for siblings in aspects.values())
        pinned = contested or subject.partition("/")[0] not in COOLED_KINDS
        mark = 0 if pinned else mark_of(domain, aspects)
        link = None if pinned else aspects.get("link_state")
        self._write_connection.execute(
            _PUT_SUBJECT,
            (
                self._domain(domain),
                subject,
                pinned,
                mark,
                link[0].raw if link else None,
                self._writing.pack(data),
            ),
        )
        return mark

    def _put_history(self, domain: str, subject: str, fresh: Sequence[Write]) -> None:
        at = (self._domain(domain), subject)
        row = self._write_connection.execute(
            "SELECT history FROM subjects WHERE domain = ? AND subject = ?", at
        ).fetchone()
        held: list[Write] = []
        if row is not None and row[0] is not None:
            held = unpack_history(self._writing.unpack(row[0]), self._decoder)
        packed = pack_history(newest([*held, *fresh]))
        self._write_connection.execute(
            "UPDATE subjects SET history = ? WHERE domain = ? AND subject = ?",
            (self._writing.pack(packed), *at),
        )

    def _learn(self, samples: Sequence[bytes]) -> None:
        """Makes the dictionary, once; both connections use it from here on."""
        dictionary = dictionary_of(samples)
        if dictionary:
            self._put_meta(dictionary=dictionary)
            self._writing = Compression(dictionary)
            self._reading = Compression(dictionary)

    def _domain(self, name: str) -> int:
        number = self._domains.get(name)
        if number is None:
            cursor = self._write_connection.execute(
                "INSERT INTO domains (name) VALUES (?) RETURNING id", (name,)
            )
            (number,) = cursor.fetchone()
            self._domains[name] = number
        return number

    def _put_meta(self, **values: bytes) -> None:
        self._write_connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items())
        )

    # The file.

    @property
    def _write_connection(self) -> sqlite3.Connection:
        assert self._writer is not None  # noqa: S101
        return self._writer

    def _take_lock(self) -> None:
        lock = os.open(
            self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StoreInUse(self._path) from error
        self._lock = lock

    def _connect(self, grounds: Grounds) -> Cut | None:
        if not self._path.exists() or self._distrusted.exists():
            return None
        self._open_connections()
        if self._write_connection.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
            return None
        meta = self._remember()
        if meta.get("grounds") != repr(tuple(grounds)).encode() or "log_hash" not in meta:
            return None
        return Cut(int.from_bytes(meta["next_offset"], "big"), meta["log_hash"])

    def _create(self, grounds: Grounds) -> None:
        self._open_connections()
        with closing(self._write_connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                cursor.execute(statement)
            cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            cursor.execute(
                "INSERT INTO meta VALUES ('grounds', ?)", (repr(tuple(grounds)).encode(),)
            )
            cursor.execute("COMMIT")
        self._remember()

    def _open_connections(self) -> None:
        self._writer, self._reader = (self._connection() for _ in range(2))

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"cache_size = -{CACHE_KIB}",
            f"journal_size_limit = {JOURNAL_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _remember(self) -> Mapping[str, bytes]:
        """Reads anew what is kept in memory of the file."""
        connection = self._write_connection
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        self._domains = dict(connection.execute("SELECT name, id FROM domains"))
        dictionary = meta.get("dictionary", b"")
        if dictionary != self._writing.dictionary:
            self._writing = Compression(dictionary)
            self._reading = Compression(dictionary)
        return meta

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None
