"""Ends maintenance whose time is over: a duty of the master. Owns when it looks; what follows is the lifecycle's.

Everything due follows from committed facts, so the next master finds what this one left.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from itertools import islice

from controller.journal import Journal
from controller.lifecycle.transitions import expired
from controller.nodelink.commits import MAX_SUBMISSION_FACTS, commit
from controller.replica import Replica
from controller.twin.facts import Facts, body_of, exists, home_of
from controller.twin.marks import EXPIRES, may_be
from federation.identifiers import Key
from federation.proposal import Proposal
from federation.scan import Scan
from federation.state import Applied

#: Longest sleep: a wall clock that was set forward is noticed within it.
LONGEST_WAIT_S = 30.0

#: Nodes looked through at a time: some milliseconds, since hardly one of them has to be read.
NODES_IN_A_SLICE = 10_000


class MaintenanceExpiry:
    """The maintenance of the nodes of domains that this controller is master-of-record of."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._due: list[tuple[int, Key]] = []
        self._wake = asyncio.Event()
        self._look_at_all = True

    async def run(self, journal: Journal) -> None:
        """Ends what is over, until cancelled."""
        with self._replica.changes.listen(self._take_note):
            self._look_at_all = True
            while True:
                self._wake.clear()
                if self._look_at_all:
                    await self._look_through()
                while due := self._take_due():
                    await commit(journal, lambda p, due=due: self._write(p, due))  # type: ignore[misc]
                wait_s = LONGEST_WAIT_S
                if self._due:
                    wait_s = min(wait_s, max(0.0, (self._due[0][0] - _wall_ms()) / 1000))
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _take_note(self, applied: Applied) -> None:
        if applied.authority_changed:
            self._look_at_all = True
            self._wake.set()
        for key in applied.keys:
            if key.aspect == "lifecycle":
                self._look_at(self._replica.state, key)

    async def _look_through(self) -> None:
        """Looks at every node, some at a time."""
        state = self._replica.state
        self._look_at_all = False
        self._due.clear()
        every = state.subjects_everywhere("nodes")
        while subjects := list(islice(every, NODES_IN_A_SLICE)):
            scan = Scan(state)
            for domain, subject in subjects:
                if may_be(state, domain, subject, EXPIRES):
                    self._look_at(scan, Key(domain, subject, "lifecycle"))
            await asyncio.sleep(0)

    def _look_at(self, facts: Facts, key: Key) -> None:
        record = self._replica.state.authority.records.get(key.domain)
        if record is None or record.master_of_record != self._replica.config.controller.id:
            return
        recorded = body_of(facts, key)
        if recorded is not None and recorded.HasField("expire_time"):
            heapq.heappush(self._due, (recorded.expire_time.ToMilliseconds(), key))
            self._wake.set()

    def _take_due(self) -> list[Key]:
        due: list[Key] = []
        now_ms = _wall_ms()
        while self._due and self._due[0][0] <= now_ms and len(due) < MAX_SUBMISSION_FACTS:
            due.append(heapq.heappop(self._due)[1])
        return due

    def _write(self, proposal: Proposal, due: list[Key]) -> None:
        for key in due:
            home = home_of(proposal, key.subject)
            if home is None or home.domain != key.domain:
                continue
            entered = expired(body_of(proposal, key), proposal.wall_ms)
            if entered is None or not exists(proposal, key.domain, key.subject):
                continue
            principal = f"controller:{proposal.identity.controller}"
            entered.decided_by = principal
            proposal.write(*key, entered, principal=principal)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
