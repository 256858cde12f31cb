"""Documents by component, in SQLite. Owns the index's tables; knows no node, and no document's bytes.

A document is immutable and named by its digest, so what is kept of it can never be wrong, only too much or too
little: the file is a cache, without a place in the log, and may be deleted at any time.

For each version of a component stand the documents that hold it: numbers of documents, in segments of 8192, each as a
map of bits or, while they are few, as a list of 16-bit numbers (Chambi, Lemire et al., "Better bitmap performance
with Roaring bitmaps", 2016). So 30 million pairs of component and document take some ten megabytes, and a query reads
a few hundred short rows. Documents come in lots; the segment that is being filled is kept in memory until its lot is
written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from controller.supply.purls import InRange, Package, VersionRange
from controller.supply.sbom import Component, Sbom

Bits = npt.NDArray[np.bool_]

#: Version of the tables; a file of another version is begun anew.
LAYOUT: Final = 1

#: Documents of one segment. A map of its bits is one KiB.
SEGMENT: Final = 8192
MAP_BYTES: Final = SEGMENT // 8

#: Members up to which a list is shorter than a map.
LIST_MEMBERS: Final = MAP_BYTES // 2 - 1

#: Largest file. Beyond it no further documents are taken in: their nodes count as not read.
MAX_FILE_BYTES: Final = 1024 * 1024 * 1024

#: Memory of SQLite for pages.
CACHE_KIB: Final = 32 * 1024

#: Versions asked for at once: SQLite's own bound on variables is far above.
ASKED_AT_ONCE: Final = 500

_TABLES: Final = """
CREATE TABLE package (
    id INTEGER PRIMARY KEY, type TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    UNIQUE (name, type, namespace));
CREATE TABLE component (
    id INTEGER PRIMARY KEY, package INTEGER NOT NULL, version TEXT NOT NULL, UNIQUE (package, version));
CREATE TABLE document (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, reason TEXT NOT NULL,
    components INTEGER NOT NULL, unidentified INTEGER NOT NULL);
CREATE TABLE posting (
    component INTEGER NOT NULL, segment INTEGER NOT NULL, members BLOB NOT NULL,
    PRIMARY KEY (component, segment)) WITHOUT ROWID;
