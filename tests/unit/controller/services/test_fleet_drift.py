"""Drift as clients see it: in reads, lists, watches and sums, and how it is waived."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import drift_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from tests.unit.controller.services.served import Served, refusal

IN_SPEC = drift_pb2.DRIFT_STATE_IN_SPEC
UNKNOWN = drift_pb2.DRIFT_STATE_UNKNOWN
DRIFTING = drift_pb2.DRIFT_STATE_DRIFTING


def soon(seconds: int = 3600) -> Timestamp:
    return Timestamp(seconds=int(time.time()) + seconds)


async def create_node(root: Served, node_id: str, domain: str = "", version: str = "") -> None:
    request = fleet.CreateNodeRequest(node_id=node_id, domain=domain)
    if version:
        request.desired_state.target_version = version
    await root.fleet.CreateNode(request)


async def report(root: Served, node_id: str, domain: str = "global", **actual: Any) -> None:
    """What the node link writes when a node reports."""
    config = actual.pop("config", None)
    body = node_pb2.ActualState(**actual)
    if config is not None:
        body.configuration.update(config)
    await root.replica.journal().submit(
        lambda p: p.write(
            domain, f"nodes/{node_id}", "actual_state", body, principal=f"node:{node_id}"
        )
    )


async def node(root: Served, node_id: str, **query: Any) -> node_pb2.Node:
    reply = await root.fleet.GetNode(fleet.GetNodeRequest(name=f"nodes/{node_id}", **query))
    found: node_pb2.Node = reply.node
    return found


async def ids(root: Served, **query: Any) -> list[str]:
    reply = await root.fleet.ListNodes(fleet.ListNodesRequest(**query))
    return [each.id for each in reply.nodes]


@pytest.fixture
async def drifting(root: Served) -> Served:
    """A controller with a node in spec, one that drifts in its version, and one that never reported."""
    for node_id in ("exact", "old", "silent"):
        await create_node(root, node_id, version="1.4.7")
    await report(root, "exact", reported_version="1.4.7")
    await report(root, "old", reported_version="1.3.0")
    return root


async def test_a_node_is_read_with_its_whole_drift(drifting: Served) -> None:
    old = (await node(drifting, "old")).drift
    assert (old.state, old.score, old.version_drifts[0].actual) == (DRIFTING, 2.0, "1.3.0")
    assert old.HasField("last_evaluated_time")
    assert old.HasField("last_sync_time")
    assert old.HasField("stale_by")
    assert (await node(drifting, "exact")).drift.state == IN_SPEC
    assert (await node(drifting, "silent")).drift.state == UNKNOWN
    masked = await node(drifting, "old", read_mask=FieldMask(paths=["id"]))
    assert not masked.HasField("drift")
    part = await node(drifting, "old", read_mask=FieldMask(paths=["drift.score"]))
    assert part.drift.score == 2.0


async def test_lists_show_counts_and_filter_by_drift(drifting: Served) -> None:
    reply = await drifting.fleet.ListNodes(fleet.ListNodesRequest())
    shown = {each.id: each.drift for each in reply.nodes}
    assert {name: each.state for name, each in shown.items()} == {
        "exact": IN_SPEC,
        "old": DRIFTING,
        "silent": UNKNOWN,
    }
    assert shown["old"].objects_out_of_spec == 1
    assert not shown["old"].version_drifts
    assert await ids(drifting, min_drift_score=2.0) == ["old"]
    assert await ids(drifting, min_drift_score=2.1) == []
    assert await ids(drifting, drift_states=[UNKNOWN, IN_SPEC]) == ["exact", "silent"]
    assert await ids(drifting, min_drift_score=1, read_mask=FieldMask(paths=["id"])) == ["old"]


@pytest.mark.parametrize("score", [-1.0, float("nan"), float("inf")])
async def test_a_score_that_is_none_is_refused(root: Served, score: float) -> None:
    call = root.fleet.ListNodes(fleet.ListNodesRequest(min_drift_score=score))
    code, info, _ = await refusal(call)
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "min_drift_score")


async def test_domains_are_shown_as_a_heat_map(drifting: Served) -> None:
    creation = fleet.CreateDomainRequest(domain_id="region-a")
    creation.spec.parent = "global"
    await drifting.fleet.CreateDomain(creation)
    await create_node(drifting, "far", domain="region-a", version="3.0.0")
    await report(drifting, "far", domain="region-a", reported_version="1.0.0")

    reply = await drifting.fleet.ListDomainDrifts(fleet.ListDomainDriftsRequest())

    root, region = reply.domains
    assert (root.domain, root.parent, region.domain, region.parent) == (
        "global", "", "region-a", "global",
    )  # fmt: skip
    assert (root.own.node_count, root.own.drifting_node_count, root.own.unknown_node_count) == (
        3, 1, 1,
    )  # fmt: skip
    assert (root.subtree.node_count, root.subtree.drifting_node_count) == (4, 2)
    assert root.own.severity == drift_pb2.DRIFT_SEVERITY_MEDIUM
    assert root.subtree.severity == drift_pb2.DRIFT_SEVERITY_HIGH
    assert (root.subtree.score, root.subtree.highest_score) == (7.0, 5.0)
    assert region.own == region.subtree
    assert region.HasField("as_of_time")
    assert reply.HasField("as_of_time")
    page = await drifting.fleet.ListDomainDrifts(fleet.ListDomainDriftsRequest(page_size=1))
    rest = await drifting.fleet.ListDomainDrifts(
        fleet.ListDomainDriftsRequest(page_size=1, page_token=page.next_page_token)
    )
    assert [page.domains[0].domain, rest.domains[0].domain] == ["global", "region-a"]
    code, _, _ = await refusal(
        drifting.fleet.ListDomainDrifts(fleet.ListDomainDriftsRequest(domain="nowhere"))
    )
    assert code == grpc.StatusCode.NOT_FOUND


async def test_a_domain_sums_up_its_drift_as_one_release(drifting: Served) -> None:
    reply = await drifting.fleet.GetDomain(fleet.GetDomainRequest(name="domains/global"))
    summary = reply.domain.summary
    assert summary.drift_objects == 1
    assert summary.cluster_state.drift.objects_out_of_spec == 1
    assert not summary.cluster_state.HasField("desired")
    assert summary.cluster_state.actual.version in ("1.4.7", "1.3.0")


async def test_a_drift_is_waived_and_the_waiver_is_taken_back(drifting: Served) -> None:
    etag = (await node(drifting, "old")).etag
    waived = await drifting.fleet.WaiveDrift(
        fleet.WaiveDriftRequest(
            name="nodes/old",
            field="target_version",
            reason="the new one fails on this board",
            expire_time=soon(),
            etag=etag,
            request_id="w1",
        )
    )
    assert waived.receipt.controller == "global-control"
    assert (waived.node.drift.state, waived.node.drift.waived_objects) == (IN_SPEC, 1)
    assert waived.node.drift.waived[0].version.actual == "1.3.0"
    (held,) = (await node(drifting, "old")).drift_waivers
    assert (held.principal, held.accepted_value.string_value) == ("user:anonymous", "1.3.0")
    assert await ids(drifting, drift_states=[DRIFTING]) == []

    await report(drifting, "old", reported_version="1.2.0")
    assert (await node(drifting, "old")).drift.state == DRIFTING
    await report(drifting, "old", reported_version="1.3.0")

    revoked = await drifting.fleet.RevokeDriftWaiver(
        fleet.RevokeDriftWaiverRequest(
            name="nodes/old", field="target_version", etag=waived.node.etag
        )
    )
    assert revoked.node.drift.state == DRIFTING
    assert not (await node(drifting, "old")).drift_waivers


async def test_a_waiver_is_repeated_and_validated_like_other_writes(drifting: Served) -> None:
    request = fleet.WaiveDriftRequest(
        name="nodes/old",
        field="target_version",
        reason="r",
        expire_time=soon(),
        request_id="w1",
        validate_only=True,
    )
    checked = await drifting.fleet.WaiveDrift(request)
    assert checked.node.drift.state == IN_SPEC
    assert not checked.HasField("receipt")
    assert (await node(drifting, "old")).drift.state == DRIFTING
    request.validate_only = False
    await drifting.fleet.WaiveDrift(request)
    assert (await drifting.fleet.WaiveDrift(request)).receipt.repeated_request


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"field": "colour"}, grpc.StatusCode.INVALID_ARGUMENT, "field"),
        ({"field": "x" * 2000}, grpc.StatusCode.INVALID_ARGUMENT, "field"),
        ({"reason": ""}, grpc.StatusCode.INVALID_ARGUMENT, "reason"),
        ({"expire_time": None}, grpc.StatusCode.INVALID_ARGUMENT, "expire_time"),
        ({"expire_time": Timestamp(seconds=1)}, grpc.StatusCode.INVALID_ARGUMENT, "expire_time"),
        (
            {"expire_time": Timestamp(seconds=2**62)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "expire_time",
        ),
        (
            {"field": "configuration.a"},
            grpc.StatusCode.FAILED_PRECONDITION,
            "configuration.a",
        ),
        ({"name": "nodes/none"}, grpc.StatusCode.NOT_FOUND, ""),
        ({"etag": "stale"}, grpc.StatusCode.ABORTED, ""),
    ],
)
async def test_a_waiver_that_cannot_be_is_refused(
    drifting: Served, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    given: dict[str, Any] = {
        "name": "nodes/old",
        "field": "target_version",
        "reason": "r",
        "expire_time": soon(),
    } | fields
    found, info, _ = await refusal(drifting.fleet.WaiveDrift(fleet.WaiveDriftRequest(**given)))
    assert (found, info.metadata.get("field", "")) == (code, field)
    assert not (await node(drifting, "old")).drift_waivers


async def test_a_waiver_that_is_not_there_cannot_be_revoked(drifting: Served) -> None:
    request = fleet.RevokeDriftWaiverRequest(name="nodes/old", field="target_version")
    code, _, text = await refusal(drifting.fleet.RevokeDriftWaiver(request))
    assert code == grpc.StatusCode.NOT_FOUND
    assert "waived are: none" in text


async def test_a_waiver_moves_with_its_node(drifting: Served) -> None:
    creation = fleet.CreateDomainRequest(domain_id="region-a")
    creation.spec.parent = "global"
    await drifting.fleet.CreateDomain(creation)
    await drifting.fleet.WaiveDrift(
        fleet.WaiveDriftRequest(
            name="nodes/old", field="target_version", reason="r", expire_time=soon()
        )
    )
    await drifting.fleet.MoveNode(fleet.MoveNodeRequest(name="nodes/old", domain="region-a"))
    moved = await node(drifting, "old")
    assert (moved.domain, moved.drift.state) == ("region-a", IN_SPEC)


async def test_a_watch_shows_drift_that_a_policy_brings(drifting: Served) -> None:
    watch = drifting.fleet.WatchNodes(fleet.WatchNodesRequest(drift_states=[DRIFTING]), timeout=20)
    steps = aiter(watch)
    first = await anext(steps)
    assert (first.existing.id, first.existing.drift.score) == ("old", 2.0)
    assert (await anext(steps)).bookmark.initial_state_complete

    spec = policy_pb2.PolicySpec(target_version="9.0.0", enforced=True)
    await drifting.policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="p", spec=spec)
    )

    changed = [await anext(steps), await anext(steps)]
    assert {step.changed.id: step.changed.drift.score for step in changed} == {
        "exact": 5.0,
        "old": 5.0,
    }
    watch.cancel()


async def test_a_watch_says_when_a_drift_has_healed(drifting: Served) -> None:
    watch = drifting.fleet.WatchNodes(fleet.WatchNodesRequest(min_drift_score=1), timeout=20)
    steps = aiter(watch)
    assert (await anext(steps)).existing.id == "old"
    assert (await anext(steps)).bookmark.initial_state_complete
    await report(drifting, "old", reported_version="1.4.7")
    removed = (await anext(steps)).removed
    assert removed.name == "nodes/old"
    assert removed.cause == fleet.REMOVAL_CAUSE_NO_LONGER_MATCHES
    watch.cancel()


async def test_rules_of_a_policy_are_checked_before_they_are_written(root: Served) -> None:
    wrong = policy_pb2.PolicySpec()
    wrong.drift_rules.severities["stir"] = drift_pb2.DRIFT_SEVERITY_UNSPECIFIED
    endless = policy_pb2.PolicySpec()
    endless.drift_rules.defaults.update({"a": float("inf")})
    for spec in (wrong, endless):
        request = policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="p", spec=spec)
        code, _, _ = await refusal(root.policies.CreatePolicy(request))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_resumed_watch_shows_what_a_policy_changed_meanwhile(drifting: Served) -> None:
    first = drifting.fleet.WatchNodes(fleet.WatchNodesRequest(drift_states=[DRIFTING]), timeout=20)
    token = ""
    async for step in first:
        if step.bookmark.resume_token:
            token = step.bookmark.resume_token
            break
    first.cancel()
    spec = policy_pb2.PolicySpec(target_version="9.0.0", enforced=True)
    await drifting.policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(domain="global", policy_id="p", spec=spec)
    )
    request = fleet.WatchNodesRequest(drift_states=[DRIFTING], resume_token=token)
    second = drifting.fleet.WatchNodes(request, timeout=20)
    shown = set()
    async for step in second:
        if step.WhichOneof("event") == "changed":
            shown.add((step.changed.id, step.changed.drift.score))
        if step.WhichOneof("event") == "bookmark":
            break
    assert shown == {("exact", 5.0), ("old", 5.0)}
    second.cancel()
