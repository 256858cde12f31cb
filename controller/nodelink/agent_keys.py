"""Keys of agents: which one a node's agent must prove to hold. Owns the `agent_key` facts; checks no signature.

The first key offered is pinned (trust on first use), and stays pinned until an operator gives it up.
"""

from __future__ import annotations

from controller.twin.facts import Facts, body_of, timestamp
from controller.writes import write_audit
from federation.chain import key_id_of
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import return_pb2


def pinned_key(facts: Facts, domain: str, node: str) -> bytes:
    """The key that is pinned; empty when none is."""
    pinned: return_pb2.AgentKey | None = body_of(facts, Key(domain, f"nodes/{node}", "agent_key"))
    return pinned.public_key if pinned is not None else b""


def draft_pin(proposal: Proposal, domain: str, node: str, public_key: bytes) -> bytes:
    """Pins a key unless one is pinned; the one that is pinned then. For an agent that has proved to hold it."""
    held = pinned_key(proposal, domain, node)
    if held:
        return held
    controller = f"controller:{proposal.identity.controller}"
    key_id = key_id_of(public_key)
    pin = return_pb2.AgentKey(
        public_key=public_key, key_id=key_id, time=timestamp(proposal.wall_ms)
    )
    proposal.write(domain, f"nodes/{node}", "agent_key", pin, principal=controller)
    write_audit(
        proposal,
        audit_pb2.AuditRecord(
            principal=controller,
            action="node.key_pinned",
            resource=f"domains/{domain}/nodes/{node}",
            outcome=audit_pb2.AUDIT_OUTCOME_ALLOWED,
            details={"key_id": key_id},
        ),
        domain=domain,
    )
    return public_key
