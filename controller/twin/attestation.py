"""What is attested of a node as its twin shows it. Owns the view and the trust score; judges nothing.

score = 0                            FAILED
        1 - age / (2 x max age)      VERIFIED: from 1 down to a half, when the verification ceases to count
        a quarter                    EXPIRED, UNKNOWN
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.attestation.record import state_at, state_in
from controller.attestation.states import Integrity
from federation.codec import Write
from souverix.fleet.v1 import node_pb2
from souverix.trust.v1 import attestation_pb2

#: What is left of a verification's worth when it ceases to count.
LEAST_VERIFIED_SCORE = 0.5

#: Nothing is known now that speaks for the node, and nothing that speaks against it.
UNDECIDED_SCORE = 0.25


def fill_attestation(node: node_pb2.Node, winners: Mapping[str, Write], now_ms: int) -> None:
    """Fills `trust.runtime_attestation` and `trust.trust_score`; a node that was never attested has neither."""
    written = winners.get("attestation")
    if written is None:
        return
    recorded: attestation_pb2.NodeAttestation = written.body()
    state = state_at(recorded, now_ms)
    shown = node.trust.runtime_attestation
    shown.integrity_state = int(state)  # type: ignore[assignment]
    shown.reason = recorded.reason if state is state_in(recorded) else "TOO_OLD"
    shown.since.CopyFrom(recorded.since if state is state_in(recorded) else recorded.expire_time)
    for field in ("initial_time", "last_verified_time", "expire_time"):
        if recorded.HasField(field):
            getattr(shown, field).CopyFrom(getattr(recorded, field))
    shown.failed_registers.extend(each.register for each in recorded.findings)
    node.trust.trust_score = score(recorded, state, now_ms)


def score(recorded: attestation_pb2.NodeAttestation, state: Integrity, now_ms: int) -> float:
    """How far the node is trusted for what it attested, 0 to 1."""
    if state is Integrity.FAILED:
        return 0.0
    if state is not Integrity.VERIFIED:
        return UNDECIDED_SCORE
    verified_ms = recorded.last_verified_time.ToMilliseconds()
    counts_ms = recorded.expire_time.ToMilliseconds() - verified_ms
    age = min(1.0, max(0.0, (now_ms - verified_ms) / counts_ms)) if counts_ms > 0 else 1.0
    return 1.0 - (1.0 - LEAST_VERIFIED_SCORE) * age
