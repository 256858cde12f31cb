"""The fleet graph with real processes on three levels: edges declared at one level are known at the others, health
follows the nodes and the links between controllers, and an operator sees it all by the command line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import connectivity_pb2, node_pb2
from souverix.graph.v1 import graph_pb2, graph_service_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.link_proxy import LinkProxy

REGION, ZONE_1, ZONE_2 = "region-a", "edge-zone-a1", "edge-zone-a2"
ONE, TWO = "a1-gw-1", "a2-gw-1"
OK, UNKNOWN = graph_pb2.EDGE_HEALTH_STATE_OK, graph_pb2.EDGE_HEALTH_STATE_UNKNOWN
DOWN = graph_pb2.EDGE_HEALTH_STATE_DOWN

#: Short, so that a cut shows within the test.
CONNECTIVITY = """
[connectivity]
autonomous_after_s = 1.0
"""


@dataclass(frozen=True)
class Running:
    """Two zones below a region, a node in each, and the link of the first zone."""

    federation: LocalFederation
    zone_link: LinkProxy
    clients: dict[str, Clients]

    def graph(self, domain: str) -> Any:
        return self.clients[domain].graph

    def ctl(self, domain: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "souverixctl.main", *arguments]
        command += ["--server", self.federation.address(domain), "--principal", "user:tester"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    plans = [
        DomainPlan("global", kind="global", level="global", log="sqlite"),
        DomainPlan(REGION, "global", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE_1, REGION, log="sqlite"),
        DomainPlan(ZONE_2, REGION, log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("graph"), plans)
    with LinkProxy(federation.address(REGION)) as zone_link:
        federation.parent_addresses[f"{ZONE_1}-control"] = [zone_link.endpoint]
        with federation as laid_out:
            for plan in plans:
                path = laid_out.config_path(plan.domain)
                path.write_text(path.read_text() + CONNECTIVITY)
            laid_out.start_all()
            laid_out.start_agent(ZONE_1, ONE)
            laid_out.start_agent(ZONE_2, TWO)
            with contextlib.ExitStack() as stack:
                clients = {
                    plan.domain: stack.enter_context(Clients(laid_out.address(plan.domain)))
                    for plan in plans
                }
                yield Running(laid_out, zone_link, clients)


def signaling(start: str, end: str) -> node_pb2.Relationship:
    return node_pb2.Relationship(
        from_node=start, to_node=end, type=node_pb2.RELATIONSHIP_TYPE_SIGNALING
    )


def all_live(running: Running, at: str) -> bool:
    reply = running.graph(at).GetGraph(
        graph_service_pb2.GetGraphRequest(root="domains/global", depth=5), timeout=DEADLINE_S
    )
    live = connectivity_pb2.CONNECTIVITY_MODE_LIVE
    modes = {v.name: v.mode for v in reply.vertices}
    return modes.get(f"nodes/{ONE}") == live and modes.get(f"nodes/{TWO}") == live


def test_an_edge_between_zones_is_declared_at_the_top_held_by_the_region_and_known_in_both(
    running: Running,
) -> None:
    wait_until(lambda: all_live(running, "global"), "both nodes live at the top")
    request = graph_service_pb2.CreateRelationshipRequest(
        relationship_id="between", spec=signaling(ONE, TWO), request_id="q-1"
    )
    reply = running.graph("global").CreateRelationship(
        request, timeout=DEADLINE_S, metadata=PRINCIPAL
    )
    assert reply.relationship.domain == REGION
    assert reply.receipt.controller == f"{REGION}-control"
    name = graph_service_pb2.GetRelationshipRequest(name=reply.relationship.name)

    def state_at(domain: str) -> int:
        try:
            got = running.graph(domain).GetRelationship(name, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return 0
            raise
        return int(got.relationship.health.state)

    wait_until(lambda: state_at("global") == OK, "the edge healthy at the top")
    wait_until(lambda: state_at(ZONE_1) != 0, "the edge known in the first zone")
    wait_until(lambda: state_at(ZONE_2) != 0, "the edge known in the second zone")
    running.zone_link.cut()
    wait_until(lambda: state_at("global") == UNKNOWN, "the edge unknown at the top")
    assert state_at(REGION) == UNKNOWN
    top = running.graph("global").GetRelationship(name, timeout=DEADLINE_S).relationship
    assert top.health.HasField("unknown_since")
    document = json.loads(running.ctl("global", "graph", "domains/region-a", "-o", "json"))
    session = next(e for e in document["edges"] if e["from"] == f"controllers/{ZONE_1}-control")
    assert session["health"]["state"] == "EDGE_HEALTH_STATE_DOWN"
    running.zone_link.heal()
    wait_until(lambda: state_at("global") == OK, "the edge healthy again")


def test_a_zone_declares_its_own_edges_while_it_is_cut_off_and_asks_for_others(
    running: Running,
) -> None:
    running.zone_link.cut()
    try:
        spec = node_pb2.Relationship(
            from_node=ONE, to_domain=ZONE_1, type=node_pb2.RELATIONSHIP_TYPE_MEDIA
        )
        request = graph_service_pb2.CreateRelationshipRequest(relationship_id="own", spec=spec)
        made = running.graph(ZONE_1).CreateRelationship(
            request, timeout=DEADLINE_S, metadata=PRINCIPAL
        )
        assert made.relationship.domain == ZONE_1
        with pytest.raises(grpc.RpcError) as refused:
            running.graph(ZONE_1).CreateRelationship(
                graph_service_pb2.CreateRelationshipRequest(spec=signaling(ONE, TWO)),
                timeout=DEADLINE_S,
                metadata=PRINCIPAL,
            )
        assert reason_of(refused.value) == "NOT_FOUND"
    finally:
        running.zone_link.heal()
    wait_until(
        lambda: ZONE_1 in running.ctl("global", "get", "relationships", "--subtree"),
        "the zone's edge at the top",
    )


def test_an_operator_draws_the_graph_and_asks_what_fails_with_a_node(running: Running) -> None:
    wait_until(lambda: all_live(running, "global"), "both nodes live at the top")
    running.ctl("global", "create", "relationship", TWO, ONE, "--type", "media", "--id", "back")
    tree = running.ctl("global", "graph", "global", "--depth", "4")
    for vertex in (f"domains/{ZONE_1}", f"nodes/{ONE}", f"controllers/{REGION}-control"):
        assert vertex in tree
    dot = running.ctl("global", "graph", "--depth", "4", "--format", "dot")
    assert dot.startswith("digraph fleet {")
    assert f'"nodes/{TWO}" -> "nodes/{ONE}" [label="media"' in dot
    impact = running.ctl("global", "graph", "impact", ONE, "--type", "media")
    assert f"nodes/{TWO}" in impact
    assert "yes" in impact
    ways = running.ctl("global", "graph", "paths", TWO, ONE)
    assert f"nodes/{TWO} → nodes/{ONE}" in ways
    running.ctl("global", "delete", "relationship", f"{REGION}/back", "--reason", "rewired")
    assert "back" not in running.ctl("global", "get", "relationships", "--subtree")


def test_a_node_that_stops_takes_its_edges_down(running: Running) -> None:
    wait_until(lambda: all_live(running, "global"), "both nodes live at the top")
    watch = running.graph("global").WatchGraph(
        graph_service_pb2.WatchGraphRequest(
            root=f"nodes/{TWO}", depth=1, edge_types=[graph_pb2.EDGE_TYPE_CONTROL]
        ),
        timeout=DEADLINE_S,
    )
    first = list(itertools.takewhile(lambda step: not step.HasField("bookmark"), watch))
    assert [step.edge.health.state for step in first if step.HasField("edge")] == [OK]
    running.federation.processes[f"agent/{TWO}"].stop()
    fallen = next(step.edge for step in watch if step.HasField("edge"))
    watch.cancel()
    assert fallen.health.state == DOWN
    assert fallen.health.reason == f"nodes/{TWO} is DISCONNECTED"
