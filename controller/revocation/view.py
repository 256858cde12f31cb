"""A revocation as clients see it. Owns the composition of `Revocation` from facts."""

from __future__ import annotations

from controller.revocation.entries import read_entry
from controller.revocation.targets import ASPECT
from controller.twin.facts import Facts, digest_of, effective_time, held_of, timestamp
from federation.identifiers import Key
from souverix.trust.v1 import revocation_pb2


def revocation_name(domain: str, subject: str) -> str:
    """The resource name, "domains/{domain}/revocations/{id}"."""
    return f"domains/{domain}/{subject}"


def revocation_etag(facts: Facts, domain: str, subject: str) -> str:
    """Changes with each statement of the revocation; empty where there was none."""
    held = held_of(facts, domain, subject, (ASPECT,))
    return digest_of(facts, held) if held[0][1] else ""


def compose_revocation(
    facts: Facts, domain: str, subject: str, now_ms: int
) -> revocation_pb2.Revocation | None:
    """The revocation, with what its values together revoke; None when there is none here."""
    key = Key(domain, subject, ASPECT)
    winner = facts.winner(key)
    entry = read_entry(facts, domain, subject)
    if winner is None or entry is None:
        return None
    spec = revocation_pb2.RevocationSpec()
    spec.CopyFrom(winner.body())
    if entry.issued_before_s is not None:
        spec.certificates.identity.issued_before.seconds = entry.issued_before_s
    if entry.expire_ms is None:
        spec.ClearField("expire_time")
    else:
        spec.expire_time.CopyFrom(timestamp(entry.expire_ms))
    return revocation_pb2.Revocation(
        name=revocation_name(domain, subject),
        id=subject.partition("/")[2],
        domain=domain,
        etag=revocation_etag(facts, domain, subject),
        spec=spec,
        last_writer=winner.principal,
        last_controller=winner.origin.controller,
        update_time=effective_time(facts, key, winner),
        expired=entry.expire_ms is not None and entry.expire_ms <= now_ms,
    )
