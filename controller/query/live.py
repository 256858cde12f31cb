"""The columns of a running replica: which nodes are to be read again, and when. Owns the following of commits and the
work that comes of it, in slices, so that nothing waits for it; the columns themselves know none of this.

A commit only notes which nodes it touched. They are read before the next answer when they are few, else in the
background, and an answer says how many it was given without. What a policy, a place in the tree or an ended waiver
changes of many nodes at once is worked off the same way. Never holds back a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from controller.background import Background
from controller.changes import Changes
from controller.query.columns import NodeColumns
from controller.query.summary import summarise
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
        self._dirty: dict[str, None] = {}
        self._dirty_domains: set[str] = set()
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
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_S)
            self._wake.clear()
            self.columns.mark_ended(self._now_ms())
            while True:
                began_s = time.monotonic()
                if not self.work(BACKGROUND_SLICE if self._unread is None else SLICE):
                    break
                spent_s = time.monotonic() - began_s
                # What was never read is missing in every answer: it goes as fast as it can. What was read before is
                # likely to be touched again before anybody asks.
                if self._unread is None:
                    await background.rest(spent_s)
                else:
                    await asyncio.sleep(0)

    def begin(self) -> None:
        """All nodes of the state are to be read, and from now on whatever a commit touches."""
        if not self._begun:
            self._begun = True
            subjects = self._state.table.subjects
            self._unread_count = sum(len(s) for (_, k), s in subjects.items() if k == "nodes")
            self.columns.reserve(self._unread_count)
            self._unread = self._subjects()

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
        pending = len(self._dirty) + self._unread_count + self.columns.stale_count()
        return ViewFreshness(self._state.next_offset, pending)

    def read_now(self, subject: str) -> int | None:
        """Reads one node again; its row, None when it has none."""
        self._dirty.pop(subject, None)
        self._read([subject])
        return self.columns.ids.row_of(subject.partition("/")[2])

    def work(self, most: int) -> bool:
        """Reads some nodes again; tells whether there is more to do."""
        if self._dirty_domains:
            domains = {d for top in self._dirty_domains for d in self._below(top)}
            self._dirty_domains.clear()
            self.columns.mark_domains_stale(domains)
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
            stale = self.columns.stale_rows(most - done)
            self._recompute([f"nodes/{self.columns.ids.id_of(int(row))}" for row in stale])
            done += len(stale)
        return done == most

    def pending(self) -> Iterator[str] | None:
        """The nodes that are to be read again; None while some were never read."""
        if self._unread is not None or not self._begun:
            return None
        rows = self.columns.stale_rows(len(self.columns)).tolist()
        return chain(list(self._dirty), (f"nodes/{self.columns.ids.id_of(row)}" for row in rows))

    def _recompute(self, subjects: list[str]) -> None:
        """Reads nodes again that no commit wrote, and tells watchers of those that are otherwise now."""
        changed = self._read(subjects)
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
                summary = summarise(facts, analyzer, at) if at is not None else None
            except Exception:  # noqa: BLE001 one node that cannot be read must not hide the others
                _log.exception("a node cannot be summarised", extra={"subject": subject})
                self.columns.leave(node_id)
                continue
            if self.columns.put(node_id, summary):
                changed.append(subject)
        return changed

    def _subjects(self) -> Iterator[str]:
        """All nodes of the state; others may come meanwhile."""
        domains = [domain for domain, kind in self._state.table.subjects if kind == "nodes"]
        for domain in domains:
            yield from self._state.subjects_of(domain, "nodes")

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
        if not self._begun:
            return
        dirty = self._dirty
        for key in applied.keys:
            subject = key[1]
            if subject.startswith("nodes/"):
                dirty[subject] = None
            elif subject.startswith("policies/") or key[2] in (
                "admission",
                "authority",
                "supply_policy",
            ):
                self._dirty_domains.add(key[0])
            elif subject.startswith("artifacts/"):
                if self._gates_closed():
                    self._dirty_domains.add(key[0])
            elif key[2] == "existence":
                self.tree.forget()
        if dirty or self._dirty_domains:
            self._wake.set()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
