"""Artifacts and supply policies as clients see them. Owns their composition from facts, and whether a verdict still
counts; judges nothing.
"""

from __future__ import annotations

import hashlib

from controller.supply.trust import effective_policy, trust_digest
from controller.twin.facts import (
    Facts,
    body_of,
    digest_of,
    effective_time,
    exists,
    held_of,
)
from federation.identifiers import Key
from souverix.supply.v1 import artifact_pb2 as artifacts

ARTIFACT_ASPECTS = ("existence", "artifact", "artifact_verdict")

#: What clients write of an artifact; the etag is made of it.
WRITABLE_ASPECTS = ("existence", "artifact")


def artifact_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/artifacts/{id}"."""
    return f"domains/{domain}/{subject}"


def policy_name(domain: str) -> str:
    """The resource name of a domain's supply policy."""
    return f"domains/{domain}/supply-policy"


def artifact_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each write of the artifact, and with no verdict."""
    return digest_of(facts, held_of(facts, domain, subject, WRITABLE_ASPECTS))


def policy_etag(facts: Facts, domain: str) -> str:
    """Changes with each write of the domain's own supply policy."""
    return digest_of(facts, held_of(facts, domain, f"domains/{domain}", ("supply_policy",)))


def spec_digest(spec: artifacts.ArtifactSpec) -> str:
    """Names the value that a verdict is about."""
    told = spec.SerializeToString(deterministic=True)
    return f"sha256:{hashlib.sha256(told).hexdigest()}"


def standing_verdict(
    facts: Facts, domain: str, subject: str, spec: artifacts.ArtifactSpec
) -> artifacts.ArtifactVerdict | None:
    """The verdict on this value of an artifact, however old; None when there is none."""
    verdict: artifacts.ArtifactVerdict | None = body_of(
        facts, Key(domain, subject, "artifact_verdict")
    )
    if verdict is None or verdict.spec_digest != spec_digest(spec):
        return None
    return verdict


def is_stale(
    facts: Facts, domain: str, verdict: artifacts.ArtifactVerdict, now_ms: int, digest: str = ""
) -> bool:
    """Tells whether a verdict counts no more. `digest` is the domain's present trust digest, for who has it."""
    if verdict.HasField("expire_time") and now_ms >= verdict.expire_time.ToMilliseconds():
        return True
    return verdict.trust_digest != (digest or trust_digest(effective_policy(facts, domain)))


def compose_artifact(
    facts: Facts, domain: str, subject: str, now_ms: int
) -> artifacts.Artifact | None:
    """The artifact; None when it does not exist here."""
    key = Key(domain, subject, "artifact")
    winner = facts.winner(key)
    if winner is None or not exists(facts, domain, subject):
        return None
    spec: artifacts.ArtifactSpec = winner.body()
    verdict = standing_verdict(facts, domain, subject, spec)
    return artifacts.Artifact(
        name=artifact_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=artifact_etag(facts, domain, subject),
        spec=spec,
        verdict=verdict,
        verdict_stale=verdict is not None and is_stale(facts, domain, verdict, now_ms),
        last_writer=winner.principal,
        last_controller=winner.origin.controller,
        update_time=effective_time(facts, key, winner),
        sibling_count=len(facts.siblings(key)),
    )


def compose_policy(facts: Facts, domain: str) -> artifacts.SupplyPolicy:
    """A domain's supply policy, with what counts in it."""
    effective = effective_policy(facts, domain)
    policy = artifacts.SupplyPolicy(
        name=policy_name(domain),
        domain=domain,
        etag=policy_etag(facts, domain),
        effective=effective,
        trust_digest=trust_digest(effective),
    )
    key = Key(domain, f"domains/{domain}", "supply_policy")
    winner = facts.winner(key)
    if winner is not None:
        policy.spec.CopyFrom(winner.body())
        policy.last_writer = winner.principal
        policy.update_time.CopyFrom(effective_time(facts, key, winner))
    return policy
