"""Nodes that return, with real processes: a cut and a backlog, a restart offline, a cut in the middle of a replay, a
tampered backlog, a copied agent, a lost state directory, a clock of 1970.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.nodelink.proof import chain_next, chain_start, proof_message
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.attention.v1 import attention_pb2, attention_service_pb2
from souverix.audit.v1 import audit_service_pb2
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import (
    connectivity_pb2,
    fleet_service_pb2,
    lifecycle_pb2,
    node_pb2,
    return_pb2,
)
from souverix.nodelink.v1 import (
    nodelink_pb2,
    nodelink_pb2_grpc,
    replay_service_pb2,
    replay_service_pb2_grpc,
)
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, wait_until
from tests.e2e.link_proxy import LinkProxy

ZONE = "edge-zone-a1"
NODE = "a1-gw-1"
State = command_pb2.DeliveryState
LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
DISCONNECTED = connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS

#: Short, so that a cut shows within the test; a backlog of two reports is a replay.
CONNECTIVITY = """
[connectivity]
autonomous_after_s = 1.0
replay_backlog = 2
"""

OFTEN = ("--report-interval", "0.1")


@dataclass
class Zone:
    """A zone whose agents dial through a link that is cut at will."""

    federation: LocalFederation
    link: LinkProxy
    at: Clients
    channel: grpc.Channel

    def start(self, *options: str) -> Any:
        return self.federation.start_agent(ZONE, NODE, *options, server=self.link.endpoint)

    @property
    def state_dir(self) -> Path:
        return self.federation.directory / f"agent-{NODE}"

    def node(self) -> node_pb2.Node:
        request = fleet_service_pb2.GetNodeRequest(name=f"nodes/{NODE}")
        try:
            found: node_pb2.Node = self.at.fleet.GetNode(request, timeout=DEADLINE_S).node
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return node_pb2.Node()
            raise
        return found

    def mode(self) -> int:
        return self.node().connectivity.link.mode

    def replay(self) -> Any:
        stub = replay_service_pb2_grpc.ReplayServiceStub(self.channel)
        request = replay_service_pb2.ListReplaysRequest(node=NODE)
        found = stub.ListReplays(request, timeout=DEADLINE_S).replays
        return found[0] if found else replay_service_pb2.Replay()

    def issue(self, **action: Any) -> str:
        action = action or {"ping": command_pb2.Ping(payload="hello")}
        request = command_service_pb2.IssueCommandRequest(
            targets=command_pb2.Targets(nodes=[NODE]), action=command_pb2.Action(**action)
        )
        request.expiry.ttl.FromSeconds(60)
        issued = self.at.commands.IssueCommand(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
        return str(issued.command.name)

    def delivery(self, command: str) -> command_pb2.Delivery:
        request = command_service_pb2.GetCommandRequest(name=command)
        found = self.at.commands.GetCommand(request, timeout=DEADLINE_S).command
        delivery: command_pb2.Delivery = found.deliveries[0]
        return delivery

    def transit(self, transition: str, **fields: Any) -> None:
        request = fleet_service_pb2.TransitionNodeRequest(
            name=f"nodes/{NODE}", transition=f"LIFECYCLE_TRANSITION_{transition}", **fields
        )
        self.at.fleet.TransitionNode(request, timeout=DEADLINE_S, metadata=PRINCIPAL)

    def audit(self) -> list[Any]:
        request = audit_service_pb2.ListAuditEntriesRequest(domain=ZONE, page_size=1000)
        reply = self.at.audit.ListAuditEntries(request, timeout=DEADLINE_S)
        return [entry.record for entry in reply.entries]


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[Zone]:
    plans = [
        DomainPlan("region-a", kind="global", level="global", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite"),
    ]
    federation = LocalFederation(tmp_path, plans)
    address = federation.address(ZONE)
    with LinkProxy(address) as link, federation as laid_out:
        path = laid_out.config_path(ZONE)
        path.write_text(path.read_text() + CONNECTIVITY)
        laid_out.start_all()
        with Clients(address) as at, grpc.insecure_channel(address) as channel:
            yield Zone(laid_out, link, at, channel)


def test_what_a_node_recorded_while_cut_off_is_in_effect_before_any_command_reaches_it(
    zone: Zone,
) -> None:
    zone.start(*OFTEN)
    wait_until(lambda: zone.mode() == LIVE, "the node is live")
    zone.link.cut()
    wait_until(lambda: zone.mode() == AUTONOMOUS, "the node is autonomous")
    command = zone.issue()
    wait_until(lambda: zone.delivery(command).reason == "NODE_NOT_LINKED", "the command waits")
    before = zone.node().actual_state.report_time.ToMilliseconds()
    zone.link.heal()
    wait_until(
        lambda: zone.delivery(command).state == State.DELIVERY_STATE_SUCCEEDED, "it was delivered"
    )
    replay = zone.replay()
    assert replay.state == replay_service_pb2.SESSION_STATE_LIVE
    assert replay.reports_total > 2
    assert replay.reports_applied == replay.reports_staged >= replay.reports_total
    delivery = zone.delivery(command)
    assert delivery.attempts == 1
    assert replay.end_time.ToMilliseconds() <= delivery.dispatch_time.ToMilliseconds() + 1
    assert zone.node().actual_state.report_time.ToMilliseconds() > before
    wait_until(lambda: zone.mode() == LIVE, "the node is live again")


def record_more(zone: Zone, reports: int, size: int) -> None:
    """Puts reports of about so many bytes into the backlog of the node's agent, which is not running."""
    body = node_pb2.ActualState(reported_version="2.0.0", config_name="x" * size)
    report = nodelink_pb2.Report(actual_state=body).SerializeToString()
    rows = [(NODE, "actual_state", report)] * reports
    with contextlib.closing(sqlite3.connect(zone.state_dir / "agent.db")) as database, database:
        database.executemany("INSERT INTO report (node, kind, body) VALUES (?, ?, ?)", rows)


