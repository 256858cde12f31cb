"""AttestationService: what is expected of nodes' measurements, and what came of them. Owns what each write means; when
nodes are challenged is `controller.nodelink.attesting`'s, and what statements are worth `controller.attestation`'s.
"""

# The methods bear the contract's names.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from controller.attestation.decision import baseline_of
from controller.attestation.policy import (
    ASPECT,
    effective_policy,
    expected_in,
    policy_etag,
    policy_name,
)
from controller.attestation.record import state_at, state_in
from controller.attestation.verdict import accepted, forbidden
from controller.nodelink.attested import baseline_message
from controller.replica import Replica
from controller.services.attestation_fields import check_attestation_policy, check_digest
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_id, check_text, id_in_name
from controller.services.fleet_histories import transitions_within
from controller.services.fleet_nodes import check_domain
from controller.services.fleet_rules import (
    POLICIES,
    Permissions,
    check_autonomy,
    check_etag,
    freshness_of,
    node_in,
    required_node,
)
from controller.twin.facts import Facts, body_of, effective_time, timestamp
from controller.writes import Draft, Forwarded, WriteCall
from federation.authority import Permission
from federation.errors import InvalidWrite, WrongState
from federation.identifiers import Key
from souverix.trust.v1 import attestation_pb2, attestation_service_pb2_grpc
from souverix.trust.v1 import attestation_service_pb2 as service

R = TypeVar("R")

SERVICE = "/souverix.trust.v1.AttestationService/"


class AttestationService(attestation_service_pb2_grpc.AttestationServiceServicer):
    """The service of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._state = replica.state

    async def SetAttestationPolicy(
        self, request: Any, context: Any
    ) -> service.SetAttestationPolicyResponse:
        """Replaces a domain's policy."""
        domain = check_id(request.domain, "domain")
        if not request.HasField("spec"):
            raise InvalidWrite("spec is required: it is the policy's whole value", field="spec")
        check_attestation_policy(request.spec)
        subject, name = f"domains/{domain}", policy_name(domain)

        def decide(draft: Draft, reply: Any) -> None:
            check_domain(draft.proposal, domain)
            check_etag(request.etag, policy_etag(draft.proposal, domain), name)
            draft.write(domain, subject, ASPECT, request.spec)
            reply.policy.CopyFrom(_policy(draft.proposal, domain))

        reply: service.SetAttestationPolicyResponse = await self._write(
            "SetAttestationPolicy",
            request,
            context,
            (domain, name, subject),
            POLICIES,
            decide,
            service.SetAttestationPolicyResponse,
        )
        return reply

    async def GetAttestationPolicy(
        self, request: Any, context: Any
    ) -> service.GetAttestationPolicyResponse:
        """Reads a domain's policy."""
        domain = check_id(request.domain, "domain")
        check_domain(self._state, domain)
        return service.GetAttestationPolicyResponse(policy=_policy(self._state, domain))

    async def AttestNode(self, request: Any, context: Any) -> service.AttestNodeResponse:
        """Demands a statement."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.reason, "reason")
        domain = required_node(self._state, subject).home.domain

        def decide(draft: Draft, reply: Any) -> None:
            node_in(draft.proposal, subject, domain)
            reply.demand_time.CopyFrom(_demand(draft, domain, subject, request.reason))

        reply: service.AttestNodeResponse = await self._write(
            "AttestNode",
            request,
            context,
            (domain, subject, subject),
            (Permission.OPERATE,),
            decide,
            service.AttestNodeResponse,
        )
        return reply

    async def AcceptMeasurements(
        self, request: Any, context: Any
    ) -> service.AcceptMeasurementsResponse:
        """Accepts what a node measured as what is expected of it."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_digest(request.measurements_digest, "measurements_digest")
        check_text(request.reason, "reason")
        if not request.reason.strip():
            raise InvalidWrite("reason is required: why is it in order?", field="reason")
        domain = required_node(self._state, subject).home.domain

        def decide(draft: Draft, reply: Any) -> None:
            proposal = draft.proposal
            node_in(proposal, subject, domain)
            attestation = _acceptable(proposal, domain, subject, request.measurements_digest)
            expected = expected_in(proposal, domain)
            registers = {each.register: each.value for each in attestation.registers}
            if broken := forbidden(registers, expected):
                raise WrongState(
                    f"{subject}: {', '.join(broken)} cannot be accepted, for a rule of the domain's policy does not "
                    f"allow it, or it was not measured; see 'souverixctl attestation policy {domain}'",
                    subject=subject,
                    registers=",".join(broken),
                )
            before = baseline_of(proposal, domain, subject)
            baseline = accepted(registers, attestation.public_key, expected, before)
            message = baseline_message(baseline, proposal.wall_ms, request.reason)
            draft.write(domain, subject, "attestation_baseline", message)
            _demand(draft, domain, subject, "measurements were accepted")
            reply.attestation.CopyFrom(_attestation(proposal, subject, domain, proposal.wall_ms))

        reply: service.AcceptMeasurementsResponse = await self._write(
            "AcceptMeasurements",
            request,
            context,
            (domain, subject, subject),
            POLICIES,
            decide,
            service.AcceptMeasurementsResponse,
        )
        return reply

    async def GetAttestation(self, request: Any, context: Any) -> service.GetAttestationResponse:
        """Tells where a node stands."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        domain = required_node(self._state, subject).home.domain
        now_ms = freshness_of(self._replica).now_ms
        return service.GetAttestationResponse(
            attestation=_attestation(self._state, subject, domain, now_ms)
        )

    async def ListAttestationHistory(
        self, request: Any, context: Any
    ) -> service.ListAttestationHistoryResponse:
        """Lists the states a node went through."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        domain = required_node(self._state, subject).home.domain
        freshness = freshness_of(self._replica)
        reply = service.ListAttestationHistoryResponse(as_of_time=freshness.as_of(domain))
        for write in transitions_within(self._replica, request, domain, subject, "attestation"):
            entry = reply.attestations.add()
            entry.CopyFrom(write.body())
            if not entry.HasField("since"):
                key = Key(domain, subject, "attestation")
                entry.since.CopyFrom(effective_time(self._state, key, write))
        return reply

    async def _write(
        self,
        method: str,
        request: Any,
        context: Any,
        at: tuple[str, str, str],
        permissions: Permissions,
        decide: Callable[[Draft, Any], None],
        response: type[R],
    ) -> R:
        """Executes a write at (domain, resource, subject) whose decision fills the response."""
        kind: Any = response
        domain, resource, subject = at
        replies: list[Any] = []

        def decide_and_reply(draft: Draft) -> None:
            check_autonomy(draft, permissions)
            replies[:] = [kind()]
            decide(draft, replies[0])

        result = await self._replica.writer.execute(
            WriteCall(
                caller=caller_of(context),
                method=f"{SERVICE}{method}",
                request=request,
                domain=domain,
                resource=resource,
                permission=permissions[0],
                decide=decide_and_reply,
                request_id=request.request_id,
                validate_only=request.validate_only,
                durable_at=request.durable_at,
                subject=subject,
            )
        )
        if isinstance(result, Forwarded):
            forwarded: R = kind.FromString(result.response)
            return forwarded
        reply = replies[0] if replies else self._repeated(kind(), domain, subject)
        if not request.validate_only:
            reply.receipt.CopyFrom(result.receipt)
        written: R = reply
        return written

    def _repeated(self, reply: Any, domain: str, subject: str) -> Any:
        """The reply to a request that was carried out before: as things stand now."""
        fields = reply.DESCRIPTOR.fields_by_name
        if "policy" in fields:
            reply.policy.CopyFrom(_policy(self._state, domain))
        elif "attestation" in fields:
            now_ms = freshness_of(self._replica).now_ms
            reply.attestation.CopyFrom(_attestation(self._state, subject, domain, now_ms))
        else:
            demand = body_of(self._state, Key(domain, subject, "attestation_demand"))
            if demand is not None:
                reply.demand_time.CopyFrom(demand.time)
        return reply


