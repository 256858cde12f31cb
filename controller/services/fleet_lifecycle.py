"""Writes of a node's lifecycle. Owns what a call brings to a transition; which are legal is the lifecycle's to say, and
where the write may be made is the write path's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from controller.access.errors import AccessDenied
from controller.access.roles import Role
from controller.attestation.record import verified_ms
from controller.lifecycle.stages import Stage, Transition, stage_of
from controller.lifecycle.transitions import Asked, transit
from controller.nodelink.agent_keys import pinned_key
from controller.nodelink.incidents import draft_resolution
from controller.replica import Replica
from controller.revocation.targets import subject_of_identity
from controller.services.calls import caller_of
from controller.services.fleet_fields import check_node_spec, check_text, id_in_name
from controller.services.fleet_nodes import NodeWrites
from controller.services.fleet_rules import required_node
from controller.twin.facts import body_of, timestamp
from controller.writes import Caller, Draft
from federation.authority import Permission
from federation.errors import InvalidWrite, WrongState
from federation.identifiers import Key
from souverix.fleet.v1 import fleet_service_pb2, lifecycle_pb2, node_pb2, return_pb2
from souverix.trust.v1 import attestation_pb2
from trust.identity import Kind


class LifecycleWrites:
    """The transitions of nodes."""

    def __init__(self, replica: Replica, nodes: NodeWrites) -> None:
        self._replica = replica
        self._nodes = nodes

    async def transition(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.TransitionNodeResponse:
        """As `FleetService.TransitionNode`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.reason, "reason")
        check_text(request.exit_condition, "exit_condition")
        if request.transition not in set(Transition):
            raise InvalidWrite(
                f"transition {request.transition} is none; one of "
                f"{', '.join(t.name for t in Transition)} is needed",
                field="transition",
            )
        domain = required_node(self._replica.state, subject).home.domain
        caller = caller_of(context)

        def decide(draft: Draft) -> None:
            self._nodes.check(draft, request, subject, domain)
            if request.override_attestation:
                self._check_may_override(caller, domain)
            proposal = draft.proposal
            recorded = body_of(proposal, Key(domain, subject, "lifecycle"))
            spec = node_pb2.NodeSpec()
            held = body_of(proposal, Key(domain, subject, "node_spec"))
            if held is not None:
                spec.CopyFrom(held)
            asked = _asked(request, draft.principal, spec)
            attested = body_of(proposal, Key(domain, subject, "attestation"))
            asked = replace(asked, verified_ms=verified_ms(attested, proposal.wall_ms))
            entered = transit(recorded, asked, proposal.wall_ms)
            if request.step == lifecycle_pb2.DECOMMISSION_STEP_CERTIFICATES_REVOKED:
                is_relay = spec.kind == node_pb2.NODE_KIND_RELAY
                self._check_revoked(domain, subject, Kind.RELAY if is_relay else Kind.NODE)
            draft.write(domain, subject, "lifecycle", entered)
            if request.HasField("hardware"):
                spec.hardware.CopyFrom(request.hardware)
                check_node_spec(spec, "hardware")
                draft.write(domain, subject, "node_spec", spec)
                draft_key_given_up(draft, domain, subject, "the node stands on other hardware")

        return await self._nodes.write(
            "TransitionNode",
            request,
            caller,
            domain,
            subject,
            (Permission.OPERATE,),
            decide,
            fleet_service_pb2.TransitionNodeResponse,
        )

    def _check_may_override(self, caller: Caller, domain: str) -> None:
        """Who may not accept measurements does not get around them either. Raises `AccessDenied`."""
        gate = self._replica.gate
        if gate.enforced and not gate.grants().covers(
            gate.bearing_of(caller), Role.DOMAIN_ADMIN, domain
        ):
            raise AccessDenied(
                f"{caller.principal} may release nodes of domain {domain}, and not without a verified attestation: "
                "that is for its domain-admins",
                principal=caller.principal,
                role=Role.DOMAIN_ADMIN.label,
                domain=domain,
            )

    def _check_revoked(self, domain: str, subject: str, kind: Kind) -> None:
        """Refuses to confirm that a node's certificates are revoked when they are not. Without TLS it has none; a
        relay's agent shows the relay's.

        Raises `WrongState`.
        """
        if self._replica.credentials is None:
            return
        node, began_s = subject.partition("/")[2], self._decommissioning_since_s(subject)
        for issuer in self._replica.state.authority.path_of(domain) or (domain,):
            entry = self._replica.revocations.held(issuer, subject_of_identity(f"{kind}:{node}"))
            if entry is not None and (entry.issued_before_s or 0) >= began_s:
                return
        raise WrongState(
            f"the certificates of {subject} have not been revoked since its decommissioning began: souverixctl "
            f'certificate revoke {kind}:{node} --domain {domain} --reason "decommissioned"',
            subject=subject,
        )

    def _decommissioning_since_s(self, subject: str) -> int:
        """When the decommissioning of a node began, in seconds since the epoch: each step of it is a transition."""
        began_s = 0
        for write in reversed(self._replica.histories.of(subject, "lifecycle")):
            entered: lifecycle_pb2.LifecycleState = write.body()
            if stage_of(entered) is not Stage.DECOMMISSIONING_GRACEFUL:
                break
            began_s = entered.last_transition_time.seconds
        return began_s

    async def reset_key(
        self, request: Any, context: Any
    ) -> fleet_service_pb2.ResetAgentKeyResponse:
        """As `FleetService.ResetAgentKey`."""
        subject = f"nodes/{id_in_name(request.name, 'nodes')}"
        check_text(request.reason, "reason")
        if not request.reason:
            raise InvalidWrite("giving a key up needs a reason", field="reason")
        domain = required_node(self._replica.state, subject).home.domain

        def decide(draft: Draft) -> None:
            self._nodes.check(draft, request, subject, domain)
            if not draft_key_given_up(draft, domain, subject, request.reason):
                raise WrongState(
                    f"no key of {subject} is pinned: the next one offered will be", subject=subject
                )

        return await self._nodes.write(
            "ResetAgentKey",
            request,
            caller_of(context),
            domain,
            subject,
            (Permission.OPERATE,),
            decide,
            fleet_service_pb2.ResetAgentKeyResponse,
        )