def test_an_agent_restarted_offline_returns_with_what_it_had_though_its_replay_is_cut(
    zone: Zone,
) -> None:
    agent = zone.start(*OFTEN)
    wait_until(lambda: zone.mode() == LIVE, "the node is live")
    key = zone.node().agent_key.key_id
    zone.link.cut()
    wait_until(lambda: zone.mode() == AUTONOMOUS, "the node is autonomous")
    agent.kill()
    before = zone.node().actual_state.report_time
    record_more(zone, 60, 10_000)
    # The link holds in the middle of the second chunk of five, and then breaks.
    zone.link.stall_after(200_000)
    zone.start("--report-interval", "3600")
    wait_until(lambda: zone.replay().reports_staged > 2, "a part of the backlog is staged")
    cut = zone.replay()
    assert (cut.state, cut.reports_applied) == (replay_service_pb2.SESSION_STATE_REPLAYING, 0)
    assert cut.reports_total > 60 > cut.reports_staged
    assert zone.node().actual_state.report_time == before
    zone.link.cut()
    wait_until(
        lambda: zone.replay().state == replay_service_pb2.SESSION_STATE_ENDED, "the replay was cut"
    )
    zone.link.heal()
    wait_until(lambda: zone.mode() == LIVE, "the node is live again")
    replay = zone.replay()
    assert replay.state == replay_service_pb2.SESSION_STATE_LIVE
    assert replay.resumed_reports == cut.reports_staged
    assert replay.reports_applied >= cut.reports_total
    node = zone.node()
    assert node.agent_key.key_id == key
    assert not node.HasField("return_incident")


