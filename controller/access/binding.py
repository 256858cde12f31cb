"""A role binding as clients see it. Owns the composition of `RoleBinding` from facts."""

from __future__ import annotations

from controller.access.bindings import ASPECT, BINDING_ASPECTS
from controller.twin.facts import Facts, digest_of, effective_time, exists, held_of
from federation.identifiers import Key
from souverix.trust.v1 import role_binding_pb2


def binding_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/bindings/{id}"."""
    return f"domains/{domain}/{subject}"


def binding_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the binding."""
    return digest_of(facts, held_of(facts, domain, subject, BINDING_ASPECTS))


def compose_binding(facts: Facts, domain: str, subject: str) -> role_binding_pb2.RoleBinding | None:
    """The binding; None when it does not exist here."""
    key = Key(domain, subject, ASPECT)
    winner = facts.winner(key)
    if winner is None or not exists(facts, domain, subject):
        return None
    return role_binding_pb2.RoleBinding(
        name=binding_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=binding_etag(facts, domain, subject),
        spec=winner.body(),
        last_writer=winner.principal,
        last_controller=winner.origin.controller,
        update_time=effective_time(facts, key, winner),
        optimistic=winner.optimistic,
    )