def draft_key_given_up(draft: Draft, domain: str, subject: str, reason: str) -> bool:
    """Gives up the key of a node's agent, and with it any incident that stands; False where none is pinned."""
    proposal, node = draft.proposal, subject.partition("/")[2]
    if not pinned_key(proposal, domain, node):
        return False
    given_up = return_pb2.AgentKey(reason=reason, time=timestamp(proposal.wall_ms))
    draft.write(domain, subject, "agent_key", given_up)
    draft_resolution(proposal, domain, node, principal=draft.principal, request_id=draft.request_id)
    _draft_attester_given_up(draft, domain, subject)
    return True


def _draft_attester_given_up(draft: Draft, domain: str, subject: str) -> None:
    """The attester's key went with the agent's: the next one is believed. What was pinned of the host stays."""
    held = body_of(draft.proposal, Key(domain, subject, "attestation_baseline"))
    if held is not None and held.public_key:
        baseline = attestation_pb2.AttestationBaseline()
        baseline.CopyFrom(held)
        baseline.ClearField("public_key")
        draft.write(domain, subject, "attestation_baseline", baseline)


def _asked(request: Any, principal: str, spec: node_pb2.NodeSpec) -> Asked:
    return Asked(
        Transition(request.transition),
        request.reason,
        request.expire_time.ToMilliseconds() if request.HasField("expire_time") else None,
        request.exit_condition,
        request.step,
        request.hardware if request.HasField("hardware") else None,
        principal,
        spec.hardware if spec.HasField("hardware") else None,
        overrides_attestation=request.override_attestation,
    )
