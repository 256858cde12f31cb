"""Who may declare desired state for a domain, as a view. Owns its composition; the records are the core's."""

from __future__ import annotations

from controller.twin.facts import Facts, effective_time, state_of
from federation.codec import Write
from federation.identifiers import Key
from federation.state import State
from souverix.fleet.v1 import domain_pb2


def authority_view(
    facts: Facts, domain: str, last: tuple[Key, Write] | None
) -> domain_pb2.AuthorityView | None:
    """The view of one domain; None when no record has arrived here.

    `last` is the last write of desired state that was made under this authority.
    """
    state = state_of(facts)
    record = state.authority.records.get(domain)
    if record is None:
        return None
    view = domain_pb2.AuthorityView(
        level=record.level,
        master_of_record=record.master_of_record,
        controller_ids=_controllers_above(state, domain),
        domain=domain,
        term=state.authority.term_of(domain),
    )
    if last is not None and not last[1].optimistic:
        view.last_authoritative_update_time.CopyFrom(effective_time(facts, *last))
    return view


def _controllers_above(state: State, domain: str) -> list[str]:
    path = state.authority.path_of(domain) or (domain,)
    records = (state.authority.records[at] for at in reversed(path))
    return [record.controller for record in records if record.controller]
