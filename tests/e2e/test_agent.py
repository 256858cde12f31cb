"""The real agent of this host: its inventory at the top, its backlog across cuts, its ledger across kills, and what
becomes of commands that meet an absent node, an expiry, a cancel or a change of master.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2

from controller.log.stored import Chain
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.event.v1 import event_pb2
from souverix.fleet.v1 import fleet_service_pb2, node_pb2
from souverix.nodelink.v1 import nodelink_pb2, nodelink_pb2_grpc
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy

TOP = "region-a"
#: Its controller has two replicas.
ZONE = "edge-zone-a1"
#: Its controller takes only nodes that it knows.
STRICT_ZONE = "edge-zone-a2"
NODE = "host-1"

AT_MOST_ONCE = command_pb2.DELIVERY_SEMANTICS_AT_MOST_ONCE
State = command_pb2.DeliveryState


@dataclass
class Fleet:
    """The controllers of this module; the agent of `NODE` dials the zone through a link that is cut at will."""

    federation: LocalFederation
    link: LinkProxy
    top: Clients

    def start_agent(self, node: str = NODE) -> None:
        """Starts the agent, with the state directory it had."""
        server = self.link.endpoint if node == NODE else ""
        self.federation.start_agent(ZONE, node, "--report-interval", "0.2", server=server)

    def signal_agent(self, number: signal.Signals, node: str = NODE) -> None:
        self.federation.processes[f"agent/{node}"].process.send_signal(number)

    def status(self, node: str = NODE) -> dict[str, Any]:
        """What the agent knows, as `souverix-node status` prints it."""
        directory = self.federation.directory / f"agent-{node}"
        printed = subprocess.run(
            [sys.executable, "-m", "nodeagent.main", "status", "--json", "--state-dir", directory],
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE_S,
        )
        found = json.loads(printed.stdout)
        return dict(found[0] if isinstance(found, list) else found)

    def node(self, node: str = NODE) -> node_pb2.Node | None:
        """The twin at the top."""
        request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{node}")
        try:
            found: node_pb2.Node = self.top.fleet.GetNode(request, timeout=DEADLINE_S).node
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return found

    def issue(self, node: str = NODE, ttl_s: float = 60, **fields: Any) -> str:
        """Issues a command at the top; its name. A ping unless `fields` say otherwise."""
        fields.setdefault("action", command_pb2.Action(ping=command_pb2.Ping(payload="hello")))
        request = command_service_pb2.IssueCommandRequest(
            targets=command_pb2.Targets(nodes=[node]), **fields
        )
        request.expiry.ttl.FromMilliseconds(int(ttl_s * 1000))
        issued = self.top.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
        return str(issued.command.name)

    def delivery(self, command: str) -> command_pb2.Delivery:
        """How far a command got, as the top knows it."""
        request = command_service_pb2.GetCommandRequest(name=command)
        found = self.top.commands.GetCommand(request, timeout=DEADLINE_S).command
        delivery: command_pb2.Delivery = found.deliveries[0]
        return delivery

    def wait_for(self, command: str, state: command_pb2.DeliveryState) -> command_pb2.Delivery:
        """Waits until a command is in a state."""
        wait_until(
            lambda: self.delivery(command).state == state,
            f"{command} {State.Name(state)}, which was {self.delivery(command)}",
        )
        return self.delivery(command)

    def reports(self) -> dict[int, list[int]]:
        """Lane -> numbers of the node's reports in the order in which they stand in the log of the top."""
        path = self.federation.data_dir(TOP) / "log.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT log_offset, stored FROM commits ORDER BY log_offset")
            chain = Chain(0)
            commits = [event_pb2.Commit.FromString(chain.take(*row)[1]) for row in rows]
        found: dict[int, list[int]] = {}
        for run in (run for commit in commits for run in commit.runs):
            for event in map(event_pb2.Event.FromString, run.events):
                if event.report_sequence and event.subject == f"nodes/{NODE}":
                    found.setdefault(run.stream.lane, []).append(event.report_sequence)
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, etcd_binary: Path) -> Iterator[Fleet]:
    plans = [
        DomainPlan(TOP, kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, TOP, replicas=2),
        DomainPlan(STRICT_ZONE, TOP, log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with federation, Clients(federation.address(TOP)) as top:
        strict = federation.config_path(STRICT_ZONE)
        strict.write_text(strict.read_text().replace('"open"', '"known"'))
        federation.start_etcd(ZONE)
        for domain, replica in ((TOP, 1), (ZONE, 1), (STRICT_ZONE, 1)):
            federation.start_controller(domain, replica)
        for domain in (TOP, ZONE, STRICT_ZONE):
            federation.wait_for_master(domain)
            federation.wait_for_authority(domain)
        with LinkProxy(federation.address(ZONE, 1)) as link:
            running = Fleet(federation, link, top)
            running.start_agent()
            wait_until(lambda: _has_inventory(running, NODE), "the host's inventory at the top")
            yield running


def _has_inventory(fleet: Fleet, node: str) -> bool:
    twin = fleet.node(node)
    return twin is not None and twin.HasField("inventory")


def test_the_inventory_at_the_top_is_of_this_host(fleet: Fleet) -> None:
    twin = fleet.node()
    assert twin is not None
    inventory = twin.inventory
    memory = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    assert inventory.memory_bytes == int(memory["MemTotal"].split()[0]) * 1024
    assert inventory.cpu.logical_processors == os.cpu_count()
    assert inventory.architecture == platform.machine()
    assert platform.release() in inventory.kernel
    assert inventory.os.id == platform.freedesktop_os_release()["ID"]
    assert [value.name for value in inventory.large_values] == ["packages", "sbom"]
    assert any(filesystem.mount_point == "/" for filesystem in inventory.filesystems)


def test_an_applied_configuration_is_kept_by_the_node_and_reported(fleet: Fleet) -> None:
    document = struct_pb2.Struct()
    document.update({"log": {"level": "debug"}})
    action = command_pb2.Action(apply_config=command_pb2.ApplyConfig(document=document))
    delivery = fleet.wait_for(fleet.issue(action=action), State.DELIVERY_STATE_SUCCEEDED)
    kept = fleet.federation.directory / f"agent-{NODE}" / "config" / "default.json"
    assert json.loads(kept.read_text()) == {"log": {"level": "debug"}}

    def is_reported() -> bool:
        twin = fleet.node()
        return twin is not None and str(delivery.output["config_hash"]) in str(twin.actual_state)

    wait_until(is_reported, "the configuration's hash at the top")


def test_reports_made_while_cut_off_arrive_in_order_and_once(fleet: Fleet) -> None:
    fleet.link.cut()
    cut_at = _count(fleet)
    wait_until(lambda: fleet.status()["backlog"]["waiting"] >= 10, "a backlog at the node")
    fleet.signal_agent(signal.SIGKILL)
    fleet.federation.processes[f"agent/{NODE}"].kill()
    fleet.start_agent()
    waiting = wait_until(lambda: fleet.status()["backlog"]["waiting"], "the backlog still there")
    assert waiting >= 10
    fleet.link.swallow_replies()
    wait_until(lambda: fleet.link.swallowed_bytes, "acknowledgements lost")
    fleet.link.heal()
    wait_until(lambda: _count(fleet) >= cut_at + waiting, "the backlog at the top")
    lanes = fleet.reports().values()
    assert all(numbers == sorted(numbers) for numbers in lanes)
    everything = sorted(number for numbers in lanes for number in numbers)
    assert everything == list(range(1, len(everything) + 1))
    wait_until(
        lambda: fleet.status()["backlog"]["waiting"] <= 2, "the backlog acknowledged to the node"
    )


def _count(fleet: Fleet) -> int:
    return sum(map(len, fleet.reports().values()))


def test_an_agent_started_while_no_controller_answers_begins_from_what_it_kept(
    fleet: Fleet,
) -> None:
    fleet.link.cut()
    before = fleet.status()
    fleet.federation.processes[f"agent/{NODE}"].stop()
    fleet.start_agent()
    numbered = before["backlog"]["numbered"]
    wait_until(
        lambda: fleet.status()["backlog"]["waiting"] > before["backlog"]["waiting"],
        "reports while no controller answers",
    )
    now = fleet.status()
    assert (now["source"], now["domain"], now["fence"]) == (
        before["source"],
        before["domain"],
        before["fence"],
    )
    assert now["config"] == before["config"]
    assert now["backlog"]["numbered"] == numbered
    fleet.link.heal()
    fleet.wait_for(fleet.issue(), State.DELIVERY_STATE_SUCCEEDED)


def test_an_at_most_once_command_lost_with_its_agent_is_not_sent_again(fleet: Fleet) -> None:
    fleet.signal_agent(signal.SIGSTOP)
    command = fleet.issue(ttl_s=4, semantics=AT_MOST_ONCE)
    fleet.wait_for(command, State.DELIVERY_STATE_DISPATCHED)
    fleet.federation.processes[f"agent/{NODE}"].kill()
    fleet.start_agent()
    fleet.wait_for(fleet.issue(), State.DELIVERY_STATE_SUCCEEDED)
    delivery = fleet.wait_for(command, State.DELIVERY_STATE_EXPIRED)
    assert delivery.reason == "NO_ANSWER"
    assert delivery.attempts == 1
    assert not any(command.split("/")[1] in line for line in fleet.status()["newest_commands"])


def test_an_at_least_once_command_reaches_the_agent_that_comes_back(fleet: Fleet) -> None:
    fleet.signal_agent(signal.SIGSTOP)
    command = fleet.issue()
    fleet.wait_for(command, State.DELIVERY_STATE_DISPATCHED)
    fleet.federation.processes[f"agent/{NODE}"].kill()
    fleet.start_agent()
    delivery = fleet.wait_for(command, State.DELIVERY_STATE_SUCCEEDED)
    assert delivery.attempts >= 2


def test_a_second_agent_of_the_same_node_is_refused(fleet: Fleet) -> None:
    fleet.wait_for(fleet.issue(), State.DELIVERY_STATE_SUCCEEDED)
    goodbye = _greet(fleet.federation.address(ZONE), NODE)
    assert goodbye.reason == nodelink_pb2.LINK_END_IDENTITY
    assert NODE in goodbye.message
    fleet.wait_for(fleet.issue(), State.DELIVERY_STATE_SUCCEEDED)


def _greet(address: str, node: str) -> nodelink_pb2.LinkGoodbye:
    """Greets as an agent; the goodbye that follows at once."""
    hello = nodelink_pb2.AgentHello(
        node=node,
        agent_version="0",
        source=uuid.uuid4().hex,
        spec=node_pb2.NodeSpec(),
        public_key=Ed25519Signer.generate().public_key,
        run=uuid.uuid4().hex,
    )
    with grpc.insecure_channel(address) as channel:
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(channel)
        request = nodelink_pb2.ConnectRequest(hello=hello)
        [answer] = stub.Connect(iter([request]), timeout=DEADLINE_S)
    goodbye: nodelink_pb2.LinkGoodbye = answer.goodbye
    return goodbye


def test_commands_to_an_absent_node_expire_or_are_cancelled_unsent(fleet: Fleet) -> None:
    create = fleet_service_pb2.CreateNodeRequest(domain=ZONE, node_id="absent-1")
    fleet.top.fleet.CreateNode(create, timeout=DEADLINE_S, metadata=PRINCIPAL)
    wait_until(lambda: fleet.node("absent-1"), "the node at the top")
    expiring = fleet.issue("absent-1", ttl_s=0.3)
    cancelled = fleet.issue("absent-1")
    cancel = command_service_pb2.CancelCommandRequest(name=cancelled)
    fleet.top.commands.CancelCommand(cancel, timeout=DEADLINE_S, metadata=PRINCIPAL)
    delivery = fleet.wait_for(expiring, State.DELIVERY_STATE_EXPIRED)
    assert (delivery.reason, delivery.attempts) == ("NOT_SENT", 0)
    delivery = fleet.wait_for(cancelled, State.DELIVERY_STATE_CANCELLED)
    assert (delivery.reason, delivery.attempts) == ("CANCELLED_BEFORE_DISPATCH", 0)


def test_where_enrolment_is_not_open_only_known_nodes_are_welcome(fleet: Fleet) -> None:
    goodbye = _greet(fleet.federation.address(STRICT_ZONE), "host-2")
    assert goodbye.reason == nodelink_pb2.LINK_END_UNKNOWN_NODE
    assert "enrolment is not open" in goodbye.message
    fleet.federation.start_agent(STRICT_ZONE, "host-2")
    create = fleet_service_pb2.CreateNodeRequest(domain=STRICT_ZONE, node_id="host-2")
    fleet.top.fleet.CreateNode(create, timeout=DEADLINE_S, metadata=PRINCIPAL)
    wait_until(lambda: _has_inventory(fleet, "host-2"), "the known host's inventory at the top")
    fleet.federation.processes["agent/host-2"].stop()


def test_an_unconfirmed_at_most_once_command_is_indeterminate_after_a_change_of_master(
    fleet: Fleet,
) -> None:
    fleet.federation.start_controller(ZONE, 2)
    fleet.start_agent("host-3")
    wait_until(lambda: _has_inventory(fleet, "host-3"), "the third host's inventory at the top")
    fleet.signal_agent(signal.SIGSTOP, "host-3")
    command = fleet.issue("host-3", semantics=AT_MOST_ONCE)
    fleet.wait_for(command, State.DELIVERY_STATE_DISPATCHED)
    wait_until(lambda: fleet.federation.status(ZONE, 2), "the second replica stands by")
    fleet.federation.processes[f"{ZONE}/r1"].kill()
    assert fleet.federation.wait_for_master(ZONE) == 2
    delivery = fleet.wait_for(command, State.DELIVERY_STATE_INDETERMINATE)
    assert delivery.reason == "MASTER_CHANGED"
    fleet.signal_agent(signal.SIGCONT, "host-3")
    fleet.wait_for(fleet.issue("host-3"), State.DELIVERY_STATE_SUCCEEDED)
    delivery = fleet.delivery(command)
    assert (delivery.state, delivery.attempts) == (State.DELIVERY_STATE_INDETERMINATE, 1)
