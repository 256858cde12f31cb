"""What a master does without being asked, as the controller's duties do: declares its configured domains, releases
and claims authority, records conflicts. Owns no state; looks at the core's and writes through proposals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation.conflicts import DueConflict, conflict_record
from federation.domains import DomainDeclaration, declare_domain
from federation.proposal import Proposal
from federation.state import Applied
from federation.transfers import authority_key, claims_due, release_key, releases_due
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import domain_pb2

if TYPE_CHECKING:
    from tests.simulation.replica import Replica


def perform(replica: Replica, applied: Applied | None) -> None:
    """Does what has become due; `applied` is the last commit's change, None after an election."""
    state = replica.state
    if applied is None or applied.authority_changed:
        _declare(replica)
    if (
        applied is None
        or applied.authority_changed
        or any(key.aspect == "authority_release" for key in applied.keys)
    ):
        me = replica.controller.name
        if releases_due(state, me) or claims_due(state, me):
            replica.submit(lambda proposal: _write_transfers(replica, proposal), _ignore)
    if state.admissions_due(replica.controller.domain):
        replica.submit(lambda proposal: _write_admissions(replica, proposal), _ignore)
    if state.conflicts.due and _conflicts_due(replica):
        replica.submit(lambda proposal: _record_conflicts(replica, proposal), _ignore)


def _ignore(value: Any, error: Exception | None) -> None:
    """A duty that failed comes again with the next change."""


def _is_master(replica: Replica, domain: str) -> bool:
    record = replica.state.authority.records.get(domain)
    return record is not None and record.master_of_record == replica.controller.name


def _declare(replica: Replica) -> None:
    records = replica.state.authority.records
    for child in replica.controller.fleet.controllers:
        parent = child.parent_domain
        if parent and child.domain not in records and _is_master(replica, parent):
            replica.later(
                replica.world.between(0, 300),
                replica.submit,
                lambda proposal, child=child: _declare_child(replica, child, proposal),
                _ignore,
            )


def _declare_child(replica: Replica, child: Any, proposal: Proposal) -> None:
    table = replica.state.authority
    if child.domain in table.records or not _is_master(replica, child.parent_domain):
        return
    principal = f"controller:{replica.controller.name}"

    def write(domain: str, subject: str, aspect: str, body: Any, /) -> None:
        proposal.write(domain, subject, aspect, body, principal=principal)

    declare_domain(
        write,
        DomainDeclaration(
            domain=child.domain,
            spec=domain_pb2.DomainSpec(parent=child.parent_domain),
            master_of_record=child.first_master,
            level=authority_pb2.AUTHORITY_LEVEL_LOCAL,
            controller=child.name,
            public_key=child.signers[0].public_key,
            autonomy=child.autonomy,
        ),
        table.term_of(child.parent_domain),
        proposal.wall_ms,
    )


def _write_transfers(replica: Replica, proposal: Proposal) -> None:
    me = replica.controller.name
    principal = f"controller:{me}"
    for release in releases_due(replica.state, me):
        proposal.write(*release_key(release.domain), release, principal=principal)
    for record in claims_due(replica.state, me):
        proposal.write(*authority_key(record.domain), record, principal=principal)


def _write_admissions(replica: Replica, proposal: Proposal) -> None:
    principal = f"controller:{replica.controller.name}"
    for key, record in replica.state.admissions_due(replica.controller.domain):
        proposal.write(*key, record, principal=principal)


def _conflicts_due(replica: Replica) -> list[DueConflict]:
    """Of the conflicts due, those of domains this controller is master-of-record of and is not handing over."""
    records = replica.state.authority.records
    me = replica.controller.name
    return [
        due
        for due in replica.state.conflicts.records_due()
        if (record := records.get(due.key.domain)) is not None
        and record.master_of_record == me
        and record.next_master in ("", me)
    ]


def _record_conflicts(replica: Replica, proposal: Proposal) -> None:
    state = replica.state
    for due in _conflicts_due(replica):
        stands = state.conflicts.open_keys.get(due.key) == due.conflict_id
        proposal.write(
            due.key.domain,
            f"conflicts/{due.conflict_id}",
            "conflict",
            conflict_record(due, state.rank, resolved=not stands),
            principal=f"controller:{replica.controller.name}",
        )
