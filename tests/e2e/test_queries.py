"""Queries from end to end: real controllers and real agents. A filter finds them, an overview counts them, their past
is told, and so is why their values are what they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks import queries
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import connectivity_pb2, history_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.e2e.clients import DEADLINE_S, Clients, wait_until

ZONE = "edge-zone-a1"
AGENTS = 2
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, "global", log="sqlite"),
    ]
    with LocalFederation(tmp_path_factory.mktemp("federation"), plans) as running:
        running.start_all()
        running.start_simulated_agents(ZONE, AGENTS)
        yield running


@pytest.fixture(scope="module")
def top(federation: LocalFederation) -> Iterator[Clients]:
    with Clients(federation.address("global")) as clients:
        wait_until(
            lambda: len(found(clients, "mode = LIVE AND config_hash:* OR version:*")) == AGENTS,
            "the agents are live and have reported",
        )
        yield clients


def found(clients: Clients, text: str, order_by: str = "") -> list[str]:
    request = fleet.ListNodesRequest(
        domain="global", include_subtree=True, filter=text, order_by=order_by
    )
    reply = clients.fleet.ListNodes(request, timeout=DEADLINE_S)
    assert reply.total_size == len(reply.nodes)
    return [node.id for node in reply.nodes]


def test_filters_find_nodes_that_agents_report_at_every_level(top: Clients) -> None:
    names = [f"{ZONE}-n{number}" for number in range(1, AGENTS + 1)]
    assert found(top, f"domain = {ZONE} AND phase:*") == names
    assert found(top, f"id = {ZONE}-*", "id desc") == names[::-1]
    assert found(top, "mode = DISCONNECTED") == []
    with pytest.raises(grpc.RpcError) as caught:
        found(top, "colour = red")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_overview_counts_them_at_the_root(top: Clients) -> None:
    reply = top.fleet.ListDomainOverviews(fleet.ListDomainOverviewsRequest(), timeout=DEADLINE_S)
    root, zone = reply.overviews
    assert (root.domain, root.node_count, root.subtree_node_count) == ("global", 0, AGENTS)
    assert (zone.domain, zone.node_count) == (ZONE, AGENTS)
    assert {each.mode: each.node_count for each in zone.modes} == {LIVE: AGENTS}
    assert zone.HasField("oldest_report_time")


def test_the_past_is_told_and_explained(federation: LocalFederation, top: Clients) -> None:
    name = f"nodes/{ZONE}-n1"
    then = Timestamp()
    then.FromNanoseconds(time.time_ns())
    with Clients(federation.address(ZONE)) as zone:
        before = zone.fleet.GetNode(fleet.GetNodeRequest(name=name), timeout=DEADLINE_S).node
        change = fleet.UpdateNodeRequest(name=name, spec=node_pb2.NodeSpec(zone="north"))
        zone.fleet.UpdateNode(change, timeout=DEADLINE_S)
        past = zone.fleet.GetNode(
            fleet.GetNodeRequest(name=name, as_of_time=then), timeout=DEADLINE_S
        ).node
        assert (past.spec.zone, past.etag) == (before.spec.zone, before.etag)
        assert past.authority == before.authority
        by_zone = fleet.ListNodesRequest(filter="zone = north")
        assert [n.name for n in zone.fleet.ListNodes(by_zone, timeout=DEADLINE_S).nodes] == [name]
        by_zone.as_of_time.CopyFrom(then)
        assert not zone.fleet.ListNodes(by_zone, timeout=DEADLINE_S).nodes
        counted = fleet.ListDomainOverviewsRequest(domain=ZONE, as_of_time=then)
        overview = zone.fleet.ListDomainOverviews(counted, timeout=DEADLINE_S).overviews[0]
        assert {each.mode: each.node_count for each in overview.modes} == {LIVE: AGENTS}
        request = fleet.ListNodeEventsRequest(name=name, aspects=["node_spec"])
        events = zone.fleet.ListNodeEvents(request, timeout=DEADLINE_S).events
        assert events[0].document["zone"] == "north"
        assert events[0].standing == history_pb2.EVENT_STANDING_CURRENT
    why = top.fleet.ExplainNode(
        fleet.ExplainNodeRequest(name=name, field="mode"), timeout=DEADLINE_S
    )
    assert why.value.string_value == "CONNECTIVITY_MODE_LIVE"
    assert why.chain[0].role == history_pb2.EXPLANATION_ROLE_DECIDES
    assert why.chain[0].event.controller == f"{ZONE}-control"


def test_latencies_of_queries_are_measured_one_by_one(
    federation: LocalFederation, top: Clients
) -> None:
    address = federation.address("global")
    assert len(queries.overview_latencies(address, 3)) == 3
    assert all(taken > 0 for taken in queries.filtered_page_latencies(address, 6))
    assert len(queries.node_latencies(address, [f"{ZONE}-n1"], 2)) == 2
