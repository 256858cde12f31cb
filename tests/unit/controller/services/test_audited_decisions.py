"""Each security decision that a call can bring about leaves an audit entry that says who, what, on what, from where and
how it ended. docs/security.md has the table; what machines bring about is tested where it is decided.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.config import AccessSection
from souverix.audit.v1 import audit_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import lifecycle_pb2, node_pb2
from souverix.policy.v1 import policy_service_pb2 as policies
from souverix.supply.v1 import artifact_pb2
from souverix.supply.v1 import supply_service_pb2 as supply
from souverix.trust.v1 import access_service_pb2 as access
from souverix.trust.v1 import role_binding_pb2 as roles
from tests.unit.controller.services.served import Served, root_served

ALLOWED, DENIED = audit_pb2.AUDIT_OUTCOME_ALLOWED, audit_pb2.AUDIT_OUTCOME_DENIED
REJECTED = audit_pb2.AUDIT_OUTCOME_REJECTED
FLEET = "souverix.fleet.v1.FleetService/"
ACCESS = "souverix.trust.v1.AccessService/"
ADMIN, ALICE = "user:admin", "user:alice"


@dataclass(frozen=True)
class Decision:
    """A call, and what the audit log must say of it."""

    act: Callable[[Served, Any], Awaitable[Any]]
    principal: str
    action: str
    outcome: audit_pb2.AuditOutcome
    resource: str
    reason: str = ""


def binding(role: roles.Role) -> access.CreateRoleBindingRequest:
    spec = roles.RoleBindingSpec(role=role, members=["oidc:bob@corp"])
    return access.CreateRoleBindingRequest(domain="global", binding_id="b2", spec=spec)


def transition(name: str, to: lifecycle_pb2.LifecycleTransition) -> fleet.TransitionNodeRequest:
    condition = "seen by two" if to == QUARANTINE else ""
    return fleet.TransitionNodeRequest(
        name=f"nodes/{name}", transition=to, reason="looked at", exit_condition=condition
    )


def desired(version: str) -> fleet.SetDesiredStateRequest:
    return fleet.SetDesiredStateRequest(
        name="nodes/n1", desired_state=node_pb2.DesiredState(target_version=version)
    )


QUARANTINE = lifecycle_pb2.LIFECYCLE_TRANSITION_QUARANTINE
NODE = "nodes/n1"

DECISIONS = {
    "a change without a role": Decision(
        lambda c, who: c.fleet.SetDesiredState(desired("1"), **who),
        ALICE, f"{FLEET}SetDesiredState", DENIED, "nodes/n1", "ACCESS_DENIED"),
    "a read without a role": Decision(
        lambda c, who: c.policies.ListPolicies(policies.ListPoliciesRequest(), **who),
        ALICE, "souverix.policy.v1.PolicyService/ListPolicies", DENIED, "", "ACCESS_DENIED"),
    "a role given": Decision(
        lambda c, who: c.access.CreateRoleBinding(binding(roles.ROLE_VIEWER), **who),
        ADMIN, f"{ACCESS}CreateRoleBinding", ALLOWED, "domains/global/bindings/b2"),
    "a role that was not one's to give": Decision(
        lambda c, who: c.access.CreateRoleBinding(binding(roles.ROLE_FLEET_ADMIN), **who),
        "user:domain-admin", f"{ACCESS}CreateRoleBinding", DENIED, "global", "ACCESS_DENIED"),
    "a role taken back": Decision(
        lambda c, who: c.access.DeleteRoleBinding(
            access.DeleteRoleBindingRequest(name="domains/global/bindings/b1"), **who),
        ADMIN, f"{ACCESS}DeleteRoleBinding", ALLOWED, "domains/global/bindings/b1"),
    "somebody asks what another may": Decision(
        lambda c, who: c.access.CheckAccess(
            access.CheckAccessRequest(method=f"{FLEET}SetDesiredState", principal="user:x"), **who),
        ALICE, f"{ACCESS}CheckAccess", DENIED, "global", "ACCESS_DENIED"),
    "a node put into quarantine": Decision(
        lambda c, who: c.fleet.TransitionNode(transition("n1", QUARANTINE), **who),
        ADMIN, f"{FLEET}TransitionNode", ALLOWED, NODE),
    "a quarantine that cannot be left so": Decision(
        lambda c, who: c.fleet.TransitionNode(
            transition("n1", lifecycle_pb2.LIFECYCLE_TRANSITION_RELEASE_FROM_QUARANTINE), **who),
        ADMIN, f"{FLEET}TransitionNode", DENIED, "nodes/n1", "FAILED_PRECONDITION"),
    "an agent's key forgotten": Decision(
        lambda c, who: c.fleet.ResetAgentKey(
            fleet.ResetAgentKeyRequest(name="nodes/n1", reason="new disk"), **who),
        ADMIN, f"{FLEET}ResetAgentKey", DENIED, "nodes/n1", "FAILED_PRECONDITION"),
    "whom a domain believes": Decision(
        lambda c, who: c.supply.SetSupplyPolicy(gate_closed(), **who),
        ADMIN, "souverix.supply.v1.SupplyService/SetSupplyPolicy", ALLOWED,
        "domains/global/supply-policy"),
    "a malformed write": Decision(
        lambda c, who: c.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(domain="global", binding_id="Not An Id"), **who),
        ADMIN, f"{ACCESS}CreateRoleBinding", REJECTED, "", "INVALID_WRITE"),
}  # fmt: skip


def gate_closed() -> supply.SetSupplyPolicyRequest:
    return supply.SetSupplyPolicyRequest(
        domain="global",
        spec=artifact_pb2.SupplyPolicySpec(gate=artifact_pb2.GATE_MODE_ENFORCE),
    )


def as_(principal: str) -> Any:
    return {"metadata": (("souverix-principal", principal),)}


@pytest.fixture
async def enforced(tmp_path: Path) -> AsyncIterator[Served]:
    """The root's controller with roles enforced, a node, a binding, and somebody with half the rights."""
    async with root_served(tmp_path / "root", AccessSection("enforce", (ADMIN,))) as controller:
        node = fleet.CreateNodeRequest(domain="global", node_id="n1")
        await controller.fleet.CreateNode(node, **as_(ADMIN))
        given = roles.RoleBindingSpec(role=roles.ROLE_DOMAIN_ADMIN, members=["user:domain-admin"])
        request = access.CreateRoleBindingRequest(domain="global", binding_id="b1", spec=given)
        await controller.access.CreateRoleBinding(request, **as_(ADMIN))
        yield controller


def entries(controller: Served, since: int) -> list[audit_pb2.AuditRecord]:
    return [item.write.body() for item in list(controller.replica.state.audits)[since:]]


@pytest.mark.parametrize("name", DECISIONS)
async def test_a_decision_is_on_record_with_who_what_where_and_why(
    enforced: Served, name: str
) -> None:
    decision = DECISIONS[name]
    before = len(enforced.replica.state.audits)
    try:
        await decision.act(enforced, as_(decision.principal))
    except grpc.aio.AioRpcError:
        assert decision.outcome != ALLOWED, name
    [record] = entries(enforced, before)
    assert record.principal == decision.principal
    assert record.action == decision.action
    assert record.outcome == decision.outcome
    assert record.resource == decision.resource
    assert record.reason == decision.reason
    assert record.source.startswith("ipv4:127.0.0.1:")
    if decision.outcome != ALLOWED:
        assert record.message, "what people are told"