"""


class Document(NamedTuple):
    """What is kept of a document."""

    number: int
    #: Why it was refused; empty: it is valid.
    reason: str
    component_count: int
    unidentified_count: int


@dataclass(frozen=True, slots=True)
class Found:
    """What documents say of a package and a range. The arrays are indexed by document number."""

    affected: Bits
    #: Documents with a version that cannot be compared with the range.
    unknown: Bits
    #: By version that is in the range or cannot be compared, the documents that hold it.
    holders: Mapping[str, Bits]
    documents: int


class SbomStore:
    """The tables of one file. Its calls block on the disk; threads take turns."""

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._turn = threading.Lock()
        self._db = self._open()
        self._packages: dict[Package, int] = {}
        self._components: dict[tuple[int, str], int] = {}

    def close(self) -> None:
        """Closes the file."""
        with self._turn:
            self._db.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the file's pages."""
        with self._turn:
            return self._size_bytes()

    def known(self, digests: Iterable[str]) -> dict[str, Document]:
        """Of the digests, those whose documents are in the index."""
        wanted = list(dict.fromkeys(digests))
        found: dict[str, Document] = {}
        with self._turn:
            for at in range(0, len(wanted), ASKED_AT_ONCE):
                some = wanted[at : at + ASKED_AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(
                    f"SELECT digest, id, reason, components, unidentified FROM document WHERE digest IN ({marks})",  # noqa: S608 marks only
                    some,
                )
                found.update((row[0], Document(*row[1:])) for row in rows)
        return found

    def add(self, documents: Sequence[tuple[str, Sbom | str]]) -> dict[str, Document]:
        """Takes in documents by digest: what was read of them, or why they were refused. One lot, one transaction.

        Documents beyond the bound of the file are left out. Raises `sqlite3.Error`.
        """
        added: dict[str, Document] = {}
        held = self.known(digest for digest, _ in documents)
        with self._turn, self._db:
            if self._size_bytes() >= self._max_bytes:
                return held
            number = self._db.execute("SELECT ifnull(max(id), -1) + 1 FROM document").fetchone()[0]
            filling: dict[int, bytearray] = {}
            for digest, read in documents:
                if digest in held or digest in added:
                    continue
                if number % SEGMENT == 0:
                    self._write(number - 1, filling)
                    filling = {}
                added[digest] = self._insert(number, digest, read)
                if isinstance(read, Sbom):
                    self._note(number, read.components, filling)
                number += 1
            self._write(number - 1, filling)
        return held | added

    def find(self, package: Package, range_: VersionRange) -> Found:
        """The documents that hold a package in a range of versions."""
        with self._turn:
            count = self._db.execute("SELECT ifnull(max(id), -1) + 1 FROM document").fetchone()[0]
            versions = self._db.execute(
                "SELECT component.version, component.id FROM package JOIN component ON package = package.id"
                " WHERE name = ? AND type = ? AND namespace = ?",
                (package.name, package.type, package.namespace),
            ).fetchall()
            judged = {version: range_.judge(version) for version, _ in versions}
            holders = {
                version: self._holders(component, count)
                for version, component in versions
                if judged[version] is not InRange.NO
            }
        affected, unknown = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        for version, bits in holders.items():
            into = affected if judged[version] is InRange.YES else unknown
            into |= bits
        return Found(affected, unknown & ~affected, holders, count)

    def components(self) -> int:
        """Versions of components in the index."""
        with self._turn:
            count: int = self._db.execute("SELECT count(*) FROM component").fetchone()[0]
        return count

    def _open(self) -> sqlite3.Connection:
        """Opens the file; one that cannot be read, or of another version, is begun anew."""
        try:
            db = self._connect()
            if db.execute("PRAGMA user_version").fetchone()[0] == LAYOUT:
                db.execute("SELECT count(*) FROM package").fetchone()
                return db
            db.close()
        except sqlite3.DatabaseError:
            pass
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        db = self._connect()
        db.executescript(f"{_TABLES} PRAGMA user_version = {LAYOUT};")
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False)
        # A cache may lose its newest lot with the machine; it may not be torn.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return db

    def _size_bytes(self) -> int:
        pages: int = self._db.execute("PRAGMA page_count").fetchone()[0]
        size: int = self._db.execute("PRAGMA page_size").fetchone()[0]
        return pages * size

    def _insert(self, number: int, digest: str, read: Sbom | str) -> Document:
        document = (
            Document(number, "", read.component_count, read.unidentified_count)
            if isinstance(read, Sbom)
            else Document(number, read, 0, 0)
        )
        self._db.execute(
            "INSERT INTO document VALUES (?, ?, ?, ?, ?)", (number, digest, *document[1:])
        )
        return document

    def _note(
        self, number: int, components: Sequence[Component], filling: dict[int, bytearray]
    ) -> None:
        """Notes a document with its components, in the maps of its segment."""
        segment, place = divmod(number, SEGMENT)
        byte, bit = place >> 3, 1 << (place & 7)
        for component in components:
            id_ = self._component_id(component)
            bits = filling.get(id_)
            if bits is None:
                bits = filling[id_] = self._map_of(id_, segment)
            bits[byte] |= bit

    def _component_id(self, component: Component) -> int:
        package = self._packages.get(component.package)
        if package is None:
            package = self._packages[component.package] = self._id(
                "package (type, namespace, name)",
                "type = ? AND namespace = ? AND name = ?",
                component.package,
            )
        key = (package, component.version)
        id_ = self._components.get(key)
        if id_ is None:
            id_ = self._components[key] = self._id(
                "component (package, version)", "package = ? AND version = ?", key
            )
        return id_

    def _id(self, table: str, condition: str, values: Sequence[object]) -> int:
        """The number of a row, made where there is none. Table and condition are this module's own texts."""
        name = table.partition(" ")[0]
        found = self._db.execute(f"SELECT id FROM {name} WHERE {condition}", values).fetchone()  # noqa: S608
        if found is not None:
            return int(found[0])
        marks = ", ".join("?" * len(values))
        made = self._db.execute(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608
        return int(made.lastrowid or 0)

    def _map_of(self, component: int, segment: int) -> bytearray:
        held = self._db.execute(
            "SELECT members FROM posting WHERE component = ? AND segment = ?", (component, segment)
        ).fetchone()
        if held is None:
            return bytearray(MAP_BYTES)
        if len(held[0]) == MAP_BYTES:
            return bytearray(held[0])
        bits = np.zeros(SEGMENT, np.bool_)
        bits[np.frombuffer(held[0], np.uint16)] = True
        return bytearray(np.packbits(bits, bitorder="little").tobytes())

    def _write(self, last: int, filling: Mapping[int, bytearray]) -> None:
        """Writes the maps of the segment of a document."""
        segment = last // SEGMENT
        self._db.executemany(
            "INSERT OR REPLACE INTO posting VALUES (?, ?, ?)",
            ((component, segment, _packed(bits)) for component, bits in filling.items()),
        )

    def _holders(self, component: int, count: int) -> Bits:
        rows = self._db.execute(
            "SELECT segment, members FROM posting WHERE component = ?", (component,)
        )
        found = np.zeros(count + SEGMENT, np.bool_)
        for segment, members in rows:
            at = segment * SEGMENT
            if len(members) == MAP_BYTES:
                bits = np.unpackbits(np.frombuffer(members, np.uint8), bitorder="little")
                found[at : at + SEGMENT] = bits
            else:
                found[at + np.frombuffer(members, np.uint16).astype(np.int64)] = True
        return found[:count]


def _packed(bits: bytearray) -> bytes:
    """A map as it is stored: as a list of its members while they are few."""
    if int.from_bytes(bits, "little").bit_count() > LIST_MEMBERS:
        return bytes(bits)
    members = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))
    return members.astype(np.uint16).tobytes()