def forged_backlog(zone: Zone) -> nodelink_pb2.ConnectResponse:
    """Returns as the node's agent, with its key, and with a backlog in which a bit was flipped; the answer."""
    with contextlib.closing(sqlite3.connect(zone.state_dir / "agent.db")) as database:
        query = "SELECT source, private_key, acknowledged FROM node WHERE node = ?"
        source, raw_key, durable = database.execute(query, (NODE,)).fetchone()
    key = Ed25519PrivateKey.from_private_bytes(raw_key)
    said: queue.SimpleQueue[nodelink_pb2.ConnectRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(zone.at.address) as channel:
        stub = nodelink_pb2_grpc.NodeLinkServiceStub(channel)
        heard = stub.Connect(iter(said.get, None), timeout=DEADLINE_S)
        hello = nodelink_pb2.AgentHello(
            node=NODE,
            source=source,
            run="forger",
            public_key=key.public_key().public_bytes_raw(),
            backlog_reports=3,
            oldest_report=durable + 1,
        )
        said.put(nodelink_pb2.ConnectRequest(hello=hello))
        for frame in heard:
            match frame.WhichOneof("kind"):
                case "challenge":
                    nonce = frame.challenge.nonce
                    signed = proof_message(f"{ZONE}-control", NODE, source, "forger", nonce)
                    proof = nodelink_pb2.AgentProof(signature=key.sign(signed))
                    said.put(nodelink_pb2.ConnectRequest(proof=proof))
                case "replay_turn":
                    first = frame.replay_turn.first_sequence
                    said.put(nodelink_pb2.ConnectRequest(replay_chunk=flipped(source, first)))
                case "isolated" | "lock_released" | "goodbye":
                    said.put(None)
                    answer: nodelink_pb2.ConnectResponse = frame
                    return answer
    raise AssertionError("the stream ended without an answer")


def flipped(source: str, first: int) -> nodelink_pb2.ReplayChunk:
    """A chunk of three reports whose chain is right but for one bit of the second."""
    body = node_pb2.ActualState(reported_version="forged")
    reports = [
        nodelink_pb2.Report(sequence=first + n, actual_state=body).SerializeToString()
        for n in range(3)
    ]
    head = chain_start(NODE, source, first)
    for raw in reports:
        head = chain_next(head, raw)
    broken = bytearray(reports[1])
    broken[-1] ^= 1
    reports[1] = bytes(broken)
    return nodelink_pb2.ReplayChunk(
        number=1, first_sequence=first, reports=reports, chain_hash=head
    )


def test_a_tampered_backlog_isolates_the_node_and_has_no_effect(zone: Zone) -> None:
    agent = zone.start(*OFTEN)
    wait_until(lambda: zone.mode() == LIVE, "the node is live")
    agent.stop()
    wait_until(lambda: zone.mode() == DISCONNECTED, "the node took its leave")
    before = zone.node()
    answer = forged_backlog(zone)
    assert answer.isolated.reason == "CHAIN_BROKEN"
    node = zone.node()
    assert node.lifecycle.phase == lifecycle_pb2.LIFECYCLE_PHASE_QUARANTINED
    assert (node.actual_state, node.inventory) == (before.actual_state, before.inventory)
    incident = node.return_incident
    assert incident.kind == return_pb2.INCIDENT_KIND_BACKLOG_REFUSED
    assert incident.reason == "CHAIN_BROKEN"
    assert "chunk 1" in incident.evidence
    assert node.lifecycle.exit_condition
    replay = zone.replay()
    assert (replay.reports_applied, replay.reason) == (0, "CHAIN_BROKEN")
    assert any((r.action, r.reason) == ("node.return", "CHAIN_BROKEN") for r in zone.audit())

    # Isolated over the next link, too: it may look, and no report of it is taken.
    zone.start(*OFTEN)
    look = zone.issue()
    wait_until(lambda: zone.delivery(look).state == State.DELIVERY_STATE_SUCCEEDED, "it may look")
    change = zone.issue(apply_config=command_pb2.ApplyConfig(document={}))
    wait_until(lambda: zone.delivery(change).reason == "NODE_ISOLATED", "it may not change")
    assert zone.node().inventory == before.inventory

    # Released, it returns anew with what its own agent recorded.
    zone.transit("RELEASE_FROM_QUARANTINE", reason="the relay was at fault")
    wait_until(lambda: zone.mode() == LIVE, "the node is live again")
    assert zone.replay().state == replay_service_pb2.SESSION_STATE_LIVE
    wait_until(lambda: zone.node().return_incident.HasField("resolve_time"), "it was put right")
    command = zone.issue()
    wait_until(lambda: zone.delivery(command).state == State.DELIVERY_STATE_SUCCEEDED, "as before")


def test_a_copy_of_the_agent_is_refused_and_raised_and_the_first_goes_on(zone: Zone) -> None:
    zone.start(*OFTEN)
    wait_until(lambda: zone.mode() == LIVE, "the node is live")
    copy = zone.federation.directory / "agent-copy"
    copy.mkdir()
    with (
        contextlib.closing(sqlite3.connect(zone.state_dir / "agent.db")) as source,
        contextlib.closing(sqlite3.connect(copy / "agent.db")) as target,
    ):
        source.backup(target)
    zone.federation.start_agent(ZONE, NODE, name="copy")
    wait_until(
        lambda: zone.node().return_incident.kind == return_pb2.INCIDENT_KIND_TWO_AGENTS,
        "the copy is raised",
    )
    assert any(r.reason == "TWO_AGENTS" for r in zone.audit())
    command = zone.issue()
    wait_until(
        lambda: zone.delivery(command).state == State.DELIVERY_STATE_SUCCEEDED, "the first goes on"
    )
    assert zone.mode() == LIVE


def test_an_agent_without_the_nodes_key_is_refused_until_the_key_is_given_up(zone: Zone) -> None:
    agent = zone.start()
    wait_until(lambda: zone.mode() == LIVE, "the node is live")
    agent.stop()
    shutil.rmtree(zone.state_dir)
    zone.start()
    wait_until(
        lambda: zone.node().return_incident.kind == return_pb2.INCIDENT_KIND_WRONG_KEY,
        "the stranger is raised",
    )
    pinned = zone.node().agent_key.key_id
    assert zone.node().return_incident.offered_key_id not in ("", pinned)
    zone.federation.processes[f"agent/{NODE}"].stop()
    reset = fleet_service_pb2.ResetAgentKeyRequest(name=f"nodes/{NODE}", reason="disk lost")
    zone.at.fleet.ResetAgentKey(reset, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert zone.node().return_incident.HasField("resolve_time")
    zone.start()
    wait_until(lambda: zone.node().agent_key.key_id not in ("", pinned), "the new key is pinned")
    wait_until(lambda: zone.mode() == LIVE, "the node is live again")


#: Runs the agent with a wall clock that began at 1970 with the process, or as many seconds later as a file says.
SET_CLOCK = """
import sys, time
began, later_s = time.monotonic_ns(), sys.argv.pop(1)
time.time_ns = lambda: time.monotonic_ns() - began + int(open(later_s).read()) * 10**9
from nodeagent.main import main
main()
"""

DAY_S = 86_400


@contextlib.contextmanager
def agent_with_set_clock(zone: Zone, later_s: Path) -> Iterator[None]:
    later_s.write_text("0")
    command = [sys.executable, "-c", SET_CLOCK, str(later_s), "run", "--node", NODE, *OFTEN]
    command += ["--controller", zone.link.endpoint, "--state-dir", str(zone.state_dir)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as agent:
        try:
            yield
        finally:
            agent.terminate()


def clock_items(zone: Zone) -> list[str]:
    request = attention_service_pb2.ListItemsRequest(
        kinds=[attention_pb2.ATTENTION_KIND_NODE_CLOCK_OFF]
    )
    return [i.cause for i in zone.at.attention.ListItems(request, timeout=DEADLINE_S).items]


def test_an_agent_whose_clock_says_1970_or_jumps_is_a_node_like_any_other(
    zone: Zone, tmp_path: Path
) -> None:
    later_s, now_s = tmp_path / "later_s", int(time.time())
    with agent_with_set_clock(zone, later_s):
        wait_until(lambda: zone.mode() == LIVE, "the node is live")
        assert zone.node().actual_state.report_time.seconds < DAY_S
        zone.link.cut()
        wait_until(lambda: zone.mode() == AUTONOMOUS, "the node is autonomous")
        zone.link.heal()
        wait_until(lambda: zone.mode() == LIVE, "the node is live again")
        assert zone.replay().state == replay_service_pb2.SESSION_STATE_LIVE
        assert not zone.node().HasField("return_incident")
        issued = zone.issue()
        wait_until(
            lambda: zone.delivery(issued).state == State.DELIVERY_STATE_SUCCEEDED, "delivered"
        )
        wait_until(lambda: clock_items(zone), "a clock far behind is raised")

        later_s.write_text(str(now_s + 2 * DAY_S))
        wait_until(
            lambda: zone.node().actual_state.report_time.seconds > now_s + DAY_S,
            "a report after the jump ahead",
        )
        assert zone.mode() == LIVE
        wait_until(lambda: "ahead" in "".join(clock_items(zone)), "a clock far ahead is raised")

        later_s.write_text(str(now_s))
        wait_until(
            lambda: 0 < zone.node().actual_state.report_time.seconds < now_s + DAY_S,
            "a report after the jump back",
        )
        issued = zone.issue()
        wait_until(
            lambda: zone.delivery(issued).state == State.DELIVERY_STATE_SUCCEEDED, "delivered"
        )
        wait_until(lambda: not clock_items(zone), "the clock is right again")
