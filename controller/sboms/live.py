"""The index of a running replica: which node has which SBOM, and what is in it. Owns the following of commits, the
reading of documents, and the lineage that the master of a node's domain writes; holds back nothing.

A node's document is named by its inventory. One that is not in the index is read once, from the large values, in a
worker thread; while its chunks are on their way its nodes count as not read. Nodes and documents are compared anew
when the replica starts: what the index holds of documents is kept, which node has which is read from the state.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from controller.background import Background
from controller.journal import Journal
from controller.replica import Replica
from controller.sboms.exposure import INVALID, NO_SBOM, NOT_READ, NodeDocuments
from controller.sboms.lineage import Lineage
from controller.sboms.store import Document, SbomStore
from controller.supply.documents import BadDocument
from controller.supply.sbom import MAX_SBOM_BYTES, Sbom, read_sbom
from controller.twin.facts import home_of
from controller.twin.marks import NAMES_VALUES, may_be
from controller.values import ValueStore, ValueStoreError
from federation.identifiers import Key
from federation.scan import Scan
from federation.state import Applied
from souverix.fleet.v1 import observation_pb2

_log = logging.getLogger(__name__)

#: What agents call the value.
VALUE_NAME: Final = "sbom"

#: Nodes looked at at once, after which others get their turn.
SLICE: Final = 32

#: Documents of one transaction of the index.
LOT: Final = 16

#: Between two looks for documents that were not here.
RETRY_S: Final = 2.0

#: Documents looked for at once.
TRIED_AT_ONCE: Final = 256

#: Documents that are waited for; a node whose document is beyond it is looked at again when its inventory comes anew.
MAX_WAITING: Final = 100_000

#: What is known of documents, by digest, kept in memory: few documents are had by many nodes.
KNOWN_KEPT: Final = 65_536


class Reference(NamedTuple):
    """A document by its digest, and the chunks it is said to be made of: whoever names a digest may name wrong ones."""

    digest: str
    chunks: tuple[str, ...]


class Named(NamedTuple):
    """The SBOM that an inventory names."""

    reference: Reference
    observed_ms: int

    @property
    def digest(self) -> str:
        """The document's digest."""
        return self.reference.digest


