"""What is wrong with a node's return: wrong keys, two agents of one node, a backlog that was tampered with. Owns the
`return_incident` facts, their audit and their rate, and the quarantine that follows a refused backlog; judges nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from controller.journal import Journal
from controller.lifecycle.stages import ISOLATED, TRANSITIONS, Transition, stage_of
from controller.lifecycle.transitions import Asked, transit
from controller.nodelink.commits import commit
from controller.nodelink.rate import TokenBucket
from controller.twin.facts import Facts, body_of, exists, timestamp
from controller.writes import write_audit
from federation.identifiers import Key
from federation.proposal import Proposal
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import return_pb2

#: Incidents recorded a second and at once, whatever calls: each is a fact at every level above.
INCIDENTS_PER_S = 1.0
INCIDENTS_BURST = 50

#: Between two records of the same incident of one node: an agent that is refused comes again every half minute.
REPEATED_AFTER_S = 600.0

#: Incidents remembered for that.
MAX_REMEMBERED = 10_000

#: What must hold before a node whose backlog was refused is released.
EXIT_CONDITION = "the node's state directory is found sound, or is given up with its key"


@dataclass(frozen=True, slots=True)
class Incident:
    """What was seen. `source` is where the agent called from, `linked_source` where the one called from that was linked
    meanwhile, `certificate` the fingerprint of the one that was shown.
    """

    domain: str
    node: str
    kind: return_pb2.IncidentKind
    evidence: str
    source: str
    reason: str = ""
    offered_key_id: str = ""
    relay: str = ""
    linked_source: str = ""
    certificate: str = ""
    backlog: return_pb2.BacklogEvidence | None = None


class Incidents:
    """The incidents recorded by one replica. Times are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._rate = TokenBucket(INCIDENTS_PER_S, INCIDENTS_BURST, now_s)
        self._recorded: OrderedDict[tuple[str, int, str], float] = OrderedDict()

    async def record(self, journal: Journal, incident: Incident, now_s: float) -> bool:
        """Records an incident, unless it is a repeat or there are too many; tells whether."""
        key = (incident.node, int(incident.kind), incident.reason + incident.offered_key_id)
        earlier_s = self._recorded.get(key)
        if earlier_s is not None and now_s - earlier_s < REPEATED_AFTER_S:
            return False
        if not self._rate.take(now_s):
            return False
        self._recorded[key] = now_s
        self._recorded.move_to_end(key)
        while len(self._recorded) > MAX_REMEMBERED:
            self._recorded.popitem(last=False)
        await commit(journal, lambda proposal: _draft(proposal, incident))
        return True

    async def refuse_backlog(self, journal: Journal, incident: Incident) -> None:
        """Records that a backlog was refused, and isolates its node: always, for each is a decision of its own."""
        await commit(journal, lambda proposal: _draft_refusal(proposal, incident))

    async def resolve(self, journal: Journal, domain: str, node: str) -> None:
        """Notes that a node has returned in order, if an incident of it stands."""
        await commit(journal, lambda proposal: draft_resolution(proposal, domain, node))


def standing_incident(facts: Facts, domain: str, node: str) -> return_pb2.ReturnIncident | None:
    """The last incident of a node; None where there was none or it was put right."""
    incident: return_pb2.ReturnIncident | None = body_of(
        facts, Key(domain, f"nodes/{node}", "return_incident")
    )
    return None if incident is None or incident.HasField("resolve_time") else incident


def is_held(facts: Facts, domain: str, node: str) -> bool:
    """Tells whether a node is isolated for a backlog that was refused, and nobody has decided since."""
    incident = standing_incident(facts, domain, node)
    if incident is None or incident.kind != return_pb2.INCIDENT_KIND_BACKLOG_REFUSED:
        return False
    return is_isolated(facts, domain, node)


def is_isolated(facts: Facts, domain: str, node: str) -> bool:
    """Tells whether a node is isolated, for whatever reason."""
    return stage_of(body_of(facts, Key(domain, f"nodes/{node}", "lifecycle"))) in ISOLATED


def draft_resolution(
    proposal: Proposal, domain: str, node: str, *, principal: str = "", request_id: str = ""
) -> None:
    """Notes that the incident of a node was put right, if one stands."""
    standing = standing_incident(proposal, domain, node)
    if standing is None:
        return
    resolved = return_pb2.ReturnIncident()
    resolved.CopyFrom(standing)
    resolved.resolve_time.CopyFrom(timestamp(proposal.wall_ms))
    proposal.write(
        domain,
        f"nodes/{node}",
        "return_incident",
        resolved,
        principal=principal or f"controller:{proposal.identity.controller}",
        request_id=request_id,
    )


def _draft(proposal: Proposal, incident: Incident) -> None:
    subject = f"nodes/{incident.node}"
    if not exists(proposal, incident.domain, subject):
        return
    fact = return_pb2.ReturnIncident(
        kind=incident.kind,
        reason=incident.reason,
        evidence=incident.evidence,
        time=timestamp(proposal.wall_ms),
        source=incident.source,
        offered_key_id=incident.offered_key_id,
        relay=incident.relay,
        linked_source=incident.linked_source,
        certificate=incident.certificate,
        backlog=incident.backlog,
    )
    principal = f"controller:{proposal.identity.controller}"
    record = proposal.state.authority.records.get(incident.domain)
    optimistic = record is None or record.master_of_record != proposal.identity.controller
    proposal.write(
        incident.domain,
        subject,
        "return_incident",
        fact,
        principal=principal,
        optimistic=optimistic,
    )
    kind = return_pb2.IncidentKind.Name(incident.kind).removeprefix("INCIDENT_KIND_")
    write_audit(
        proposal,
        audit_pb2.AuditRecord(
            principal=f"node:{incident.node}",
            action="node.return",
            resource=f"domains/{incident.domain}/{subject}",
            source=incident.source,
            outcome=audit_pb2.AUDIT_OUTCOME_DENIED,
            reason=incident.reason or kind,
            message=incident.evidence,
            details=_told(incident),
        ),
        domain=incident.domain,
    )


def _told(incident: Incident) -> dict[str, str]:
    """What an audit entry tells beside the words."""
    told = {
        "key_id": incident.offered_key_id,
        "relay": incident.relay,
        "linked_source": incident.linked_source,
        "certificate": incident.certificate,
    }
    if incident.backlog is not None:
        seen = incident.backlog
        told |= {
            "key_id": seen.key_id,
            "agent_source": seen.agent_source,
            "run": seen.run,
            "chunk": str(seen.chunk),
            "chunk_digest": seen.chunk_digest.hex(),
            "chain_computed": seen.chain_computed.hex(),
            "chain_claimed": seen.chain_claimed.hex(),
        }
    return {name: value for name, value in told.items() if value}


def _draft_refusal(proposal: Proposal, incident: Incident) -> None:
    _draft(proposal, incident)
    subject = f"nodes/{incident.node}"
    recorded = body_of(proposal, Key(incident.domain, subject, "lifecycle"))
    if (stage_of(recorded), Transition.QUARANTINE) not in TRANSITIONS:
        return
    principal = f"controller:{proposal.identity.controller}"
    asked = Asked(
        Transition.QUARANTINE,
        f"the backlog was refused: {incident.reason}",
        exit_condition=EXIT_CONDITION,
        decided_by=principal,
    )
    entered = transit(recorded, asked, proposal.wall_ms)
    proposal.write(incident.domain, subject, "lifecycle", entered, principal=principal)
