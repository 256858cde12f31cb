"""A cut anywhere in a tree of three levels is told at every level, with real processes: the nodes beyond it are unknown
since then, never live, and known again when it has healed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.federation.v1 import federation_service_pb2
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2
from tests.e2e.clients import DEADLINE_S, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy

REGION, ZONE = "region-a", "edge-zone-a1"
NODE, REGIONS_NODE, TOPS_NODE = "a1-gw-1", "ra-gw-1", "g-gw-1"
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE

#: Short, so that a cut shows within the test.
CONNECTIVITY = """
[connectivity]
autonomous_after_s = 1.0
"""


@dataclass(frozen=True)
class Running:
    """Three levels, each with a node, and the links between them."""

    federation: LocalFederation
    region_link: LinkProxy
    zone_link: LinkProxy
    top: Clients
    region: Clients
    zone: Clients


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan(REGION, "global", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE, REGION, log="sqlite"),
    ]
    federation = LocalFederation(tmp_path, plans)
    with (
        LinkProxy(federation.address("global")) as region_link,
        LinkProxy(federation.address(REGION)) as zone_link,
    ):
        federation.parent_addresses[f"{REGION}-control"] = [region_link.endpoint]
        federation.parent_addresses[f"{ZONE}-control"] = [zone_link.endpoint]
        with federation as laid_out:
            for domain in ("global", REGION, ZONE):
                path = laid_out.config_path(domain)
                path.write_text(path.read_text() + CONNECTIVITY)
            laid_out.start_all()
            with (
                Clients(laid_out.address("global")) as top,
                Clients(laid_out.address(REGION)) as region,
                Clients(laid_out.address(ZONE)) as zone,
            ):
                yield Running(laid_out, region_link, zone_link, top, region, zone)


def connectivity_at(clients: Clients, node: str) -> connectivity_pb2.Connectivity:
    request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
    try:
        found: connectivity_pb2.Connectivity = clients.fleet.GetNode(
            request, timeout=DEADLINE_S
        ).node.connectivity
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return connectivity_pb2.Connectivity()
        raise
    return found


def is_live(clients: Clients, node: str) -> bool:
    return connectivity_at(clients, node).link.mode == LIVE


def is_unknown(clients: Clients, node: str) -> bool:
    known = connectivity_at(clients, node)
    return known.HasField("unknown_since") and not known.HasField("link")


def test_a_cut_below_the_region_is_known_at_the_top(running: Running) -> None:
    running.federation.start_agent(ZONE, NODE)
    wait_until(lambda: is_live(running.top, NODE), "the node live at the top")
    running.zone_link.cut()
    wait_until(lambda: is_unknown(running.top, NODE), "the node unknown at the top")
    known = connectivity_at(running.top, NODE)
    assert known.last_known.mode == LIVE
    at_region = connectivity_at(running.region, NODE)
    apart_ms = known.unknown_since.ToMilliseconds() - at_region.unknown_since.ToMilliseconds()
    assert abs(apart_ms) < 5_000
    topology = running.top.federation.GetTopology(
        federation_service_pb2.GetTopologyRequest(), timeout=DEADLINE_S
    )
    cut_off = {d.domain for d in topology.domains if d.HasField("unknown_since")}
    assert cut_off == {ZONE}
    request = fleet_service_pb2.ListNodesRequest(domain=ZONE, modes=[LIVE])
    assert not running.top.fleet.ListNodes(request, timeout=DEADLINE_S).nodes
    running.zone_link.heal()
    wait_until(lambda: is_live(running.top, NODE), "the node live again at the top")


def test_a_cut_above_the_region_makes_all_below_unknown_and_what_is_above_too(
    running: Running,
) -> None:
    federation = running.federation
    federation.start_agent(ZONE, NODE)
    federation.start_agent("global", TOPS_NODE)
    wait_until(lambda: is_live(running.top, NODE), "the zone's node live at the top")
    wait_until(lambda: is_live(running.zone, TOPS_NODE), "the top's node live in the zone")
    running.region_link.cut()
    wait_until(lambda: is_unknown(running.top, NODE), "the zone's node unknown at the top")
    wait_until(lambda: is_unknown(running.zone, TOPS_NODE), "the top's node unknown in the zone")
    assert is_live(running.region, NODE)
    running.region_link.heal()
    wait_until(lambda: is_live(running.top, NODE), "the zone's node live again at the top")
    wait_until(lambda: is_live(running.zone, TOPS_NODE), "the top's node live again in the zone")


def test_a_region_that_dies_and_comes_back_tells_what_it_misses(running: Running) -> None:
    federation = running.federation
    federation.start_agent(ZONE, NODE)
    federation.start_agent(REGION, REGIONS_NODE)
    wait_until(lambda: is_live(running.top, NODE), "the zone's node live at the top")
    wait_until(lambda: is_live(running.top, REGIONS_NODE), "the region's node live at the top")
    federation.processes[f"{REGION}/r1"].kill()
    wait_until(lambda: is_unknown(running.top, NODE), "the zone's node unknown at the top")
    assert is_unknown(running.top, REGIONS_NODE)
    running.zone_link.cut()
    federation.start_controller(REGION)
    wait_until(lambda: is_live(running.top, REGIONS_NODE), "the region's node live again")
    wait_until(lambda: is_unknown(running.top, NODE), "the zone's node is not")
    running.zone_link.heal()
    wait_until(lambda: is_live(running.top, NODE), "the zone's node live again")
