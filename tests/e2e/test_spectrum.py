"""Nodes on the connectivity spectrum with real processes: an agent cut off, frozen, killed and back, one that takes its
leave, a zone cut off from its region, whose nodes are unknown above; and a life with its timeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2, lifecycle_pb2, node_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"
NODE = "a1-gw-1"
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
DISCONNECTED = connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED
RETURNING = connectivity_pb2.CONNECTIVITY_MODE_RETURNING
REPLAYING = connectivity_pb2.CONNECTIVITY_MODE_REPLAYING
ACTIVE = lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE

#: Short, so that a cut shows within the test; a backlog of two reports is a replay.
CONNECTIVITY = """
[connectivity]
autonomous_after_s = 1.0
replay_backlog = 2
"""

#: So that a backlog gathers within the test.
OFTEN = ("--report-interval", "0.3")


class AgentsByProxy(LocalFederation):
    """A federation whose agents of the zone dial through a proxy."""

    agents_dial = ""

    def server(self, domain: str) -> str:
        return self.agents_dial if domain == ZONE else super().server(domain)


@dataclass(frozen=True)
class Running:
    """A region and a zone, and the links that a test can cut: of the zone's controller, and of its agents."""

    federation: LocalFederation
    zone_link: LinkProxy
    agent_link: LinkProxy


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    plans = [
        DomainPlan("region-a", kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite"),
    ]
    federation = AgentsByProxy(tmp_path, plans)
    with (
        LinkProxy(federation.address("region-a")) as zone_link,
        LinkProxy(federation.address(ZONE)) as agent_link,
    ):
        federation.parent_addresses[f"{ZONE}-control"] = [zone_link.endpoint]
        federation.agents_dial = agent_link.endpoint
        with federation as laid_out:
            path = laid_out.config_path(ZONE)
            path.write_text(path.read_text() + CONNECTIVITY)
            laid_out.start_all()
            yield Running(laid_out, zone_link, agent_link)


def node_at(clients: Clients) -> node_pb2.Node | None:
    request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{NODE}")
    try:
        found: node_pb2.Node = clients.fleet.GetNode(request, timeout=DEADLINE_S).node
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return found


def mode_at(clients: Clients) -> int:
    node = node_at(clients)
    return node.connectivity.link.mode if node is not None else 0


def phase_at(clients: Clients) -> int:
    node = node_at(clients)
    return node.lifecycle.phase if node is not None else 0


def modes_through(clients: Clients) -> list[int]:
    request = fleet_service_pb2.ListConnectivityHistoryRequest(name=f"nodes/{NODE}")
    reply = clients.fleet.ListConnectivityHistory(request, timeout=DEADLINE_S)
    return [link.mode for link in reply.ledger.history]


def counted_live(clients: Clients) -> int:
    request = fleet_service_pb2.GetDomainRequest(name=f"domains/{ZONE}")
    summary = clients.fleet.GetDomain(request, timeout=DEADLINE_S).domain.summary
    return sum(each.node_count for each in summary.modes if each.mode == LIVE)


def test_a_node_that_was_cut_off_returns_and_replays_what_it_recorded(running: Running) -> None:
    federation = running.federation
    with Clients(federation.address(ZONE)) as zone, Clients(federation.address("region-a")) as top:
        federation.start_agent(ZONE, NODE, *OFTEN)
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live")
        running.agent_link.cut()
        wait_until(lambda: mode_at(zone) == AUTONOMOUS, "the node is autonomous")
        away = node_at(zone)
        assert away is not None
        assert away.connectivity.link.reason == "connection_lost"
        assert "limit 1 s" in away.connectivity.link.evidence
        assert away.connectivity.sync_debt.HasField("behind")
        running.agent_link.heal()
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live again")
        went = modes_through(zone)
        back = went[went.index(AUTONOMOUS) + 1 :]
        assert back[0] == RETURNING
        assert back[-1] == LIVE
        assert set(back[1:-1]) <= {REPLAYING}
        node = node_at(zone)
        assert node is not None
        assert node.connectivity.link.reason == "replay_completed"
        wait_until(lambda: modes_through(top) == modes_through(zone), "the same ledger above")


def test_a_frozen_agents_node_is_autonomous_until_it_thaws(running: Running) -> None:
    federation = running.federation
    with Clients(federation.address(ZONE)) as zone:
        agent = federation.start_agent(ZONE, NODE)
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live")
        agent.pause()
        wait_until(lambda: mode_at(zone) == AUTONOMOUS, "a frozen node is autonomous")
        agent.resume()
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live again")


def test_an_agent_that_dies_and_one_that_takes_its_leave_are_told_apart(running: Running) -> None:
    federation = running.federation
    with Clients(federation.address(ZONE)) as zone:
        agent = federation.start_agent(ZONE, NODE)
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live")
        agent.kill()
        wait_until(lambda: mode_at(zone) == AUTONOMOUS, "a killed agent's node is autonomous")
        again = federation.start_agent(ZONE, NODE)
        wait_until(lambda: mode_at(zone) == LIVE, "the node is live once more")
        again.stop()
        wait_until(lambda: mode_at(zone) == DISCONNECTED, "the node took its leave")
        node = node_at(zone)
        assert node is not None
        assert node.connectivity.link.reason == "agent_stopped"


def test_nodes_of_a_zone_that_is_cut_off_are_unknown_above_and_live_again_after(
    running: Running,
) -> None:
    link, federation = running.zone_link, running.federation
    with Clients(federation.address(ZONE)) as zone, Clients(federation.address("region-a")) as top:
        federation.start_agent(ZONE, NODE)
        wait_until(lambda: mode_at(top) == LIVE, "the region sees the node live")
        assert counted_live(top) == 1
        link.cut()

        def is_unknown() -> bool:
            node = node_at(top)
            return node is not None and node.connectivity.HasField("unknown_since")

        wait_until(is_unknown, "the region says that it does not know")
        unknown = node_at(top)
        assert unknown is not None
        assert not unknown.connectivity.HasField("link")
        assert unknown.connectivity.last_known.mode == LIVE
        assert unknown.connectivity.HasField("last_known_age")
        assert counted_live(top) == 0
        request = fleet_service_pb2.ListNodesRequest(domain=ZONE, modes=[LIVE])
        assert not top.fleet.ListNodes(request, timeout=DEADLINE_S).nodes
        assert mode_at(zone) == LIVE
        link.heal()
        wait_until(lambda: mode_at(top) == LIVE, "the region knows again")
        assert counted_live(top) == 1


def test_a_life_is_led_from_the_top_and_told_at_every_level(
    running: Running,
) -> None:
    federation = running.federation
    with Clients(federation.address(ZONE)) as zone, Clients(federation.address("region-a")) as top:
        federation.start_agent(ZONE, NODE)
        wait_until(lambda: mode_at(top) == LIVE, "the region sees the node")

        def transit(transition: str, **fields: Any) -> None:
            asked = fleet_service_pb2.TransitionNodeRequest(
                name=f"nodes/{NODE}", transition=f"LIFECYCLE_TRANSITION_{transition}", **fields
            )
            top.fleet.TransitionNode(asked, timeout=DEADLINE_S, metadata=PRINCIPAL)

        wait_until(lambda: phase_at(top) == ACTIVE, "the node is in service by itself")
        with pytest.raises(grpc.RpcError) as refused:
            transit("ACTIVATE")
        assert reason_of(refused.value) == "FAILED_PRECONDITION"
        transit("QUARANTINE", reason="seal broken", exit_condition="new seal")
        request = fleet_service_pb2.ListLifecycleHistoryRequest(name=f"nodes/{NODE}")

        def phases(clients: Clients) -> list[int]:
            reply = clients.fleet.ListLifecycleHistory(request, timeout=DEADLINE_S)
            return [entered.phase for entered in reply.timeline.transitions]

        assert phases(zone) == [
            lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING,
            lifecycle_pb2.LIFECYCLE_PHASE_ENROLLED,
            lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE,
            lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED,
        ]
        wait_until(lambda: phases(top) == phases(zone), "the same timeline above")
        reply = zone.fleet.ListLifecycleHistory(request, timeout=DEADLINE_S)
        _, enrolled, activated, _ = reply.timeline.transitions
        assert enrolled.reason.startswith("its agent was admitted: ")
        assert activated.reason.startswith("its agent reports: health ")
        assert enrolled.decided_by == activated.decided_by == f"controller:{ZONE}-control"
