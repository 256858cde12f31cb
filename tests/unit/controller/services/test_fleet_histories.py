"""Histories of nodes, and how a node is shown whose controller cannot be reached."""

from __future__ import annotations

from pathlib import Path

import grpc

from federation.proposal import Proposal
from souverix.federation.v1 import authority_pb2
from souverix.fleet.v1 import (
    connectivity_pb2,
    domain_pb2,
    fleet_service_pb2,
    lifecycle_pb2,
    node_pb2,
)
from tests.federation_fixture import ROOT
from tests.unit.controller.services.served import (
    Served,
    hand_over,
    refusal,
    root_served,
    zone_served,
)

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
UNSPECIFIED = connectivity_pb2.CONNECTIVITY_MODE_UNSPECIFIED


def write_node(proposal: Proposal, domain: str) -> None:
    for aspect, body in (
        ("existence", domain_pb2.Existence(exists=True)),
        ("placement", node_pb2.Placement(domain=domain, epoch=1)),
        ("node_spec", node_pb2.NodeSpec()),
    ):
        proposal.write(domain, "nodes/n1", aspect, body, principal="user:a")


def write_link(proposal: Proposal, domain: str, mode: int, reason: str = "") -> None:
    link = connectivity_pb2.LinkState(mode=mode, reason=reason)  # type: ignore[arg-type]
    proposal.write(domain, "nodes/n1", "link_state", link, principal="controller:x")


async def test_the_ledger_holds_every_transition_also_those_of_one_commit(tmp_path: Path) -> None:
    async with root_served(tmp_path) as served:

        def flap(proposal: Proposal) -> None:
            write_node(proposal, ROOT)
            for number in range(70):
                write_link(proposal, ROOT, AUTONOMOUS if number % 2 else LIVE, f"r{number}")

        await served.replica.journal().submit(flap)
        request = fleet_service_pb2.ListConnectivityHistoryRequest(name="nodes/n1")
        reply = await served.fleet.ListConnectivityHistory(request)
        assert reply.ledger.node == "n1"
        reasons = [link.reason for link in reply.ledger.history]
        assert reasons == [f"r{number}" for number in range(6, 70)]
        assert all(link.HasField("since") for link in reply.ledger.history)
        assert reply.HasField("as_of_time")


async def test_a_history_is_cut_to_the_time_asked_for(tmp_path: Path) -> None:
    async with root_served(tmp_path) as served:
        await served.replica.journal().submit(lambda p: write_node(p, ROOT))
        await served.replica.journal().submit(lambda p: write_link(p, ROOT, LIVE))
        request = fleet_service_pb2.ListConnectivityHistoryRequest(name="nodes/n1")
        (link,) = (await served.fleet.ListConnectivityHistory(request)).ledger.history
        request.start_time.CopyFrom(link.since)
        assert (await served.fleet.ListConnectivityHistory(request)).ledger.history
        request.end_time.CopyFrom(link.since)
        assert not (await served.fleet.ListConnectivityHistory(request)).ledger.history
        request.end_time.FromMilliseconds(link.since.ToMilliseconds() - 1)
        code, info, _ = await refusal(served.fleet.ListConnectivityHistory(request))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "end_time")


async def test_the_timeline_tells_who_decided(tmp_path: Path) -> None:
    async with root_served(tmp_path) as served:

        def begin(proposal: Proposal) -> None:
            write_node(proposal, ROOT)
            state = lifecycle_pb2.LifecycleState(phase=lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING)
            proposal.write(ROOT, "nodes/n1", "lifecycle", state, principal="user:a")

        await served.replica.journal().submit(begin)
        request = fleet_service_pb2.ListLifecycleHistoryRequest(name="nodes/n1")
        (entered,) = (await served.fleet.ListLifecycleHistory(request)).timeline.transitions
        assert entered.decided_by == "user:a"


async def test_the_history_of_an_unknown_node_is_not_found(tmp_path: Path) -> None:
    async with root_served(tmp_path) as served:
        for method, request in (
            (
                served.fleet.ListConnectivityHistory,
                fleet_service_pb2.ListConnectivityHistoryRequest(name="nodes/n1"),
            ),
            (
                served.fleet.ListLifecycleHistory,
                fleet_service_pb2.ListLifecycleHistoryRequest(name="nodes/n1"),
            ),
        ):
            code, _, _ = await refusal(method(request))
            assert code is grpc.StatusCode.NOT_FOUND


async def test_a_node_whose_controller_cannot_be_reached_is_unknown_and_never_live(
    tmp_path: Path,
) -> None:
    async with zone_served(tmp_path, authority_pb2.Autonomy()) as (served, root):
        root.submit(lambda p: write_node(p, ROOT))
        root.submit(lambda p: write_link(p, ROOT, LIVE))
        await hand_over(root, served)
        served.forwarder.up.add(root.name)
        get = fleet_service_pb2.GetNodeRequest(name="nodes/n1")
        known = (await served.fleet.GetNode(get)).node.connectivity
        assert known.link.mode == LIVE
        assert not known.HasField("unknown_since")
        assert known.sync_debt.behind.ToMilliseconds() == 0
        assert await _summary(served) == {LIVE: 1}

        served.forwarder.up.clear()
        heard_ms = known.sync_debt.as_of_time.ToMilliseconds() + 5_000
        served.forwarder.heard_ms[root.name] = heard_ms
        unknown = (await served.fleet.GetNode(get)).node.connectivity
        assert not unknown.HasField("link")
        assert unknown.last_known.mode == LIVE
        assert unknown.unknown_since.ToMilliseconds() == heard_ms
        assert await _summary(served) == {UNSPECIFIED: 1}
        listed = fleet_service_pb2.ListNodesRequest(domain=ROOT, modes=[LIVE])
        assert not (await served.fleet.ListNodes(listed)).nodes
        domain = fleet_service_pb2.GetDomainRequest(name=f"domains/{ROOT}")
        assert (await served.fleet.GetDomain(domain)).domain.summary.mode == AUTONOMOUS


async def _summary(served: Served) -> dict[int, int]:
    request = fleet_service_pb2.GetDomainRequest(name=f"domains/{ROOT}")
    summary = (await served.fleet.GetDomain(request)).domain.summary
    return {each.mode: each.node_count for each in summary.modes}
