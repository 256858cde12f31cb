"""How the mastership-of-record of a domain moves. Owns which record or release is due, and when; writes neither.

    planned:  settled -> next_master named -> released by the old master -> next master in force, one term later
    forced:   settled -> next master in force, one term later

All of it is read from committed facts, so that whoever becomes master of the parent or of the domain goes on where
its predecessor stopped. A transfer that is called off takes a term too: a release given for the term before it must
not complete a later transfer.
"""

from __future__ import annotations

from federation.authority import next_record
from federation.errors import InvalidWrite, NotFound, WrongState
from federation.identifiers import Key
from federation.state import State
from souverix.federation.v1 import authority_pb2


def authority_key(domain: str) -> Key:
    """The key of a domain's authority record."""
    return Key(domain, f"domains/{domain}", "authority")


def release_key(domain: str) -> Key:
    """The key of the outgoing master's word."""
    return Key(domain, f"domains/{domain}", "authority_release")


def record_of(state: State, domain: str) -> authority_pb2.AuthorityRecord:
    """The record in force. Raises `NotFound`."""
    record = state.authority.records.get(domain)
    if record is None:
        raise NotFound(
            f"no authority record of domain {domain!r} is known here; ask its parent's controller, or the root's",
            domain=domain,
        )
    return record


def transferable(state: State, domain: str) -> authority_pb2.AuthorityRecord:
    """The record in force of a domain that has a parent. Raises `NotFound`, `WrongState`."""
    record = record_of(state, domain)
    if not record.parent:
        raise WrongState(
            f"{domain} is the root: its authority comes from the genesis and cannot be transferred",
            domain=domain,
        )
    return record


def transfer(
    state: State, controller: str, domain: str, to_controller: str, *, force: bool, reason: str
) -> authority_pb2.AuthorityRecord:
    """The record with which `controller`, master of the parent domain, begins, calls off or forces a transfer.

    It is complete at once when forced, or when `controller` itself is the master that would have to release.
    Raises `InvalidWrite`, `NotFound`, `WrongState`.
    """
    current = transferable(state, domain)
    if force and not reason:
        raise InvalidWrite(
            "reason is required with force: it is what the audit log will say", field="reason"
        )
    served = state.keys.domain_of(to_controller)
    if served is None:
        raise NotFound(
            f"controller {to_controller!r} is not known here: no key was granted to it",
            field="to_controller",
        )
    if not state.authority.is_within(domain, served):
        raise InvalidWrite(
            f"{to_controller} serves {served}, which is neither {domain} nor above it; name the controller of one of "
            f"{', '.join(reversed(state.authority.path_of(domain) or ()))}",
            field="to_controller",
        )
    if to_controller == (current.next_master or current.master_of_record) and not force:
        raise WrongState(
            f"a transfer of {domain} to {to_controller} waits for the release by {current.master_of_record} already"
            if current.next_master
            else f"{to_controller} is master-of-record of {domain} already",
            domain=domain,
            master=current.master_of_record,
        )
    if to_controller == current.master_of_record:
        return _reaffirmed(state, current, force=force, reason=reason)
    if not force and current.master_of_record == controller:
        return _handed_over(state, current, to_controller, reason)
    return next_record(
        current,
        to_controller,
        force=force,
        reason=reason,
        parent_term=state.authority.term_of(current.parent),
    )


def releases_due(state: State, controller: str) -> list[authority_pb2.AuthorityRelease]:
    """Releases a controller owes: it is master, another one is to follow, and it has not said so for this term."""
    return [
        authority_pb2.AuthorityRelease(
            domain=record.domain, term=record.term, controller=controller
        )
        for record in state.authority.records.values()
        if record.next_master
        and record.master_of_record == controller
        and not _governs(state, record, controller)
        and not is_released(state, record)
    ]


def claims_due(state: State, controller: str) -> list[authority_pb2.AuthorityRecord]:
    """Records that complete released transfers below the domains a controller is master of."""
    return [
        _handed_over(state, record, record.next_master, record.reason)
        for record in state.authority.records.values()
        if record.next_master
        and _governs(state, record, controller)
        and (record.master_of_record == controller or is_released(state, record))
    ]


def is_released(state: State, record: authority_pb2.AuthorityRecord) -> bool:
    """Tells whether the master named by a record gave its term up."""
    return any(
        write.origin.controller == record.master_of_record and write.body().term == record.term
        for write in state.siblings(release_key(record.domain))
    )


def _governs(state: State, record: authority_pb2.AuthorityRecord, controller: str) -> bool:
    above = state.authority.records.get(record.parent)
    return above is not None and above.master_of_record == controller and not above.next_master


def _handed_over(
    state: State, current: authority_pb2.AuthorityRecord, to_controller: str, reason: str
) -> authority_pb2.AuthorityRecord:
    record = next_record(
        current,
        to_controller,
        force=True,
        reason=reason,
        parent_term=state.authority.term_of(current.parent),
    )
    record.forced = False
    return record


def _reaffirmed(
    state: State, current: authority_pb2.AuthorityRecord, *, force: bool, reason: str
) -> authority_pb2.AuthorityRecord:
    """The present master stays, one term later; its unbroken mastership still counts from where it began."""
    record = next_record(
        current,
        current.master_of_record,
        force=force,
        reason=reason,
        parent_term=state.authority.term_of(current.parent),
    )
    record.term = current.term + 1
    return record
