"""Who may declare desired state for a domain, as a view. Owns its composition; the records are the core's."""

from __future__ import annotations

from controller.twin.facts import Facts, effective_ms, set_time, state_of
from federation.codec import Write
from federation.identifiers import Key
from federation.state import State
from souverix.fleet.v1 import domain_pb2


def authority_view(facts: Facts, domain: str) -> domain_pb2.AuthorityView | None:
    """The view of one domain; None when no record has arrived here."""
    view = domain_pb2.AuthorityView()
    return view if fill_authority(view, facts, domain) else None


def fill_authority(
    view: domain_pb2.AuthorityView, facts: Facts, domain: str, declared: Write | None = None
) -> bool:
    """As `authority_view`, into an empty message; False, and nothing filled, when no record has arrived here.

    `declared` is the write of desired state that counts, to tell when it was made under this authority.
    """
    state = state_of(facts)
    record = state.authority.records.get(domain)
    if record is None:
        return False
    view.level = record.level
    view.master_of_record = record.master_of_record
    view.controller_ids.extend(_controllers_above(state, domain))
    view.domain = domain
    view.term.extend(state.authority.term_of(domain))
    if declared is not None and not declared.optimistic:
        key = Key(domain, declared.subject, declared.aspect)
        set_time(view.last_authoritative_update_time, effective_ms(facts, key, declared))
    return True


def _controllers_above(state: State, domain: str) -> list[str]:
    path = state.authority.path_of(domain) or (domain,)
    controllers = [state.authority.records[at].controller for at in reversed(path)]
    return [controller for controller in controllers if controller]
