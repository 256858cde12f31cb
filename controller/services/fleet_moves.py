"""The duty of a master that has moved nodes: late writes under a node's old key are carried over. Owns when to look;
what is late, and how it is carried, is `federation.placement`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice

from controller.changes import SlowWatcher
from controller.journal import Journal, JournalError
from controller.log.errors import LogError
from controller.replica import Replica
from controller.writes import write_audit
from federation.placement import carry_late_writes, late_writes, moved_away
from federation.proposal import Proposal
from federation.state import Applied
from souverix.audit.v1 import audit_pb2

#: Between two looks at nodes whose late writes could not be carried yet.
RETRY_S = 1.0

#: Nodes carried in one submission, so that clients' writes get their turn in between.
NODES_AT_ONCE = 64

#: Nodes looked through at a time: some milliseconds.
NODES_IN_A_SLICE = 10_000


class LateWrites:
    """The duty of one replica; `run` is to be registered with `Replica.add_duty`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._me = replica.config.controller.id

    async def run(self, journal: Journal) -> None:
        """Carries late writes over for as long as this replica is master."""
        while True:
            with contextlib.suppress(SlowWatcher):
                await self._follow(journal)

    async def _follow(self, journal: Journal) -> None:
        with self._replica.changes.subscribe() as subscription:
            waiting = {s async for s in self._moved() if late_writes(self._state, self._me, s)}
            while True:
                if waiting:
                    await self._carry(journal, sorted(waiting)[:NODES_AT_ONCE])
                    waiting = {s for s in waiting if late_writes(self._state, self._me, s)}
                applied = await subscription.next(RETRY_S)
                if applied is not None:
                    waiting.update(self._touched(applied))

    async def _carry(self, journal: Journal, subjects: list[str]) -> None:
        try:
            await journal.submit(partial(self._decide, subjects=subjects))
        except (JournalError, LogError):
            # A lost mastership ends this duty from outside; a log that is down is asked again.
            await asyncio.sleep(RETRY_S)

    def _decide(self, proposal: Proposal, subjects: list[str]) -> None:
        for subject in subjects:
            carried = carry_late_writes(proposal, subject)
            if carried:
                record = audit_pb2.AuditRecord(
                    principal=f"controller:{self._me}",
                    action="node.late_writes_carried",
                    resource=subject,
                    source="log",
                    outcome=audit_pb2.AUDIT_OUTCOME_OBSERVED,
                    message=f"{carried} writes under the domain that {subject} was moved out of were carried over",
                )
                write_audit(proposal, record, domain=proposal.identity.domain)

    async def _moved(self) -> AsyncIterator[str]:
        """Nodes that are known in several domains. Others get their turn between slices of them."""
        domains = self._state.domains_of_subject
        every = self._state.subjects_everywhere("nodes")
        while subjects := list(islice(every, NODES_IN_A_SLICE)):
            for _, subject in subjects:
                if len(domains[subject]) > 1:
                    yield subject
            await asyncio.sleep(0)

    def _touched(self, applied: Applied) -> Iterator[str]:
        """Nodes a commit wrote to under a key that this controller moved them away from."""
        domains = self._state.domains_of_subject
        for _, subject, _ in applied.keys:
            if (
                subject.startswith("nodes/")
                and len(domains.get(subject, ())) > 1
                and any(True for _ in moved_away(self._state, self._me, subject))
            ):
                yield subject
