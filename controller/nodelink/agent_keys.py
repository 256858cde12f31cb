"""Keys of agents: which one a node's agent must prove to hold. Owns the `agent_key` facts; checks no signature.

The first key offered is pinned: by TLS one that the node's certificate vouches for, in clear any (trust on first use).
It stays pinned until an operator gives it up, whoever vouches for another.
"""

from __future__ import annotations

from controller.bearer import Bearer
from controller.revocation.entries import Revocations
from controller.revocation.targets import COLLECTION
from controller.twin.facts import Facts, body_of, timestamp
from controller.writes import write_audit
from federation.chain import key_id_of
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import return_pb2
from trust.errors import NameInvalid
from trust.identity import Identity


def pinned_key(facts: Facts, domain: str, node: str) -> bytes:
    """The key that is pinned; empty when none is."""
    pinned = _pinned(facts, domain, node)
    return pinned.public_key if pinned is not None else b""


def is_vouched(facts: Facts, revocations: Revocations, domain: str, node: str) -> bool:
    """Tells whether a certificate has vouched for the pinned key that was not revoked since."""
    pinned = _pinned(facts, domain, node)
    if pinned is None or not pinned.certificate:
        return False
    try:
        named = Identity.parse(pinned.certificate_identity)
    except NameInvalid:
        return False
    # It was issued before it vouched. Its serial number and what it rested on are not kept with the key.
    vouched_s = pinned.time.seconds
    if revocations.held(named.domain, f"{COLLECTION}/sha256-{pinned.certificate}") is not None:
        return False
    return revocations.find((), named.domain, named.principal, vouched_s) is None


def draft_pin(
    proposal: Proposal, domain: str, node: str, public_key: bytes, vouched: Bearer | None = None
) -> bytes:
    """Pins a key unless one is pinned, and notes whose certificate vouches for it; the one that is pinned then.

    For an agent that has proved to hold it. A key that was pinned at first use counts as vouched for from then on, and
    so does one anew whose certificate was revoked meanwhile.
    """
    pinned = _pinned(proposal, domain, node)
    held = pinned.public_key if pinned is not None else b""
    if held and (
        held != public_key
        or vouched is None
        or (pinned is not None and pinned.certificate == vouched.fingerprint)
    ):
        return held
    controller = f"controller:{proposal.identity.controller}"
    key_id = key_id_of(public_key)
    pin = return_pb2.AgentKey(
        public_key=public_key, key_id=key_id, time=timestamp(proposal.wall_ms)
    )
    details = {"key_id": key_id}
    if vouched is not None:
        pin.certificate = details["certificate"] = vouched.fingerprint
        pin.certificate_identity = str(vouched.identity)
    proposal.write(domain, f"nodes/{node}", "agent_key", pin, principal=controller)
    write_audit(
        proposal,
        audit_pb2.AuditRecord(
            principal=controller,
            action="node.key_vouched" if held else "node.key_pinned",
            resource=f"domains/{domain}/nodes/{node}",
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
            details=details,
        ),
        domain=domain,
    )
    return public_key


def _pinned(facts: Facts, domain: str, node: str) -> return_pb2.AgentKey | None:
    found: return_pb2.AgentKey | None = body_of(facts, Key(domain, f"nodes/{node}", "agent_key"))
    return found
