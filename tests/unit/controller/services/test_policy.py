from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc

from souverix.federation.v1 import authority_pb2
from souverix.policy.v1 import policy_pb2
from souverix.policy.v1 import policy_service_pb2 as policies
from tests.unit.controller.services.served import Served, hand_over, refusal, zone_served

NAME = "domains/global/policies/p1"
DEADLINE_S = 20.0


async def create(root: Served, policy_id: str = "p1", **fields: object) -> policy_pb2.Policy:
    request = policies.CreatePolicyRequest(
        domain="global",
        policy_id=policy_id,
        spec=policy_pb2.PolicySpec(version="v1"),
        **fields,  # type: ignore[arg-type]
    )
    created: policy_pb2.Policy = (await root.policies.CreatePolicy(request)).policy
    return created


async def test_created_policy_names_its_writer(root: Served) -> None:
    policy = await create(root)

    assert (policy.name, policy.id, policy.domain) == (NAME, "p1", "global")
    assert (policy.last_writer, policy.last_controller) == ("user:anonymous", "global-control")
    assert policy.sibling_count == 1
    assert policy.HasField("update_time")
    got = await root.policies.GetPolicy(policies.GetPolicyRequest(name=NAME))
    assert got.policy == policy


async def test_id_in_use_is_refused_and_a_deleted_one_may_be_used_again(root: Served) -> None:
    await create(root)
    code, info, _ = await refusal(create(root))
    assert (code, info.metadata["subject"]) == (grpc.StatusCode.ALREADY_EXISTS, NAME)

    await root.policies.DeletePolicy(policies.DeletePolicyRequest(name=NAME))
    code, _, _ = await refusal(root.policies.GetPolicy(policies.GetPolicyRequest(name=NAME)))
    assert code is grpc.StatusCode.NOT_FOUND
    assert (await create(root)).spec.version == "v1"


async def test_stale_etag_is_refused(root: Served) -> None:
    old = await create(root)
    update = policies.UpdatePolicyRequest(
        name=NAME, spec=policy_pb2.PolicySpec(version="v2"), etag=old.etag
    )
    new = (await root.policies.UpdatePolicy(update)).policy

    code, info, _ = await refusal(root.policies.UpdatePolicy(update))

    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert info.metadata["etag"] == new.etag
    assert new.spec.version == "v2"


async def test_repeat_of_a_request_is_its_first_outcome(root: Served) -> None:
    first = policies.CreatePolicyRequest(
        domain="global", policy_id="p1", spec=policy_pb2.PolicySpec(), request_id="r-1"
    )

    one = await root.policies.CreatePolicy(first)
    two = await root.policies.CreatePolicy(first)

    assert not one.receipt.repeated_request
    assert two.receipt.repeated_request
    assert one.policy == two.policy


async def test_validate_only_shows_what_would_be(root: Served) -> None:
    before = root.replica.state.next_offset

    policy = await create(root, validate_only=True)

    assert policy.spec.version == "v1"
    assert root.replica.state.next_offset == before


async def test_bad_field_is_named(root: Served) -> None:
    for request, field in (
        (policies.CreatePolicyRequest(domain="global", policy_id="P"), "policy_id"),
        (policies.CreatePolicyRequest(policy_id="p"), "domain"),
        (policies.CreatePolicyRequest(domain="global", policy_id="p"), "spec"),
        (
            policies.CreatePolicyRequest(
                domain="global", policy_id="p", spec=policy_pb2.PolicySpec(tags=["x" * 200])
            ),
            "spec.tags[0]",
        ),
    ):
        code, info, _ = await refusal(root.policies.CreatePolicy(request))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_policies_are_listed_by_name_in_pages(root: Served) -> None:
    for policy_id in ("c", "a", "b"):
        await create(root, policy_id)
    await root.policies.DeletePolicy(policies.DeletePolicyRequest(name="domains/global/policies/b"))
    request = policies.ListPoliciesRequest(domain="global", page_size=1)

    first = await root.policies.ListPolicies(request)
    request.page_token = first.next_page_token
    second = await root.policies.ListPolicies(request)

    assert [p.id for p in (*first.policies, *second.policies)] == ["a", "c"]
    assert second.next_page_token == ""


async def test_watch_sends_state_changes_and_deletions_and_resumes(root: Served) -> None:
    async def read(stream: Any) -> policies.WatchPoliciesResponse:
        step: policies.WatchPoliciesResponse = await asyncio.wait_for(stream.read(), DEADLINE_S)
        return step

    await create(root, "a")
    stream = root.policies.WatchPolicies(policies.WatchPoliciesRequest(domain="global"))
    existing, bookmark = await read(stream), await read(stream)
    await create(root, "b")
    changed = await read(stream)
    stream.cancel()
    await root.policies.DeletePolicy(policies.DeletePolicyRequest(name="domains/global/policies/a"))
    again = root.policies.WatchPolicies(
        policies.WatchPoliciesRequest(domain="global", resume_token=changed.resume_token)
    )
    steps = [await read(again) for _ in range(3)]
    again.cancel()

    assert existing.changed.id == "a"
    assert bookmark.bookmark
    assert changed.changed.id == "b"
    assert steps[0].deleted == "domains/global/policies/a"
    assert steps[1].changed.id == "b"
    assert steps[2].bookmark


async def test_policy_with_a_version_needs_both_permissions(tmp_path: Path) -> None:
    autonomy = authority_pb2.Autonomy(can_operate_isolated=True, can_modify_policies=True)
    async with zone_served(tmp_path, autonomy, master="global-control") as (zone, _):
        plain = policies.CreatePolicyRequest(
            domain="edge-a1", policy_id="p1", spec=policy_pb2.PolicySpec(version="x")
        )
        versioned = policies.CreatePolicyRequest(
            domain="edge-a1", policy_id="p2", spec=policy_pb2.PolicySpec(target_version="v2")
        )

        reply = await zone.policies.CreatePolicy(plain)
        code, info, _ = await refusal(zone.policies.CreatePolicy(versioned))

        assert reply.policy.optimistic
        assert reply.receipt.optimistic
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert info.metadata["permission"] == "can_deploy_versions"


async def test_concurrent_values_are_counted_and_change_the_etag(tmp_path: Path) -> None:
    async with zone_served(tmp_path, authority_pb2.Autonomy()) as (zone, root):
        created = await zone.policies.CreatePolicy(
            policies.CreatePolicyRequest(
                domain="edge-a1", policy_id="p1", spec=policy_pb2.PolicySpec(version="zone")
            )
        )
        root.submit(
            lambda p: p.write(
                "edge-a1",
                "policies/p1",
                "policy",
                policy_pb2.PolicySpec(version="above"),
                principal="user:x",
            )
        )
        await hand_over(root, zone)

        policy = (
            await zone.policies.GetPolicy(
                policies.GetPolicyRequest(name="domains/edge-a1/policies/p1")
            )
        ).policy

        assert policy.sibling_count == 2
        assert policy.etag != created.policy.etag
