"""The columns of a running replica: which nodes are to be read again, and when. Owns the following of commits and the
work that comes of it, in slices, so that nothing waits for it; the columns themselves know none of this.

A commit only notes which nodes it touched. They are read before the next answer when they are few, else in the
background, and an answer says how many it was given without. What a place in the tree or an ended waiver changes of
many nodes at once is worked off the same way; after a change of policy nodes are not read, but compared again, those
that are alike once. Rows are stored behind the log, and taken back at a start. Never holds back a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from controller.background import Background
from controller.changes import Changes
from controller.query.columns import COMPARE, READ, NodeColumns
from controller.query.likeness import Alike, Basis
from controller.query.stored_summary import FORM, pack, unpack
from controller.query.summary import Summariser
from controller.query.sums import OldestReports
from controller.query.tree import DomainTree
from controller.supply.gate import Gate
from controller.twin.drift import DriftAnalyzer
from controller.twin.node import find_node
from federation.identifiers import Key
from federation.scan import Scan
from federation.state import Applied, State
from souverix.supply.v1 import artifact_pb2

_log = logging.getLogger(__name__)

#: Nodes read at once: some three milliseconds, after which others get their turn.
SLICE = 16

#: The same where nobody waits for them: some half a millisecond, which no call notices.
BACKGROUND_SLICE = 2

#: Rows taken at once where nodes are compared again and most are alike: a good millisecond.
MAX_COMPARED_AT_ONCE = 512

#: Rows taken back at once at a start, before calls are served: some twenty milliseconds.
LOADED_AT_ONCE = 2000

#: Rows that are read from the facts after they were taken from the store. If one is otherwise, none is trusted.
PROBES = 64

#: Longest an answer waits for nodes that are to be read again. What is left then is told with the answer.
MAX_WAIT_S = 0.25

#: Between two looks for ended waivers.
TICK_S = 1.0


class ViewFreshness(NamedTuple):
    """How fresh an answer from the columns is."""

    #: Offset of the commit up to which every node was read, but for those that are pending.
    next_offset: int
    pending: int


class LiveColumns:
    """The columns of one replica's state; `run` is their life. To be made before the replica replays its log.

    `wall_ms` tells the time, in milliseconds since the epoch.
    """

    def __init__(
        self, state: State, changes: Changes, wall_ms: Callable[[], int] | None = None
    ) -> None:
        self._now_ms = wall_ms or _wall_ms
        self.columns = NodeColumns()
        self.oldest_reports = OldestReports(self.columns)
        self.tree = DomainTree(state)
        self._state = state
        self._changes = changes
        self._summariser = Summariser(state)
        self._compared_at_once = SLICE
        self._dirty: dict[str, None] = {}
        #: Domains below which nodes are to be read again, or compared again.
        self._dirty_domains: dict[str, int] = {}
        #: Nodes that were found not to exist, and have no row: this is not stored yet.
        self._absent: dict[str, None] = {}
        self._unread: Iterator[str] | None = None
        self._unread_count = 0
        self._begun = False
        self._wake = asyncio.Event()
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(changes.listen(self._take_note))

    async def run(self) -> None:
        """Reads all nodes, then follows; until cancelled. To be called once the log was replayed."""
        self.begin()
        background = Background()
        self._wake.set()
        is_behind = True
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_S)
            self._wake.clear()
            self.columns.mark_ended(self._now_ms())
            while True:
                began_s = time.monotonic()
                if not self.work(SLICE if is_behind else BACKGROUND_SLICE):
                    break
                spent_s = time.monotonic() - began_s
                # What the start left to be read is missing in every answer: it goes as fast as it can. What was read
                # before is likely to be touched again before anybody asks.
                if is_behind:
                    await asyncio.sleep(0)
                else:
                    await background.rest(spent_s)
            is_behind = False

    def begin(self) -> None:
        """All nodes of the state are to be read, and from now on whatever a commit touches."""
        if not self._begun:
            self._begun = True
            self._summariser.grounds.forget()
            subjects = self._state.table.subjects
            self._unread_count = sum(len(s) for (_, k), s in subjects.items() if k == "nodes")
            self.columns.reserve(self._unread_count)
            self._unread = self._subjects()

    async def restore(self, pages: AsyncIterator[list[tuple[str, str, bytes | None]]]) -> None:
        """Takes in the rows that were stored, as (domain, subject, row); what is not stored, or does not fit, is left
        to be read. To be called after the state was restored, before any further commit.
        """
        began_s = time.monotonic()
        self._begun = True
        subjects = self._state.table.subjects
        self.columns.reserve(sum(len(s) for (_, k), s in subjects.items() if k == "nodes"))
        unread: dict[str, None] = {}
        async for page in pages:
            for at in range(0, len(page), LOADED_AT_ONCE):
                self._load(page[at : at + LOADED_AT_ONCE], unread)
                await asyncio.sleep(0)
        self._unread = iter(unread)
        self._unread_count = len(unread)
        self._mark_other_grounds()
        self.columns.mark_ended(self._now_ms())
        self._probe()
        _log.info(
            "rows of nodes are restored",
            extra={
                "rows": len(self.columns),
                "pending": self.freshness().pending,
                "seconds": round(time.monotonic() - began_s, 3),
            },
        )

    def _load(self, page: list[tuple[str, str, bytes | None]], unread: dict[str, None]) -> None:
        ids, summaries, bases = [], [], []
        for domain, subject, data in page:
            kind, _, node_id = subject.partition("/")
            if kind != "nodes":
                continue
            if data is None:
                unread[subject] = None
            elif data:
                try:
                    summary, basis = unpack(domain, data)
                except (DecodeError, ValueError):
                    unread[subject] = None
                    continue
                ids.append(node_id)
                summaries.append(summary)
                bases.append(basis)
        if ids:
            self.columns.load(ids, summaries, bases)

    def _mark_other_grounds(self) -> None:
        """What rows were made from beside the facts of their nodes may have changed before they were stored anew."""
        columns = self.columns
        width = len(columns.grounds)
        pairs, pair_of = np.unique(
            columns.column("domain") * np.int64(width) + columns.column("grounds"),
            return_inverse=True,
        )
        how = np.zeros(len(pairs), np.uint8)
        for number, (domain, code) in enumerate(divmod(pair, width) for pair in pairs.tolist()):
            then = columns.grounds.values[code]
            now = self._summariser.grounds.of(columns.values["domain"].values[domain])
            if then != now or now.is_gated:
                how[number] = COMPARE if now.differs_in_policies(then) else READ
        for each in (COMPARE, READ):
            columns.mark_stale(how[pair_of] == each, each)

    def _probe(self) -> None:
        """Reads some rows from the facts: a release that says something else must not show what another one made."""
        fresh = np.flatnonzero(self.columns.column("stale") == 0)
        probes = fresh[:: max(1, len(fresh) // PROBES)].tolist()
        other = self._read([f"nodes/{self.columns.ids.id_of(row)}" for row in probes])
        if other:
            _log.warning("stored rows are not what the facts say", extra={"subject": other[0]})
            self.columns.mark_stale(self.columns.column("present"), READ)

    # What the store asks of rows.

    form = FORM

    def unsaved(self) -> int:
        """As `Summaries.unsaved`."""
        return len(self._absent) + int(np.count_nonzero(self.columns.column("unsaved")))

    def leaving(self, most: int) -> Callable[[], Iterator[tuple[str, str, bytes]]]:
        """As `Summaries.leaving`. Of a node that gets known in a second domain nothing is stored there: it is read anew
        at every start.
        """
        rows = self.columns.unsaved_rows(most)
        made = zip(self._subjects_of(rows), self.columns.summaries(rows), strict=True)
        self.columns.saved(rows)
        absent = list(islice(self._absent, most - len(rows)))
        for subject in absent:
            del self._absent[subject]
        domains_of, dirty = self._state.domains_of_subject, self._dirty
        leaving = []
        for subject, (summary, basis) in chain(made, ((s, (None, Basis())) for s in absent)):
            domains = domains_of.get(subject, ())
            if len(domains) == 1 and subject not in dirty:
                leaving.append((domains[0], subject, summary, basis))
        return lambda: ((d, subject, pack(summary, b)) for d, subject, summary, b in leaving)

    async def caught_up(self) -> ViewFreshness:
        """Reads what is to be read again, for as long as an answer may wait; tells what is left."""
        self.begin()
        self.columns.mark_ended(self._now_ms())
        end_s = time.monotonic() + MAX_WAIT_S
        # It lets others work, and waits for nothing.
        while self.work(SLICE) and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return self.freshness()

    def freshness(self) -> ViewFreshness:
        """How fresh the columns are."""
        self._mark_dirty_domains()
        pending = len(self._dirty) + self._unread_count + self.columns.stale_count()
        return ViewFreshness(self._state.next_offset, pending)

    def read_now(self, subject: str) -> int | None:
        """Reads one node again; its row, None when it has none."""
        self._dirty.pop(subject, None)
        self._read([subject])
        return self.columns.ids.row_of(subject.partition("/")[2])

    def work(self, most: int) -> bool:
        """Reads some nodes again; tells whether there is more to do."""
        self._mark_dirty_domains()
        touched = list(islice(self._dirty, most))
        for subject in touched:
            del self._dirty[subject]
        if self._unread is not None:
            unread = list(islice(self._unread, most - len(touched)))
            touched += unread
            self._unread_count = max(0, self._unread_count - len(unread))
            if len(touched) < most:
                self._unread, self._unread_count = None, 0
        self._read(touched)
        done = len(touched)
        if done < most:
            stale = self.columns.stale_rows(READ, most - done)
            self._tell(self._read(self._subjects_of(stale)))
            done += len(stale)
        return done == most or self._compare(most)

    def _compare(self, most: int) -> bool:
        """Compares nodes again, of those that are alike one, and at most so many; tells whether there is more to do."""
        columns, comparisons = self.columns, self._summariser.comparisons
        rows = columns.stale_rows(COMPARE, self._compared_at_once)
        if not len(rows):
            return False
        told: list[str] = []
        found, members, grounds = [], [], []
        reads = 0
        for (alike, code), group in self._alike(rows).items():
            made = comparisons.get(alike)
            if made is None and reads < most:
                reads += 1
                told += self._read(self._subjects_of(group[:1]))
                made = comparisons.get(alike)
            if made is not None:
                found.append(made)
                members.append(group)
                grounds.append(code)
        if found:
            sizes = [len(group) for group in members]
            changed = columns.take_comparisons(
                np.concatenate(members),
                np.repeat(np.arange(len(found)), sizes),
                found,
                np.repeat(np.array(grounds, np.int32), sizes),
            )
            told += self._subjects_of(changed)
        self._tell(told)
        at_once = self._compared_at_once * 2 if reads < most else self._compared_at_once // 2
        self._compared_at_once = min(max(at_once, SLICE), MAX_COMPARED_AT_ONCE)
        return True

    def _alike(self, rows: npt.NDArray[np.int64]) -> dict[tuple[Alike, int], npt.NDArray[np.int64]]:
        """Rows by what their comparison rests on, and the code of their grounds."""
        columns, of_domains = self.columns, self._summariser.grounds
        domains, tags = columns.values["domain"].values, columns.values["tags"].values
        grounds = {
            code: of_domains.of(domains[code])
            for code in np.unique(columns.column("domain", rows)).tolist()
        }
        groups: dict[tuple[Alike, int], list[int]] = {}
        for row, domain, inputs, code in zip(
            rows.tolist(),
            columns.column("domain", rows).tolist(),
            columns.column("inputs", rows).tolist(),
            columns.column("tags", rows).tolist(),
            strict=True,
        ):
            now = grounds[domain]
            key = of_domains.alike(now, inputs, tags[code]), columns.grounds.code(now)
            groups.setdefault(key, []).append(row)
        return {key: np.array(group) for key, group in groups.items()}

    def pending(self) -> Iterator[str] | None:
        """The nodes that are to be read again; None while some were never read."""
        if self._unread is not None or not self._begun:
            return None
        rows = np.flatnonzero(self.columns.column("stale")).tolist()
        return chain(list(self._dirty), (f"nodes/{self.columns.ids.id_of(row)}" for row in rows))

    def _subjects_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        return [f"nodes/{self.columns.ids.id_of(row)}" for row in rows.tolist()]

    def _tell(self, changed: list[str]) -> None:
        """Tells watchers of nodes that are otherwise now although no commit wrote them."""
        if changed:
            keys = [Key("", subject, "drift") for subject in changed]
            self._changes.recomputed(Applied(self._state.next_offset - 1, keys))

    def _read(self, subjects: list[str]) -> list[str]:
        """Reads nodes again, cold ones without making them hot; those that are otherwise now."""
        facts = Scan(self._state)
        analyzer = DriftAnalyzer(facts, self._now_ms())
        changed = []
        for subject in subjects:
            node_id = subject.partition("/")[2]
            try:
                at = find_node(facts, subject)
                summary, basis = (
                    self._summariser.summarise(facts, analyzer, at)
                    if at is not None
                    else (None, Basis())
                )
            except Exception:  # noqa: BLE001 one node that cannot be read must not hide the others
                _log.exception("a node cannot be summarised", extra={"subject": subject})
                self.columns.leave(node_id)
                continue
            if self.columns.put(node_id, summary, basis):
                changed.append(subject)
            if summary is None and self.columns.ids.row_of(node_id) is None:
                self._absent[subject] = None
        return changed

    def _subjects(self) -> Iterator[str]:
        """All nodes of the state; others may come meanwhile."""
        domains = [domain for domain, kind in self._state.table.subjects if kind == "nodes"]
        for domain in domains:
            yield from self._state.subjects_of(domain, "nodes")

    def _mark_dirty_domains(self) -> None:
        while self._dirty_domains:
            top, how = self._dirty_domains.popitem()
            self.columns.mark_domains_stale(set(self._below(top)), how)

    def _below(self, domain: str) -> list[str]:
        return list(self._state.authority.subtree_of(domain)) or [domain]

    def _gates_closed(self) -> bool:
        """Tells whether what becomes of an artifact may change what governs a node."""
        gate = Gate(self._state, self._now_ms())
        closed = artifact_pb2.GATE_MODE_ENFORCE
        return any(gate.mode(domain) == closed for domain in self._state.authority.records)

    def _take_note(self, applied: Applied) -> None:
        if applied.authority_changed:
            self.tree.forget()
            self._summariser.grounds.forget()
        if not self._begun:
            return
        dirty = self._dirty
        for key in applied.keys:
            subject = key[1]
            if subject.startswith("nodes/"):
                dirty[subject] = None
            elif subject.startswith("policies/"):
                self._summariser.grounds.forget()
                self._dirty_domains.setdefault(key[0], COMPARE)
            elif key[2] in ("admission", "authority", "supply_policy"):
                self._summariser.grounds.forget()
                self._dirty_domains[key[0]] = READ
            elif subject.startswith("artifacts/"):
                if self._gates_closed():
                    self._dirty_domains[key[0]] = READ
            elif key[2] == "existence":
                self.tree.forget()
        if dirty or self._dirty_domains:
            self._wake.set()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
