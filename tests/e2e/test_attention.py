"""The attention queue over a real tree: a zone's agents are cut off, drift appears, the zone itself is cut off. Items
appear at both levels under one id, are marked above and heard of below, and end with their causes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.attention.v1 import attention_pb2 as attention
from souverix.attention.v1 import attention_service_pb2 as service
from souverix.fleet.v1 import connectivity_pb2, fleet_service_pb2, node_pb2
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy
from tests.e2e.test_cli import Ctl
from tests.e2e.test_spectrum import CONNECTIVITY, AgentsByProxy

TOP = "region-a"
ZONE = "edge-zone-a1"
NODES = [f"{ZONE}-n{number}" for number in range(1, 5)]
DRIFT = attention.ATTENTION_KIND_NODE_DRIFT
AUTONOMOUS = attention.ATTENTION_KIND_NODE_AUTONOMOUS
CUT_OFF = attention.ATTENTION_KIND_CONTROLLER_CUT_OFF
TWO_AGENTS = attention.ATTENTION_KIND_NODE_AGENT_REFUSED
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE

#: Three nodes of one cause are many, so that the test needs few.
ATTENTION = """
[attention]
group_above = 2
"""


@dataclass(frozen=True)
class Running:
    """A region and a zone with four nodes, and the links that a test can cut."""

    federation: LocalFederation
    zone_link: LinkProxy
    agent_link: LinkProxy


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    plans = [
        DomainPlan(TOP, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, TOP, log="sqlite"),
    ]
    federation = AgentsByProxy(tmp_path, plans)
    with (
        LinkProxy(federation.address(TOP)) as zone_link,
        LinkProxy(federation.address(ZONE)) as agent_link,
    ):
        federation.parent_addresses[f"{ZONE}-control"] = [zone_link.endpoint]
        federation.agents_dial = agent_link.endpoint
        with federation as laid_out:
            for domain in (TOP, ZONE):
                path = laid_out.config_path(domain)
                path.write_text(path.read_text() + CONNECTIVITY + ATTENTION)
            laid_out.start_all()
            laid_out.start_simulated_agents(ZONE, len(NODES))
            yield Running(laid_out, zone_link, agent_link)


def items(clients: Clients, *kinds: int) -> list[attention.AttentionItem]:
    request = service.ListItemsRequest(kinds=kinds)  # type: ignore[arg-type]
    return list(clients.attention.ListItems(request, timeout=DEADLINE_S).items)


def wait_for_items(
    clients: Clients, what: str, kind: int, condition: Callable[[list[str]], bool]
) -> list[attention.AttentionItem]:
    """Waits until the subjects of the items of a kind are as awaited."""
    wait_until(lambda: condition([each.subject for each in items(clients, kind)]), what)
    return items(clients, kind)


def mode_of(clients: Clients, node: str) -> int:
    """How a node is connected; 0 where it is not known, or has not reported."""
    request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
    try:
        shown = clients.fleet.GetNode(request, timeout=DEADLINE_S).node
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return 0
    return shown.connectivity.link.mode if shown.HasField("actual_state") else 0


def all_live(clients: Clients) -> bool:
    return all(mode_of(clients, node) == LIVE for node in NODES)


def test_items_appear_are_marked_and_end(running: Running) -> None:
    federation = running.federation
    with Clients(federation.address(ZONE)) as zone, Clients(federation.address(TOP)) as top:
        wait_until(lambda: all_live(zone) and all_live(top), "all nodes live at both levels")
        desired = node_pb2.DesiredState(target_version="9.0.0")
        declare = fleet_service_pb2.SetDesiredStateRequest(
            name=f"nodes/{NODES[0]}", desired_state=desired
        )
        zone.fleet.SetDesiredState(declare, timeout=DEADLINE_S, metadata=PRINCIPAL)
        (here,) = wait_for_items(zone, "drift at the zone", DRIFT, lambda found: len(found) == 1)
        (above,) = wait_for_items(top, "drift above", DRIFT, lambda found: len(found) == 1)
        assert here.id == above.id
        assert here.since == above.since
        assert "target_version" in here.cause

        acknowledge = service.AcknowledgeItemRequest(name=above.name, reason="upgrade tonight")
        marked = top.attention.AcknowledgeItem(acknowledge, timeout=DEADLINE_S, metadata=PRINCIPAL)
        assert marked.receipt.controller == f"{ZONE}-control"
        assert marked.item.mark_principal == "user:tester"
        assert items(zone, DRIFT) == []
        wait_for_items(top, "the mark above", DRIFT, lambda found: not found)

        running.agent_link.cut()
        cut = wait_for_items(
            top, "the zone's nodes as one", AUTONOMOUS, lambda found: found == [f"domains/{ZONE}"]
        )
        wait_until(
            lambda: [each.node_count for each in items(top, AUTONOMOUS)] == [len(NODES)], "all"
        )
        assert cut[0].id == items(zone, AUTONOMOUS)[0].id
        running.agent_link.heal()
        wait_for_items(top, "the nodes are back", AUTONOMOUS, lambda found: not found)

        running.zone_link.cut()
        (lost,) = wait_for_items(
            top,
            "the zone is missed",
            CUT_OFF,
            lambda found: found == [f"controllers/{ZONE}-control"],
        )
        assert (lost.domain, lost.node_count) == (TOP, len(NODES))
        (missed,) = wait_for_items(zone, "so is the region", CUT_OFF, lambda found: len(found) == 1)
        assert (missed.domain, missed.subject) == (ZONE, f"controllers/{TOP}-control")
        snooze = service.SnoozeItemRequest(name=lost.name, reason="fibre is cut")
        snooze.snooze.FromSeconds(3600)
        top.attention.SnoozeItem(snooze, timeout=DEADLINE_S, metadata=PRINCIPAL)
        assert items(top, CUT_OFF) == []
        running.zone_link.heal()
        for clients in (zone, top):
            wait_for_items(clients, "both are linked again", CUT_OFF, lambda found: not found)
        # That mark was for this time.
        running.zone_link.cut()
        wait_for_items(top, "missed anew", CUT_OFF, lambda found: len(found) == 1)
        running.zone_link.heal()

        declare.desired_state.Clear()
        zone.fleet.SetDesiredState(declare, timeout=DEADLINE_S, metadata=PRINCIPAL)
        states = [attention.ATTENTION_STATE_ACKNOWLEDGED, attention.ATTENTION_STATE_OPEN]
        ended = service.ListItemsRequest(kinds=[DRIFT], states=states)
        for clients in (zone, top):
            wait_until(
                lambda c=clients: not c.attention.ListItems(ended, timeout=DEADLINE_S).items,  # type: ignore[misc]
                "the drift is over",
            )


def test_the_command_line_lists_watches_and_marks(running: Running) -> None:
    federation = running.federation
    ctl = Ctl(federation.server(TOP))
    with Clients(federation.address(TOP)) as top:
        wait_until(lambda: all_live(top), "all nodes live above")
    ctl("set", "desired-state", NODES[0], "--version", "9.0.0")
    wait_until(lambda: "node-drift" in ctl("attention", "--domain", ZONE).out, "the item")
    shown = ctl("attention", "-o", "json").json["items"]
    (item,) = [each for each in shown if each["kind"] == "ATTENTION_KIND_NODE_DRIFT"]
    assert item["nextStep"] == f"souverixctl drift {NODES[0]}"
    watch = ctl.start("attention", "--watch", "-o", "json")
    try:
        assert watch.stdout is not None
        steps = map(json.loads, watch.stdout)
        assert any(step.get("existing", {}).get("id") == item["id"] for step in steps)
        ctl("attention", "snooze", item["id"], "--for", "2h", "--reason", "tonight")
        assert any(step.get("removed", {}).get("name") == item["name"] for step in steps)
    finally:
        watch.terminate()
        watch.wait()
        assert watch.stdout is not None
        watch.stdout.close()
    assert "user:" in ctl("attention", "list", "--state", "snoozed").out
    assert "tonight" in ctl("attention", "show", item["id"]).out
    ctl("attention", "reopen", item["id"])
    ctl("attention", "reopen", item["id"], code=4)
    ctl("attention", "ack", item["id"], "--reason", "seen")
    ctl("attention", "ack", "0" * 16, "--reason", "seen", code=3)
    ctl("attention", "ack", "nothing", "--reason", "seen", code=2)


def test_a_second_agent_with_a_nodes_id_is_refused_and_raised(running: Running) -> None:
    federation = running.federation
    first = federation.start_agent(ZONE, "twin-1")
    try:
        with Clients(federation.address(ZONE)) as zone:
            wait_until(lambda: mode_of(zone, "twin-1") == LIVE, "the first agent is linked")
            copy = federation.start_agent(
                ZONE, "twin-1", "--state-dir", str(federation.directory / "copy")
            )
            wait_for_items(zone, "the second agent", TWO_AGENTS, lambda f: f == ["nodes/twin-1"])
            assert mode_of(zone, "twin-1") == LIVE
            copy.stop()
    finally:
        first.stop()
