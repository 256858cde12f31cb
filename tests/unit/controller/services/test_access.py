from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.config import AccessSection
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.policy.v1 import policy_pb2
from souverix.policy.v1 import policy_service_pb2 as policies
from souverix.trust.v1 import access_service_pb2 as access
from souverix.trust.v1 import role_binding_pb2 as roles
from tests.unit.controller.services.served import DEADLINE_S, Served, refusal, root_served

ADMIN: Any = {"metadata": (("souverix-principal", "user:admin"),)}
ALICE: Any = {"metadata": (("souverix-principal", "user:alice"),)}


@pytest.fixture
async def enforced(tmp_path: Path) -> AsyncIterator[Served]:
    """The root's controller with roles enforced, and regions a and b."""
    section = AccessSection("enforce", ("user:admin",))
    async with root_served(tmp_path / "root", section) as controller:
        for region in ("region-a", "region-b"):
            creation = fleet.CreateDomainRequest(domain_id=region)
            creation.spec.parent = "global"
            await controller.fleet.CreateDomain(creation, **ADMIN)
        yield controller


async def grant(
    served: Served, role: roles.Role, domain: str, by: Any = ADMIN, **fields: Any
) -> roles.RoleBinding:
    request = access.CreateRoleBindingRequest(
        domain=domain,
        binding_id="b1",
        spec=roles.RoleBindingSpec(role=role, members=["user:alice"]),
        **fields,
    )
    binding: roles.RoleBinding = (await served.access.CreateRoleBinding(request, **by)).binding
    return binding


def policy_in(domain: str) -> policies.CreatePolicyRequest:
    return policies.CreatePolicyRequest(
        domain=domain, policy_id="p1", spec=policy_pb2.PolicySpec(version="v1")
    )


async def test_a_binding_lets_its_members_do_what_nobody_else_may(enforced: Served) -> None:
    code, info, text = await refusal(enforced.policies.CreatePolicy(policy_in("region-a"), **ALICE))
    assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    assert dict(info.metadata)["role"] == "domain-admin"
    assert "souverixctl access grant region-a domain-admin user:alice" in text

    binding = await grant(enforced, roles.ROLE_DOMAIN_ADMIN, "region-a")

    assert (binding.name, binding.last_writer) == ("domains/region-a/bindings/b1", "user:admin")
    created = await enforced.policies.CreatePolicy(policy_in("region-a"), **ALICE)
    assert created.policy.last_writer == "user:alice"
    code, _, _ = await refusal(enforced.policies.CreatePolicy(policy_in("region-b"), **ALICE))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_binding_taken_back_takes_the_right_and_ends_streams(enforced: Served) -> None:
    binding = await grant(enforced, roles.ROLE_VIEWER, "region-a")
    watch = enforced.policies.WatchPolicies(policies.WatchPoliciesRequest(), **ALICE)
    async with asyncio.timeout(DEADLINE_S):
        assert (await watch.read()).bookmark

    await enforced.access.DeleteRoleBinding(
        access.DeleteRoleBindingRequest(name=binding.name, etag=binding.etag), **ADMIN
    )

    await enforced.policies.CreatePolicy(policy_in("region-a"), **ADMIN)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await watch.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    request = policies.ListPoliciesRequest(domain="region-a")
    code, _, _ = await refusal(enforced.policies.ListPolicies(request, **ALICE))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_lists_and_watches_show_the_callers_part(enforced: Served) -> None:
    await grant(enforced, roles.ROLE_VIEWER, "region-a")
    for domain in ("global", "region-a", "region-b"):
        await enforced.policies.CreatePolicy(policy_in(domain), **ADMIN)

    listed = await enforced.policies.ListPolicies(policies.ListPoliciesRequest(), **ALICE)
    watch = enforced.policies.WatchPolicies(policies.WatchPoliciesRequest(), **ALICE)
    async with asyncio.timeout(DEADLINE_S):
        first, second = await watch.read(), await watch.read()
    domains = await enforced.fleet.ListDomains(fleet.ListDomainsRequest(), **ALICE)

    assert [policy.domain for policy in listed.policies] == ["region-a"]
    assert (first.changed.domain, second.bookmark) == ("region-a", True)
    assert [domain.id for domain in domains.domains] == ["region-a"]


