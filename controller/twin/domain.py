"""A domain as clients see it. Owns the composition of `Domain`; the sums over its nodes are `controller/query`'s."""

from __future__ import annotations

from collections.abc import Iterator

from controller.twin.authority import authority_view
from controller.twin.facts import (
    Facts,
    body_of,
    conflicted,
    digest_of,
    effective_time,
    held_of,
    state_of,
)
from controller.twin.freshness import Freshness
from controller.twin.marks import LIVES_HERE, may_be
from controller.twin.node import NodeAt, find_node
from federation.identifiers import Key
from federation.scan import Scan
from souverix.fleet.v1 import domain_pb2

#: Aspects of a domain; the etag is made of those that clients write.
ETAG_ASPECTS = ("domain_spec", "existence")
DOMAIN_ASPECTS = (*ETAG_ASPECTS, "authority")


def domain_etag(facts: Facts, domain: str) -> str:
    """Changes with each write of the domain's spec or existence."""
    return digest_of(facts, held_of(facts, domain, f"domains/{domain}", ETAG_ASPECTS))


def is_known(facts: Facts, domain: str) -> bool:
    """Tells whether a domain is known here and not deleted.

    The root is declared by its genesis alone, and one whose existence has not arrived yet is there all the same.
    """
    if domain not in state_of(facts).authority.records:
        key = Key(domain, f"domains/{domain}", "authority")
        if facts.winner(key) is None:
            return False
    existence = body_of(facts, Key(domain, f"domains/{domain}", "existence"))
    return existence is None or existence.exists


def nodes_in(facts: Facts, domain: str) -> Iterator[NodeAt]:
    """The nodes that live in a domain itself, in no order. Of committed state, what is cold stays cold."""
    state = state_of(facts)
    read: Facts = Scan(state) if facts is state else facts
    for subject in state.subjects_of(domain, "nodes"):
        if not may_be(state, domain, subject, LIVES_HERE):
            continue
        at = find_node(read, subject)
        if at is not None and at.home.domain == domain:
            yield at


def live_subtree(facts: Facts, domain: str) -> list[str]:
    """The domain and those below it that are not deleted, parents first."""
    return [at for at in state_of(facts).authority.subtree_of(domain) if is_known(facts, at)]


def compose_domain(facts: Facts, domain: str, freshness: Freshness) -> domain_pb2.Domain:
    """A domain, without the sums over its nodes."""
    state = state_of(facts)
    subject = f"domains/{domain}"
    record = state.authority.records.get(domain) or body_of(
        facts, Key(domain, subject, "authority")
    )
    resource = domain_pb2.Domain(
        name=subject,
        id=domain,
        etag=domain_etag(facts, domain),
        parent=record.parent if record is not None else "",
        path=state.authority.path_of(domain) or (),
        children=sorted(c for c in state.authority.children_of(domain) if is_known(facts, c)),
        conflicted_aspects=conflicted(facts, held_of(facts, domain, subject, DOMAIN_ASPECTS)),
        as_of_time=freshness.as_of(domain),
        authority=authority_view(facts, domain),
    )
    spec_key = Key(domain, subject, "domain_spec")
    spec = facts.winner(spec_key)
    if spec is not None:
        resource.spec.CopyFrom(spec.body())
        resource.update_time.CopyFrom(effective_time(facts, spec_key, spec))
        resource.optimistic = spec.optimistic
    existence = body_of(facts, Key(domain, subject, "existence"))
    if existence is not None and existence.HasField("time"):
        resource.create_time.CopyFrom(existence.time)
    return resource


def has_nodes(facts: Facts, domain: str) -> bool:
    """Tells whether a node lives in the domain itself."""
    return next(nodes_in(facts, domain), None) is not None
