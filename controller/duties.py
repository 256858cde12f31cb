"""What the master of a controller owes without being asked: records of conflicts, its part in transfers of authority,
and audit entries of what it observed. Owns when and in which order; what is due is the core's to say.

Everything due follows from committed facts. So a duty that was cut short by a crash or a loss of the mastership is
found due again by the next master, and nothing is written twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from controller.journal import Journal, JournalError
from controller.log.errors import LogError
from controller.observed import ObservedFacts
from controller.replica import Replica
from controller.writes import write_audit
from federation.conflicts import DueConflict, conflict_record
from federation.errors import FederationError
from federation.identifiers import Key, Lane
from federation.proposal import Proposal
from federation.state import Applied
from federation.transfers import authority_key, claims_due, release_key, releases_due
from souverix.audit.v1 import audit_pb2
from souverix.federation.v1 import authority_pb2, conflict_pb2

_log = logging.getLogger(__name__)

#: Between two looks at what is due: a burst of commits is looked at once, and an operator hears of a conflict while
#: looking at the screen.
PAUSE_S = 0.05

#: Wait after a failure. What the core refuses stays due and is said again: it must not end the mastership.
RETRY_S = 0.5

#: Conflicts recorded in one request to the journal, so that clients' writes get their turn in between.
CONFLICTS_AT_ONCE = 64

#: Audit entries of observed facts at once, and the time between two such: at most 20 a second, each standing for all
#: facts of its kind.
OBSERVED_AT_ONCE = 20
OBSERVED_INTERVAL_S = 1.0


class Duties:
    """The duties of one replica; `run` is to be registered with `Replica.add_duty`.

    To be made before the replica replays its log, so that what was never audited is counted.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state
        self._me = replica.config.controller.id
        self._observed = ObservedFacts(replica.state)
        replica.store.keep("untold", self._observed)
        self._due = asyncio.Event()
        self._next_observed_s = 0.0
        self._listening = contextlib.ExitStack()
        self._listening.enter_context(replica.changes.listen(self._take_note))

    async def run(self, journal: Journal) -> None:
        """Does what is due, and what becomes due, until cancelled."""
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._transfer(journal)
                await self._admit(journal)
                await self._record_conflicts(journal)
                await self._audit_observed(journal)
            except (JournalError, LogError, FederationError) as error:
                _log.warning("a duty could not be done now", extra={"error": str(error)})
                self._due.set()
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(PAUSE_S)

    def _take_note(self, applied: Applied) -> None:
        self._observed.take_note(applied)
        if (
            applied.authority_changed
            or self._observed.untold
            or self._state.conflicts.due
            or self._admissions_due()
            or self._released(applied)
        ):
            self._due.set()

    def _released(self, applied: Applied) -> bool:
        return any(stream.lane is Lane.CONTROL for stream in applied.streams) and any(
            key.aspect == "authority_release" for key in applied.keys
        )

    # Transfers of authority.

    async def _transfer(self, journal: Journal) -> None:
        if releases_due(self._state, self._me) or claims_due(self._state, self._me):
            await journal.submit(self._write_transfers)

    def _write_transfers(self, proposal: Proposal) -> None:
        principal = f"controller:{self._me}"
        for release in releases_due(self._state, self._me):
            key = release_key(release.domain)
            proposal.write(*key, release, principal=principal)
            self._audit_transfer(
                proposal, "authority.released", release.domain, {"term": str(release.term)}
            )
        for record in claims_due(self._state, self._me):
            key = authority_key(record.domain)
            proposal.write(*key, record, principal=principal)
            self._audit_transfer(proposal, "authority.transferred", record.domain, _named(record))

    def _audit_transfer(
        self, proposal: Proposal, action: str, domain: str, details: dict[str, str]
    ) -> None:
        record = audit_pb2.AuditRecord(
            principal=f"controller:{self._me}",
            action=action,
            resource=f"domains/{domain}",
            outcome=audit_pb2.AUDIT_OUTCOME_OBSERVED,
            details=details,
        )
        write_audit(proposal, record, domain=domain)

    # Stamps from the future.

    def _admissions_due(self) -> list[tuple[Key, authority_pb2.Admission]]:
        return self._state.admissions_due(self._replica.config.controller.domain)

    async def _admit(self, journal: Journal) -> None:
        if self._admissions_due():
            await journal.submit(self._write_admissions)

    def _write_admissions(self, proposal: Proposal) -> None:
        for key, record in self._admissions_due():
            proposal.write(*key, record, principal=f"controller:{self._me}")
            if proposal.full:
                return

    # Conflicts.

    async def _record_conflicts(self, journal: Journal) -> None:
        while self._conflicts_due():
            await journal.submit(self._write_conflicts)

    def _conflicts_due(self) -> list[DueConflict]:
        """Of the conflicts due, those of domains this controller is master-of-record of and is not handing over."""
        records = self._state.authority.records
        return [
            due
            for due in self._state.conflicts.records_due()
            if (record := records.get(due.key.domain)) is not None
            and record.master_of_record == self._me
            and record.next_master in ("", self._me)
        ]

    def _write_conflicts(self, proposal: Proposal) -> None:
        for due in self._conflicts_due()[:CONFLICTS_AT_ONCE]:
            stands = self._state.conflicts.open_keys.get(due.key) == due.conflict_id
            record = conflict_record(due, self._state.rank, resolved=not stands)
            proposal.write(
                record.domain,
                f"conflicts/{record.conflict_id}",
                "conflict",
                record,
                principal=f"controller:{self._me}",
            )
            write_audit(proposal, self._conflict_audit(record), domain=record.domain)
            if proposal.full:
                return

    def _conflict_audit(self, record: conflict_pb2.ConflictRecord) -> audit_pb2.AuditRecord:
        winner = next((f"{s.controller}:{s.sequence}" for s in record.siblings if s.winner), "")
        left_out = sum(1 for sibling in record.siblings if not sibling.event)
        details = {
            "conflict": record.conflict_id,
            "aspect": record.aspect,
            "siblings": str(len(record.siblings)),
            "winner": winner,
        }
        if left_out:
            details["values_left_out"] = str(left_out)
        return audit_pb2.AuditRecord(
            principal=f"controller:{self._me}",
            action="conflict.recorded",
            resource=f"domains/{record.domain}/{record.subject}",
            outcome=audit_pb2.AUDIT_OUTCOME_OBSERVED,
            details=details,
        )

    # Observed facts.

    async def _audit_observed(self, journal: Journal) -> None:
        if not self._observed.untold:
            return
        now = asyncio.get_running_loop().time()
        if now < self._next_observed_s:
            asyncio.get_running_loop().call_at(self._next_observed_s, self._due.set)
            return
        self._next_observed_s = now + OBSERVED_INTERVAL_S
        await journal.submit(self._write_observed)

    def _write_observed(self, proposal: Proposal) -> None:
        for record in self._observed.records(OBSERVED_AT_ONCE):
            write_audit(proposal, record, domain=record.details["domain"])


def _named(record: authority_pb2.AuthorityRecord) -> dict[str, str]:
    return {"master": record.master_of_record, "term": str(record.term), "reason": record.reason}
