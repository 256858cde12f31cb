"""Writes what comes of attestations: verdicts, what is believed of a node, its quarantine, and the audit of all that.
Owns these drafts and the rate at which refused statements are audited; decides nothing of what a statement is worth.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from controller.attestation.decision import Decision, Given
from controller.attestation.record import failure_words, quarantine, state_in
from controller.attestation.statement import StatementRefused
from controller.attestation.states import Integrity
from controller.attestation.verdict import Baseline
from controller.lifecycle.transitions import transit
from controller.nodelink.rate import TokenBucket
from controller.twin.facts import body_of, timestamp
from controller.writes import write_audit
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.trust.v1 import attestation_pb2

ACTION = "node.attest"

#: Refusals audited a second and at once, whatever comes: each is a fact at every level above.
REFUSALS_PER_S = 1.0
REFUSALS_BURST = 20

#: Between two audits of the same refusal of one node.
REPEATED_AFTER_S = 600.0

#: Refusals remembered for that, and waiting to be audited.
MAX_REMEMBERED = 4096
MAX_WAITING = 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """A statement that was not looked at. `source` is where its node calls from."""

    node: str
    domain: str
    reason: str
    message: str
    source: str


class Refusals:
    """The refusals of one replica that are to be audited. Times are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._rate = TokenBucket(REFUSALS_PER_S, REFUSALS_BURST, now_s)
        self._audited: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: list[Refusal] = []

    def note(
        self, node: str, domain: str, refused: StatementRefused, source: str, now_s: float
    ) -> bool:
        """Takes in a refusal, unless it is a repeat or there are too many; tells whether."""
        key = (node, refused.reason)
        earlier_s = self._audited.get(key)
        if earlier_s is not None and now_s - earlier_s < REPEATED_AFTER_S:
            return False
        if len(self._waiting) >= MAX_WAITING or not self._rate.take(now_s):
            return False
        self._audited[key] = now_s
        self._audited.move_to_end(key)
        while len(self._audited) > MAX_REMEMBERED:
            self._audited.popitem(last=False)
        self._waiting.append(Refusal(node, domain, refused.reason, refused.message, source))
        return True

    def take(self) -> list[Refusal]:
        """Those that wait."""
        waiting, self._waiting = self._waiting, []
        return waiting


def draft_refusals(proposal: Proposal, refusals: list[Refusal]) -> None:
    """Drafts the audit of statements that were refused."""
    for each in refusals:
        denied = audit_pb2.AUDIT_OUTCOME_DENIED
        _audit(proposal, each.node, each.domain, denied, each.reason, each.message, each.source)


def draft_decision(proposal: Proposal, given: Given, decision: Decision) -> None:
    """Drafts what was decided of one node, and the quarantine that follows where its domain has it so."""
    domain, subject = given.domain, given.subject
    principal = f"controller:{proposal.identity.controller}"

    def write(aspect: str, body: Any) -> None:
        proposal.write(domain, subject, aspect, body, principal=principal)

    if decision.believed is not None:
        write("attestation_baseline", baseline_message(decision.believed, proposal.wall_ms))
    entry = decision.attestation
    if entry is None:
        return
    write("attestation", entry)
    lifecycle = body_of(proposal, Key(domain, subject, "lifecycle"))
    asked = quarantine(
        entry, lifecycle, decision.expected, is_fresh=decision.is_fresh, principal=principal
    )
    if asked is not None:
        write("lifecycle", transit(lifecycle, asked, proposal.wall_ms))
    state = state_in(entry)
    failed = state is Integrity.FAILED
    mended = entry.previous_state == int(Integrity.FAILED)
    if asked is None and not (decision.is_news and (failed or mended)):
        # That most nodes are found as they should be, their events tell.
        return
    outcome = audit_pb2.AUDIT_OUTCOME_DENIED if failed else audit_pb2.AUDIT_OUTCOME_ALLOWED
    words = f"{state.name}: {failure_words(entry) or entry.reason}"
    words += "; the node is quarantined" if asked is not None else ""
    _audit(proposal, given.node, domain, outcome, entry.reason, words, "")


def baseline_message(
    baseline: Baseline, now_ms: int, reason: str = ""
) -> attestation_pb2.AttestationBaseline:
    """A baseline as it is written."""
    message = attestation_pb2.AttestationBaseline(
        public_key=baseline.public_key, reason=reason, time=timestamp(now_ms)
    )
    for name, value in sorted(baseline.registers.items()):
        message.registers.add(register=name, value=value)
    return message


def _audit(
    proposal: Proposal,
    node: str,
    domain: str,
    outcome: audit_pb2.AuditOutcome,
    reason: str,
    message: str,
    source: str,
) -> None:
    write_audit(
        proposal,
        audit_pb2.AuditRecord(
            principal=f"node:{node}",
            action=ACTION,
            resource=f"domains/{domain}/nodes/{node}",
            source=source,
            outcome=outcome,
            reason=reason,
            message=message,
        ),
        domain=domain,
    )