async def test_nobody_gives_more_than_it_has(enforced: Served) -> None:
    await grant(enforced, roles.ROLE_DOMAIN_ADMIN, "region-a")
    more = access.CreateRoleBindingRequest(
        domain="region-a",
        binding_id="b2",
        spec=roles.RoleBindingSpec(role=roles.ROLE_FLEET_ADMIN, members=["user:alice"]),
    )
    code, info, _ = await refusal(enforced.access.CreateRoleBinding(more, **ALICE))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "spec.role")
    more.domain = "global"
    code, info, _ = await refusal(enforced.access.CreateRoleBinding(more, **ALICE))
    assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    more.domain, more.spec.role = "region-a", roles.ROLE_OPERATOR
    assert (await enforced.access.CreateRoleBinding(more, **ALICE)).binding.id == "b2"


async def test_denials_are_audited_reads_too(enforced: Served) -> None:
    await refusal(
        enforced.policies.ListPolicies(policies.ListPoliciesRequest(domain="region-a"), **ALICE)
    )
    record = [item.write.body() for item in enforced.replica.state.audits][-1]
    assert (record.principal, record.reason) == ("user:alice", "ACCESS_DENIED")
    assert record.action == "souverix.policy.v1.PolicyService/ListPolicies"


async def test_bad_bindings_are_refused_by_field(enforced: Served) -> None:
    for spec, field in (
        (roles.RoleBindingSpec(members=["user:a"]), "spec.role"),
        (roles.RoleBindingSpec(role=roles.ROLE_VIEWER), "spec.members"),
        (roles.RoleBindingSpec(role=roles.ROLE_VIEWER, members=["a b"]), "spec.members[0]"),
        (roles.RoleBindingSpec(role=roles.ROLE_VIEWER, members=["node:n"]), "spec.members[0]"),
    ):
        request = access.CreateRoleBindingRequest(domain="global", binding_id="b", spec=spec)
        code, info, _ = await refusal(enforced.access.CreateRoleBinding(request, **ADMIN))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_writes_of_bindings_keep_the_conventions(enforced: Served) -> None:
    before = enforced.replica.state.next_offset
    await grant(enforced, roles.ROLE_VIEWER, "region-a", validate_only=True)
    assert enforced.replica.state.next_offset == before
    one = await grant(enforced, roles.ROLE_VIEWER, "region-a", request_id="r1")
    assert await grant(enforced, roles.ROLE_VIEWER, "region-a", request_id="r1") == one
    code, _, _ = await refusal(
        enforced.access.CreateRoleBinding(
            access.CreateRoleBindingRequest(domain="region-a", binding_id="b1", spec=one.spec),
            **ADMIN,
        )
    )
    assert code is grpc.StatusCode.ALREADY_EXISTS
    delete = access.DeleteRoleBindingRequest(name=one.name, etag="other")
    code, _, _ = await refusal(enforced.access.DeleteRoleBinding(delete, **ADMIN))
    assert code is grpc.StatusCode.ABORTED
    listed = await enforced.access.ListRoleBindings(
        access.ListRoleBindingsRequest(member="user:alice"), **ADMIN
    )
    assert list(listed.bindings) == [one]
    got = await enforced.access.GetRoleBinding(access.GetRoleBindingRequest(name=one.name), **ADMIN)
    assert got.binding == one


async def test_callers_can_ask_who_they_are_and_what_they_may(enforced: Served) -> None:
    await grant(enforced, roles.ROLE_OPERATOR, "region-a")
    me = await enforced.access.WhoAmI(access.WhoAmIRequest(), **ALICE)
    assert (me.principal, me.enforced) == ("user:alice", True)
    assert [(g.role, g.domain, g.binding) for g in me.grants] == [
        (roles.ROLE_OPERATOR, "region-a", "domains/region-a/bindings/b1")
    ]
    method = "souverix.fleet.v1.FleetService/SetDesiredState"
    for domain, good in (("region-a", True), ("region-b", False)):
        request = access.CheckAccessRequest(method=method, domain=domain)
        mine = await enforced.access.CheckAccess(request, **ALICE)
        request.principal = "user:alice"
        told = await enforced.access.CheckAccess(request, **ADMIN)
        assert mine.allowed == told.allowed == good
        assert bool(mine.reason) != good
    other = access.CheckAccessRequest(method=method, domain="region-a", principal="user:bob")
    code, _, _ = await refusal(enforced.access.CheckAccess(other, **ALICE))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_without_enforcement_everybody_may(root: Served) -> None:
    await root.policies.CreatePolicy(policy_in("global"))
    me = await root.access.WhoAmI(access.WhoAmIRequest())
    assert (me.enforced, list(me.grants)) == (False, [])
