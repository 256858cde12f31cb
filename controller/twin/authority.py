"""Who may declare desired state for a domain, as a view. Owns its composition; the records are the core's."""

from __future__ import annotations

from controller.twin.facts import Facts, effective_ms, set_time, state_of
from federation.authority import AuthorityTable
from federation.codec import Write
from federation.identifiers import Key
from souverix.fleet.v1 import domain_pb2


def authority_view(facts: Facts, domain: str) -> domain_pb2.AuthorityView | None:
    """The view of one domain; None when no record has arrived here."""
    view = domain_pb2.AuthorityView()
    return view if fill_authority(view, facts, domain) else None


def fill_authority(
    view: domain_pb2.AuthorityView,
    facts: Facts,
    domain: str,
    declared: Write | None = None,
    table: AuthorityTable | None = None,
) -> bool:
    """As `authority_view`, into an empty message; False, and nothing filled, when no record has arrived here.

    `declared` is the write of desired state that counts, to tell when it was made under this authority; `table` holds
    the records of another time than now.
    """
    table = table or state_of(facts).authority
    record = table.records.get(domain)
    if record is None:
        return False
    view.level = record.level
    view.master_of_record = record.master_of_record
    view.controller_ids.extend(_controllers_above(table, domain))
    view.domain = domain
    view.term.extend(table.term_of(domain))
    if declared is not None and not declared.optimistic:
        key = Key(domain, declared.subject, declared.aspect)
        set_time(view.last_authoritative_update_time, effective_ms(facts, key, declared))
    return True


def _controllers_above(table: AuthorityTable, domain: str) -> list[str]:
    path = table.path_of(domain) or (domain,)
    controllers = [table.records[at].controller for at in reversed(path)]
    return [controller for controller in controllers if controller]