class LiveSboms:
    """The index of one replica. `run` is its life."""

    def __init__(self, replica: Replica, values: ValueStore, path: Path) -> None:
        self.nodes = NodeDocuments(replica.nodes.columns)
        self.lineage = Lineage(replica)
        self._replica = replica
        self._values = values
        self._path = path
        self._opened: SbomStore | None = None
        self._opening = threading.Lock()
        self._dirty: dict[str, None] = {}
        self._unread: Iterator[str] | None = None
        self._known: OrderedDict[str, Document] = OrderedDict()
        #: Documents that are waited for, with the nodes that have them.
        self._waiting: dict[Reference, set[str]] = {}
        self._wake = asyncio.Event()

    @property
    def store(self) -> SbomStore:
        """The documents. Opened when it is first asked for."""
        with self._opening:
            if self._opened is None:
                self._opened = SbomStore(self._path)
            return self._opened

    def close(self) -> None:
        """Closes the index."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def run(self) -> None:
        """Looks at all nodes, then follows; until cancelled."""
        await self._replica.replayed()
        self._unread = self._subjects()
        background = Background()
        try:
            with self._replica.changes.listen(self._take_note):
                while True:
                    while self._has_more():
                        began_s = time.monotonic()
                        self._look(await asyncio.to_thread(self._store_known, self._next()))
                        await background.rest(time.monotonic() - began_s)
                    await self._read_some()
                    await self.lineage.write()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S):
                            await self._wake.wait()
                    self._wake.clear()
        finally:
            self.close()

    async def lead(self, journal: Journal) -> None:
        """A duty of the master: lineages that nobody wrote while there was none are written now."""
        self._unread = self._subjects()
        self._wake.set()
        await asyncio.Event().wait()

    def sbom_of(self, subject: str) -> Named | None:
        """The SBOM that a node's inventory names."""
        facts = Scan(self._replica.state)
        home = home_of(self._replica.state, subject)
        if home is None:
            return None
        winner = facts.winner(Key(home.domain, subject, "inventory"))
        return named_by(winner.body()) if winner is not None else None

    async def document(self, named: Named) -> Sbom | None:
        """What is in a document; None when it is not held here, or refused."""
        with contextlib.suppress(ValueStoreError, OSError):
            content = await self._values.whole(named.reference.chunks, MAX_SBOM_BYTES)
            if content is not None:
                found = await asyncio.to_thread(_read, content, named.digest)
                return found if isinstance(found, Sbom) else None
        return None

    def _has_more(self) -> bool:
        return bool(self._dirty) or self._unread is not None

    def _subjects(self) -> Iterator[str]:
        state = self._replica.state
        for domain, kind in list(state.table.subjects):
            if kind == "nodes":
                yield from state.subjects_of(domain, "nodes")

    def _take_note(self, applied: Applied) -> None:
        for key in applied.keys:
            if key[2] in ("inventory", "placement", "existence") and key[1].startswith("nodes/"):
                self._dirty[key[1]] = None
        if self._dirty:
            self._wake.set()

    def _next(self) -> list[tuple[str, int, Named | None]]:
        """Some of the nodes that are to be looked at: row and SBOM of each that has a row."""
        subjects = list(islice(self._dirty, SLICE))
        for subject in subjects:
            del self._dirty[subject]
        if self._unread is not None:
            more = list(islice(self._unread, SLICE - len(subjects)))
            if len(subjects) + len(more) < SLICE:
                self._unread = None
            subjects += more
        found = []
        for subject in subjects:
            row = self._row_of(subject)
            if row is not None:
                found.append((subject, row, self._named(subject)))
        return found

    def _row_of(self, subject: str) -> int | None:
        row = self._replica.nodes.columns.ids.row_of(subject.partition("/")[2])
        return row if row is not None else self._replica.nodes.read_now(subject)

    def _named(self, subject: str) -> Named | None:
        state = self._replica.state
        home = home_of(state, subject)
        if home is None or not may_be(state, home.domain, subject, NAMES_VALUES):
            return None
        winner = Scan(state).winner(Key(home.domain, subject, "inventory"))
        return named_by(winner.body()) if winner is not None else None

    def _store_known(
        self, nodes: list[tuple[str, int, Named | None]]
    ) -> list[tuple[str, int, Named | None]]:
        """Looks their documents up in the index, as far as they are not known already."""
        unknown = {n.digest for _, _, n in nodes if n is not None and n.digest not in self._known}
        if unknown:
            self._remember(self.store.known(unknown))
        return nodes

    def _remember(self, documents: dict[str, Document]) -> None:
        self._known.update(documents)
        while len(self._known) > KNOWN_KEPT:
            self._known.popitem(last=False)

    def _look(self, nodes: Iterable[tuple[str, int, Named | None]]) -> None:
        for subject, row, named in nodes:
            if named is None:
                self.nodes.put(row, NO_SBOM, 0)
                continue
            document = self._known.get(named.digest)
            if document is not None:
                self._have(subject, row, named, document)
                continue
            self.nodes.put(row, NOT_READ, named.observed_ms)
            if named.reference in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting.setdefault(named.reference, set()).add(subject)

    def _have(self, subject: str, row: int, named: Named, document: Document) -> None:
        number = INVALID if document.reason else document.number
        self.nodes.put(row, number, named.observed_ms)
        self.lineage.note(subject, named.digest, named.observed_ms, document)

    async def _read_some(self) -> None:
        """Reads documents that are waited for, those that are here."""
        lot: dict[Reference, Sbom | str] = {}
        for reference in list(islice(self._waiting, TRIED_AT_ONCE)):
            content = await self._content(reference)
            if content is None:
                # The others get their turn before it is looked for again.
                self._waiting[reference] = self._waiting.pop(reference)
                continue
            found = await asyncio.to_thread(_read, content, reference.digest)
            if found is None:
                self._refuse(reference)
                continue
            lot[reference] = found
            if len(lot) >= LOT:
                await self._index(lot)
                lot = {}
        if lot:
            await self._index(lot)

    async def _content(self, reference: Reference) -> bytes | None:
        """A document's bytes, whatever they are; None while they are not here."""
        if await self._values.missing(reference.chunks):
            return None
        try:
            return await self._values.whole(reference.chunks, MAX_SBOM_BYTES)
        except (ValueStoreError, OSError):
            return b""

    def _refuse(self, reference: Reference) -> None:
        """The chunks are not those of the digest. This says nothing of the document that has the digest."""
        for subject in self._waiting.pop(reference, ()):
            row = self._row_of(subject)
            if row is not None:
                self.nodes.put(row, INVALID, 0)

    async def _index(self, lot: dict[Reference, Sbom | str]) -> None:
        documents = [(reference.digest, found) for reference, found in lot.items()]
        try:
            added = await asyncio.to_thread(self.store.add, documents)
        except sqlite3.Error as error:
            _log.error("the index of SBOMs was not written", extra={"error": str(error)})
            return
        self._remember(added)
        for reference in lot:
            if reference.digest in added:
                subjects = self._waiting.pop(reference, set())
                self._dirty.update((subject, None) for subject in subjects)
        if len(added) < len({digest for digest, _ in documents}):
            _log.error("the index of SBOMs is full", extra={"path": str(self._path)})
        if self._dirty:
            self._wake.set()


def named_by(inventory: observation_pb2.Inventory) -> Named | None:
    """The SBOM that an inventory names."""
    observed = inventory.observe_time.ToMilliseconds() if inventory.HasField("observe_time") else 0
    for value in inventory.large_values:
        if value.name == VALUE_NAME:
            chunks = tuple(chunk.digest for chunk in value.chunks) or (value.digest,)
            return Named(Reference(value.digest, chunks), observed)
    return None


def _read(content: bytes, digest: str) -> Sbom | str | None:
    """What is in a document, or why it was refused; None for one that has another digest."""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        return None
    try:
        return read_sbom(content)
    except BadDocument as error:
        return error.reason
