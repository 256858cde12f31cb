"""What evidence comes to at one node: what is to be written, by the facts. Owns which facts bear on it; writes nothing
itself, so that it can be asked before a commit is made, and again within it.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.attestation.policy import Expected, expected_in
from controller.attestation.record import Came, next_record
from controller.attestation.statement import Measurements
from controller.attestation.states import Evidence
from controller.attestation.verdict import Baseline, judge
from controller.twin.facts import Facts, body_of, exists, home_of
from federation.identifiers import Key
from souverix.trust.v1 import attestation_pb2


@dataclass(frozen=True, slots=True)
class Given:
    """What came for one node: what its statement says, or evidence that is no statement."""

    node: str
    domain: str
    said: Measurements | Evidence
    #: The demand that it answers.
    demand_ms: int | None = None

    @property
    def subject(self) -> str:
        """ "nodes/{id}"."""
        return f"nodes/{self.node}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be written of one node. `is_fresh`: a failure is news, or was demanded."""

    attestation: attestation_pb2.NodeAttestation | None
    is_news: bool
    is_fresh: bool
    believed: Baseline | None
    expected: Expected


def decide(facts: Facts, given: Given, now_ms: int, verifier: str) -> Decision | None:
    """What is to be written; None where all is known, or the node does not live there any more."""
    subject, domain = given.subject, given.domain
    home = home_of(facts, subject)
    if home is None or home.domain != domain or not exists(facts, domain, subject):
        return None
    expected = expected_in(facts, domain)
    if given.said is Evidence.SILENT and not expected.is_anything:
        return None
    recorded = body_of(facts, Key(domain, subject, "attestation"))
    believed = None
    if isinstance(given.said, Evidence):
        came = Came(given.said)
    else:
        verdict = judge(given.said, expected, baseline_of(facts, domain, subject))
        came = Came(verdict.evidence, given.said, verdict.findings)
        believed = verdict.believed
    demand_ms = given.demand_ms
    if recorded is not None and demand_ms is not None:
        demand_ms = demand_ms if demand_ms > recorded.demand_time.ToMilliseconds() else None
    entry = next_record(recorded, came, expected, now_ms, verifier, demand_ms)
    if entry is None:
        return Decision(None, False, False, believed, expected) if believed is not None else None
    is_fresh = entry.is_news or demand_ms is not None
    return Decision(entry.attestation, entry.is_news, is_fresh, believed, expected)


def baseline_of(facts: Facts, domain: str, subject: str) -> Baseline:
    """What was believed or accepted of a node."""
    held: attestation_pb2.AttestationBaseline | None = body_of(
        facts, Key(domain, subject, "attestation_baseline")
    )
    if held is None:
        return Baseline()
    return Baseline({each.register: each.value for each in held.registers}, held.public_key)


def open_demand_ms(facts: Facts, domain: str, subject: str) -> int | None:
    """When a statement was demanded that has not come; None where none was."""
    demand: attestation_pb2.AttestationDemand | None = body_of(
        facts, Key(domain, subject, "attestation_demand")
    )
    if demand is None:
        return None
    recorded = body_of(facts, Key(domain, subject, "attestation"))
    asked_ms = demand.time.ToMilliseconds()
    answered_ms = recorded.demand_time.ToMilliseconds() if recorded is not None else 0
    return asked_ms if asked_ms > answered_ms else None
