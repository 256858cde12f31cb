"""A policy as clients see it. Owns the composition of `Policy` from facts."""

from __future__ import annotations

from controller.twin.facts import Facts, digest_of, effective_time, exists, held_of
from federation.identifiers import Key
from souverix.policy.v1 import policy_pb2

POLICY_ASPECTS = ("existence", "policy")


def policy_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/policies/{id}"."""
    return f"domains/{domain}/{subject}"


def policy_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the policy."""
    return digest_of(facts, held_of(facts, domain, subject, POLICY_ASPECTS))


def compose_policy(facts: Facts, domain: str, subject: str) -> policy_pb2.Policy | None:
    """The policy; None when it does not exist here."""
    key = Key(domain, subject, "policy")
    winner = facts.winner(key)
    if winner is None or not exists(facts, domain, subject):
        return None
    return policy_pb2.Policy(
        name=policy_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=policy_etag(facts, domain, subject),
        spec=winner.body(),
        last_writer=winner.principal,
        last_controller=winner.origin.controller,
        update_time=effective_time(facts, key, winner),
        optimistic=winner.optimistic,
        sibling_count=len(facts.siblings(key)),
    )
