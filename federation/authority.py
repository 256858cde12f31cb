"""Who may declare desired state where. Owns the authority records in force, terms, ranks and the decision of a
write's place; never writes a record itself and never asks whether a link is up (the caller says).

Terms. A domain's term is the path of terms from the root, compared lexicographically, within that domain only. A
record's `since` names where its master's unbroken mastership began: that master's events from there on rank at the
current term, so that a change above does not demote a zone whose master stayed (design §6).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from federation.codec import Term, Write
from federation.errors import AuthorityError, OutOfReach, WrongState
from souverix.federation.v1 import authority_pb2


class Permission(enum.Enum):
    """Which autonomy flag allows an aspect to be written by a controller that is not the master-of-record."""

    OPERATE = "can_operate_isolated"
    POLICIES = "can_modify_policies"
    VERSIONS = "can_deploy_versions"


class Placement(enum.Enum):
    """Where a write is to be executed."""

    LOCAL = "local"
    LOCAL_OPTIMISTIC = "local_optimistic"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class WriteDecision:
    """Where a write is to be executed, and by whom when not here."""

    place: Placement
    master: str


class AuthorityTable:
    """The records in force and the tree they make.

    Assumption: the tree only grows and its domains keep their parents; a record that names another parent for a
    known domain is refused by acceptance, not here.
    """

    __slots__ = ("_paths", "_terms", "records")

    def __init__(self) -> None:
        self.records: dict[str, authority_pb2.AuthorityRecord] = {}
        self._paths: dict[str, tuple[str, ...] | None] = {}
        self._terms: dict[str, Term] = {}

    def put(self, record: authority_pb2.AuthorityRecord) -> None:
        """Puts a record in force."""
        self.records[record.domain] = record
        self._paths.clear()
        self._terms.clear()

    def path_of(self, domain: str) -> tuple[str, ...] | None:
        """Domains from the root to this one; None while a part of the way is unknown."""
        if domain in self._paths:
            return self._paths[domain]
        path: list[str] = []
        at = domain
        while at not in path:
            record = self.records.get(at)
            if record is None:
                self._paths[domain] = None
                return None
            path.append(at)
            if not record.parent:
                found = tuple(reversed(path))
                self._paths[domain] = found
                return found
            at = record.parent
        self._paths[domain] = None
        return None

    def term_of(self, domain: str) -> Term:
        """The term path in force; empty while the way to the root is unknown."""
        known = self._terms.get(domain)
        if known is not None:
            return known
        path = self.path_of(domain)
        term: Term = tuple(self.records[d].term for d in path) if path else ()
        self._terms[domain] = term
        return term

    def rank_term(self, domain: str, write: Write) -> Term:
        """The term a write counts for: its own, or the current one when its master never lost the domain since."""
        record = self.records.get(domain)
        if (
            record is not None
            and write.origin.controller == record.master_of_record
            and write.term >= tuple(record.since)
        ):
            return max(self.term_of(domain), write.term)
        return write.term

    def is_within(self, domain: str, ancestor: str) -> bool:
        """Tells whether `domain` is `ancestor` or below it."""
        if domain == ancestor:
            return True
        path = self.path_of(domain)
        return path is not None and ancestor in path

    def children_of(self, domain: str) -> Iterator[str]:
        """Ids of the domains right below one."""
        return (record.domain for record in self.records.values() if record.parent == domain)

    def subtree_of(self, domain: str) -> list[str]:
        """The domain and all below it, parents first."""
        found = [domain]
        for at in found:
            found.extend(sorted(self.children_of(at)))
        return found

    def domain_served_by(self, controller: str) -> str | None:
        """The domain a controller serves; None when no record names it."""
        for record in self.records.values():
            if record.controller == controller:
                return record.domain
        return None

    def decide_write(
        self,
        controller: str,
        own_domain: str,
        domain: str,
        permission: Permission,
        *,
        link_up: bool,
    ) -> WriteDecision:
        """Where a write of desired state is to be executed.

        Raises `AuthorityError` when it may be neither executed here nor forwarded now, `OutOfReach` when the domain
        is beyond this controller's subtree and cannot be forwarded, `WrongState` during a planned transfer.
        """
        record = self.records.get(domain)
        if record is None:
            raise AuthorityError(
                f"no authority record for domain {domain} is known here; it arrives with the first sync from the "
                "parent, or the domain does not exist",
                domain=domain,
            )
        master = record.master_of_record
        if master == controller:
            if record.next_master and record.next_master != controller:
                raise WrongState(
                    f"domain {domain} is being handed over to {record.next_master}; retry there",
                    domain=domain,
                    master=record.next_master,
                )
            return WriteDecision(Placement.LOCAL, master)
        if link_up:
            return WriteDecision(Placement.FORWARD, master)
        if not self.is_within(domain, own_domain):
            raise OutOfReach(
                f"domain {domain} is not in the subtree of {own_domain}, and {master}, its master-of-record, cannot "
                "be reached from here now; retry when the link is up, or ask that controller",
                domain=domain,
                master=master,
            )
        own = self.records.get(own_domain)
        if own is not None and getattr(own.autonomy, permission.value):
            return WriteDecision(Placement.LOCAL_OPTIMISTIC, master)
        raise AuthorityError(
            f"{master} is master-of-record of domain {domain} and cannot be reached; {controller} has no autonomy "
            f"({permission.value}) to write in its place",
            domain=domain,
            master=master,
            permission=permission.value,
        )


def next_record(
    current: authority_pb2.AuthorityRecord,
    to_controller: str,
    *,
    force: bool,
    reason: str,
    parent_term: Term,
) -> authority_pb2.AuthorityRecord:
    """The record that moves a domain to another master, or begins to when the present one must release first.

    A transfer to the controller that already is master of a pending transfer calls the transfer off.
    """
    record = authority_pb2.AuthorityRecord()
    record.CopyFrom(current)
    record.reason = reason
    record.forced = force
    if not force and to_controller != current.master_of_record:
        record.next_master = to_controller
        return record
    record.next_master = ""
    if to_controller == current.master_of_record:
        return record
    record.master_of_record = to_controller
    record.term = current.term + 1
    del record.since[:]
    record.since.extend((*parent_term, record.term))
    return record