def _demand(draft: Draft, domain: str, subject: str, reason: str) -> Any:
    """Demands a statement; when. Two demands are never of the same time."""
    now_ms = draft.proposal.wall_ms
    earlier = body_of(draft.proposal, Key(domain, subject, "attestation_demand"))
    if earlier is not None:
        now_ms = max(now_ms, earlier.time.ToMilliseconds() + 1)
    demand = attestation_pb2.AttestationDemand(time=timestamp(now_ms), reason=reason)
    draft.write(domain, subject, "attestation_demand", demand)
    return demand.time


def _acceptable(
    facts: Facts, domain: str, subject: str, digest: str
) -> attestation_pb2.NodeAttestation:
    """What is to be accepted. Raises `WrongState` where the node's last statement said something else."""
    held: attestation_pb2.NodeAttestation | None = body_of(
        facts, Key(domain, subject, "attestation")
    )
    if held is None or not held.measurements_digest:
        raise WrongState(
            f"no statement of {subject} is known here; demand one with 'souverixctl attestation attest "
            f"{subject.partition('/')[2]} --wait'",
            subject=subject,
        )
    if held.measurements_digest != digest:
        raise WrongState(
            f"{subject} has measured something else since: {held.measurements_digest}; look at it, then decide",
            subject=subject,
            measurements_digest=held.measurements_digest,
        )
    return held


def _policy(facts: Facts, domain: str) -> attestation_pb2.AttestationPolicy:
    key = Key(domain, f"domains/{domain}", ASPECT)
    policy = attestation_pb2.AttestationPolicy(
        name=policy_name(domain),
        domain=domain,
        etag=policy_etag(facts, domain),
        effective=effective_policy(facts, domain),
    )
    write = facts.winner(key)
    if write is not None:
        policy.spec.CopyFrom(write.body())
        policy.last_writer = write.principal
        policy.update_time.CopyFrom(effective_time(facts, key, write))
    return policy


def _attestation(facts: Facts, subject: str, domain: str, now_ms: int) -> service.Attestation:
    reply = service.Attestation(
        name=subject, domain=domain, effective_policy=effective_policy(facts, domain)
    )
    recorded = body_of(facts, Key(domain, subject, "attestation"))
    if recorded is not None:
        reply.attestation.CopyFrom(recorded)
        state = state_at(recorded, now_ms)
        if state is not state_in(recorded):
            reply.attestation.previous_state = recorded.state
            reply.attestation.state = int(state)  # type: ignore[assignment]
            reply.attestation.since.CopyFrom(recorded.expire_time)
            reply.attestation.reason = "TOO_OLD"
    baseline = facts.winner(Key(domain, subject, "attestation_baseline"))
    if baseline is not None:
        reply.baseline.CopyFrom(baseline.body())
        reply.baseline_writer = baseline.principal
    demand = body_of(facts, Key(domain, subject, "attestation_demand"))
    if demand is not None:
        reply.demand.CopyFrom(demand)
    return reply
