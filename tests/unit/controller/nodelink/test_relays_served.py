"""Nodes behind a relay, over a real stream: served as any node is, handed over, and ended clearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.nodelink.proof import end_message
from controller.nodelink.relay_deposits import MAX_DEPOSITED_REPORTS
from controller.nodelink.relay_service import MAX_NODES_A_RELAY
from controller.nodelink.relay_stream import MAX_BATCH_FRAMES
from souverix.command.v1 import command_pb2, command_service_pb2
from souverix.fleet.v1 import connectivity_pb2, node_pb2, observation_pb2, return_pb2
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    ScriptedAgent,
    ScriptedRelay,
    Served,
    batch_of,
    key_of,
    until,
)

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE


def link_state(controller: Served, node: str) -> Any:
    return controller.body(ROOT, f"nodes/{node}", "link_state")


async def recorded_of(controller: Served, node: str) -> Any:
    return await until(lambda: link_state(controller, node))


def report(sequence: int, version: str) -> nodelink_pb2.Report:
    state = node_pb2.ActualState(reported_version=version)
    return nodelink_pb2.Report(sequence=sequence, actual_state=state)


@pytest.fixture
async def relay(served: Served) -> ScriptedRelay:
    """A relay that was welcomed."""
    relay = ScriptedRelay(served)
    await relay.greet()
    return relay


async def test_a_relay_is_welcome_under_the_masters_fence(served: Served) -> None:
    welcome = (await ScriptedRelay(served).greet()).welcome
    assert welcome.fence.fencing_token == served.replica.journal().fencing_token
    assert welcome.max_nodes == MAX_NODES_A_RELAY
    assert welcome.lease_ttl.ToMilliseconds() == 5000


async def test_nodes_behind_a_relay_are_welcomed_and_recorded_with_their_path(
    served: Served, relay: ScriptedRelay
) -> None:
    await served.create_node("n2")
    for index, node in enumerate(("n1", "n2")):
        welcome = await relay.bring(index, node)
        assert welcome.welcome.domain == ROOT
        assert welcome.fence.placement_epoch == 1
        assert welcome.fence.fencing_token == served.replica.journal().fencing_token
    for node in ("n1", "n2"):
        recorded = await recorded_of(served, node)
        assert (recorded.mode, recorded.relay) == (LIVE, "relay-1")
    assert served.relays.carried() == {"relay-1": 2}


async def test_a_relay_does_not_come_through_itself(served: Served, relay: ScriptedRelay) -> None:
    await served.create_node("relay-1")
    await relay.bring(0, "relay-1")
    recorded = await until(lambda: link_state(served, "relay-1"))
    assert (recorded.mode, recorded.relay) == (LIVE, "")


async def test_heartbeats_of_many_nodes_are_one_message_and_no_event(
    served: Served, relay: ScriptedRelay
) -> None:
    await served.create_node("n2")
    await relay.bring(0, "n1")
    await relay.bring(7, "n2")
    await until(lambda: link_state(served, "n1") and link_state(served, "n2"))
    offset = served.replica.state.next_offset
    batch = relay_pb2.HeartbeatBatch(
        number=1, nodes=[0, 7], rtts_us=[20_000, 30_000], backlogs=[0, 2]
    )
    await relay.say(heartbeats=batch)
    assert (await relay.hear_kind("heartbeats")).number == 1
    measured = served.replica.connectivity.measured("n2", 0.0)
    assert measured is not None
    assert (measured.rtt_s, measured.backlog) == (0.03, 2)
    assert served.replica.state.next_offset == offset


async def test_reports_through_a_relay_are_durable_once(
    served: Served, relay: ScriptedRelay
) -> None:
    await relay.bring(0, "n1")
    await relay.requests(
        *((0, nodelink_pb2.ConnectRequest(report=report(n, f"v{n}"))) for n in (1, 2, 3))
    )
    acknowledged = 0
    while acknowledged < 3:
        acknowledged = (await relay.hear_node(0)).response.report_ack.sequence
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v3"
    await relay.close(0)
    assert (await relay.hear_node(0)).HasField("closed")
    again = await relay.bring(0, "n1")
    assert again.welcome.reports_acknowledged == 3


async def test_a_command_goes_through_a_relay_and_its_result_comes_back(
    served: Served, relay: ScriptedRelay
) -> None:
    await relay.bring(0, "n1")
    request = command_service_pb2.IssueCommandRequest(
        targets=command_pb2.Targets(nodes=["n1"]),
        action=command_pb2.Action(ping=command_pb2.Ping(payload="hello")),
    )
    request.expiry.ttl.FromSeconds(60)
    await served.commands.IssueCommand(request, metadata=(("souverix-principal", "user:t"),))
    frame = (await relay.hear_node(0)).response
    assert frame.command.action.ping.payload == "hello"
    assert frame.fence.fencing_token == served.replica.journal().fencing_token
    result = nodelink_pb2.CommandResult(
        command_id=frame.command.command_id, state=command_pb2.DELIVERY_STATE_SUCCEEDED
    )
    await relay.request(0, result=result)
    answered = (await relay.hear_node(0)).response
    assert answered.result_ack.command_id == frame.command.command_id


async def test_an_unwelcome_node_is_sent_away_and_the_relay_stays(
    served: Served, relay: ScriptedRelay
) -> None:
    refused = await relay.bring(0, "nobody")
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_UNKNOWN_NODE
    assert (await relay.hear_node(0)).HasField("closed")
    await relay.close(0)
    assert (await relay.bring(0, "n1")).HasField("welcome")


async def test_a_node_that_leaves_is_recorded_and_its_index_is_free(
    served: Served, relay: ScriptedRelay
) -> None:
    await relay.bring(0, "n1")
    await until(lambda: link_state(served, "n1"))
    await relay.request(0, goodbye=nodelink_pb2.AgentGoodbye(reason="the agent stops"))
    assert (await relay.hear_node(0)).HasField("closed")
    await until(
        lambda: link_state(served, "n1").mode == connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED
    )
    await relay.close(0)
    assert (await relay.bring(0, "n1")).HasField("welcome")


async def test_when_the_relay_is_lost_so_are_its_nodes(
    served: Served, relay: ScriptedRelay
) -> None:
    await relay.bring(0, "n1")
    await until(lambda: link_state(served, "n1"))
    relay.vanish()
    await until(lambda: len(served.service.links) == 0)
    await until(
        lambda: link_state(served, "n1").mode == connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
    )
    assert link_state(served, "n1").relay == "relay-1"
    assert served.relays.carried() == {}


# Hand-over.


async def test_an_agent_that_comes_by_another_path_is_handed_over(served: Served) -> None:
    direct = ScriptedAgent(served, source="same", run="r")
    await direct.greet()
    await until(lambda: link_state(served, "n1"))
    first = ScriptedRelay(served)
    await first.greet()
    assert (await first.bring(0, "n1", "same", run="r")).HasField("welcome")
    told = await direct.hear("goodbye")
    assert told.goodbye.reason == nodelink_pb2.LINK_END_HANDED_OVER
    assert "relay relay-1" in told.goodbye.message
    await until(lambda: link_state(served, "n1").relay == "relay-1")
    assert link_state(served, "n1").reason == "path_changed"
    second = ScriptedRelay(served, "relay-2", "rs2")
    await second.greet()
    assert (await second.bring(5, "n1", "same", run="r")).HasField("welcome")
    gone = (await first.hear_node(0)).response.goodbye
    assert gone.reason == nodelink_pb2.LINK_END_HANDED_OVER
    assert (await first.hear_node(0)).HasField("closed")
    await until(lambda: link_state(served, "n1").relay == "relay-2")
    assert (await ScriptedAgent(served, source="same", run="r").greet()).HasField("welcome")
    await until(lambda: link_state(served, "n1").relay == "")
    assert len(served.service.links) == 1


async def test_another_agent_of_the_same_node_is_a_duplicate_by_any_path(
    served: Served, relay: ScriptedRelay
) -> None:
    await ScriptedAgent(served, source="one").greet()
    refused = await relay.bring(0, "n1", "two")
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE


async def test_copies_of_one_agent_do_not_take_the_link_from_each_other(
    served: Served, relay: ScriptedRelay
) -> None:
    await ScriptedAgent(served, source="same").greet()
    refused = await relay.bring(0, "n1", "same")
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE


# Two relays of one name.


async def test_a_relay_that_comes_again_replaces_its_earlier_stream(
    served: Served, relay: ScriptedRelay
) -> None:
    again = ScriptedRelay(served)
    assert (await again.greet()).HasField("welcome")
    assert (await relay.hear()).goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE
    other = await ScriptedRelay(served, source="another").greet()
    assert other.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE


async def test_a_node_that_is_no_relay_carries_none(served: Served) -> None:
    await served.submit(
        lambda proposal: proposal.write(
            ROOT,
            "nodes/n1",
            "node_spec",
            node_pb2.NodeSpec(kind=node_pb2.NODE_KIND_EDGE),
            principal="user:test",
        )
    )
    refused = await ScriptedRelay(served, "n1").greet()
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
    assert "NODE_KIND_EDGE" in refused.goodbye.message


# Deposits.


@pytest.fixture
async def behind(served: Served, relay: ScriptedRelay) -> None:
    """The node n1 came through the relay, and is away."""
    await relay.bring(0, "n1")
    await recorded_of(served, "n1")
    await relay.close(0)
    assert (await relay.hear_node(0)).HasField("closed")


def deposit(
    *reports: nodelink_pb2.Report, node: str = "n1", source: str = "s-n1", **fields: Any
) -> relay_pb2.Deposit:
    """What a relay kept of a node, as the node's agent signed it."""
    batch = batch_of(node, source, *reports, **fields)
    return relay_pb2.Deposit(node=node, source=source, batch=batch)


async def answered(relay: ScriptedRelay, said: relay_pb2.Deposit) -> Any:
    await relay.say(deposit=said)
    return await relay.hear_kind("deposit")


@pytest.mark.usefixtures("behind")
async def test_a_deposit_is_durable_without_its_node(served: Served, relay: ScriptedRelay) -> None:
    for _ in range(2):
        ack = await answered(relay, deposit(report(1, "v1"), report(2, "v2")))
        assert (ack.node, ack.source, ack.sequence, ack.problem) == ("n1", "s-n1", 2, "")
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v2"
    assert len(served.service.links) == 0
    ack = await answered(relay, deposit(report(2, "v2"), report(3, "v3")))
    assert (ack.sequence, ack.problem) == (3, "")
    assert served.body(ROOT, "nodes/n1", "actual_state").reported_version == "v3"
    assert (await relay.bring(0, "n1")).welcome.reports_acknowledged == 3


@pytest.mark.parametrize(
    ("node", "reports", "problem"),
    [
        ("n1", [report(5, "v5")], "report 5 came where 1 was expected"),
        ("nobody", [report(1, "v1")], "nobody is not known here"),
        ("NO", [report(1, "v1")], "no node id"),
        ("n2", [report(1, "v1")], "n2 did not come through relay relay-1 last"),
    ],
)
@pytest.mark.usefixtures("behind")
async def test_a_deposit_that_cannot_be_taken_is_told_why(
    served: Served,
    relay: ScriptedRelay,
    node: str,
    reports: list[nodelink_pb2.Report],
    problem: str,
) -> None:
    await served.create_node("n2")
    ack = await answered(relay, deposit(*reports, node=node, source="s"))
    assert problem in ack.problem
    assert ack.sequence == 0
    assert served.body(ROOT, "nodes/n1", "return_incident") is None


@pytest.mark.usefixtures("behind")
async def test_reports_that_nobody_signed_are_not_taken(
    served: Served, relay: ScriptedRelay
) -> None:
    unsigned = relay_pb2.Deposit(node="n1", source="s-n1", reports=[report(1, "v1")])
    ack = await answered(relay, unsigned)
    assert (ack.sequence, ack.problem) == (
        0,
        "its reports are not signed: the relay is of an earlier version",
    )
    assert served.body(ROOT, "nodes/n1", "actual_state") is None


def flip(said: relay_pb2.Deposit) -> None:
    said.batch.reports[0] = said.batch.reports[0].replace(b"v1", b"v9")


def rechain(said: relay_pb2.Deposit) -> None:
    """As a relay would that knows the chain and has no key."""
    forged = deposit(report(1, "v9"), report(2, "v2")).batch
    signature = said.batch.signature
    said.batch.CopyFrom(forged)
    said.batch.signature = signature


def swap(said: relay_pb2.Deposit) -> None:
    said.batch.reports[:] = reversed(said.batch.reports)


def cut(said: relay_pb2.Deposit) -> None:
    del said.batch.reports[1:]
    said.batch.chain_hash = batch_of("n1", "s-n1", report(1, "v1")).chain_hash


def unsign(said: relay_pb2.Deposit) -> None:
    said.batch.ClearField("signature")


def rename(said: relay_pb2.Deposit) -> None:
    said.source = "s-other"


def sign_otherwise(said: relay_pb2.Deposit) -> None:
    said.batch.signature = deposit(
        report(1, "v1"), report(2, "v2"), key=key_of("another")
    ).batch.signature


def sign_as_a_replay(said: relay_pb2.Deposit) -> None:
    """A signature that the agent gave to another end: of a replay over a session."""
    message = end_message(b"token", 2, 0, said.batch.chain_hash)
    said.batch.signature = key_of("n1").sign(message)


def say_nothing(said: relay_pb2.Deposit) -> None:
    said.CopyFrom(deposit(nodelink_pb2.Report(sequence=1)))


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (flip, "CHAIN_BROKEN"),
        (rechain, "SIGNATURE_INVALID"),
        (swap, "CHAIN_BROKEN"),
        (cut, "SIGNATURE_INVALID"),
        (unsign, "SIGNATURE_INVALID"),
        (rename, "CHAIN_BROKEN"),
        (sign_otherwise, "SIGNATURE_INVALID"),
        (sign_as_a_replay, "SIGNATURE_INVALID"),
        (say_nothing, "REPORT_INVALID"),
    ],
)
@pytest.mark.usefixtures("behind")
async def test_a_relay_cannot_forge_a_deposit(
    served: Served,
    relay: ScriptedRelay,
    tamper: Callable[[relay_pb2.Deposit], None],
    reason: str,
) -> None:
    said = deposit(report(1, "v1"), report(2, "v2"))
    tamper(said)
    ack = await answered(relay, said)
    assert ack.sequence == 0
    assert ack.problem.startswith(reason)
    assert served.body(ROOT, "nodes/n1", "actual_state") is None
    found = served.body(ROOT, "nodes/n1", "return_incident")
    assert (found.kind, found.reason, found.relay) == (
        return_pb2.INCIDENT_KIND_DEPOSIT_REFUSED,
        reason,
        "relay-1",
    )
    # The node is not to blame: it comes back as ever, and what it has itself takes effect.
    assert (await relay.bring(0, "n1", backlog_reports=1, oldest_report=1)).welcome.locked


@pytest.mark.usefixtures("behind")
async def test_a_deposit_stops_before_values_that_only_the_node_has(
    served: Served, relay: ScriptedRelay
) -> None:
    inventory = observation_pb2.Inventory()
    inventory.large_values.add(name="packages", digest="sha256:" + "a" * 64, size_bytes=5)
    named = nodelink_pb2.Report(sequence=2, inventory=inventory)
    ack = await answered(relay, deposit(report(1, "v1"), named))
    assert ack.sequence == 1
    assert "report 2 names large values" in ack.problem


# Hostile frames.


def request(index: int, **fields: Any) -> relay_pb2.RelayedRequest:
    return relay_pb2.RelayedRequest(node=index, request=nodelink_pb2.ConnectRequest(**fields))


HELLO = nodelink_pb2.AgentHello(node="n1", source="s")


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ({"heartbeats": relay_pb2.HeartbeatBatch(nodes=[3])}, "index 3, which no node has"),
        (
            {"requests": relay_pb2.RequestBatch(requests=[request(3, report=report(1, "v"))])},
            "index 3, which no node has",
        ),
        (
            {
                "requests": relay_pb2.RequestBatch(
                    requests=[request(MAX_NODES_A_RELAY, hello=HELLO)]
                )
            },
            "is too high",
        ),
        (
            {
                "requests": relay_pb2.RequestBatch(
                    requests=[relay_pb2.RelayedRequest(node=1)] * (MAX_BATCH_FRAMES + 1)
                )
            },
            "at most 1000 are allowed",
        ),
        (
            {"requests": relay_pb2.RequestBatch(requests=[relay_pb2.RelayedRequest(node=1)])},
            "says nothing",
        ),
        (
            {
                "requests": relay_pb2.RequestBatch(
                    requests=[relay_pb2.RelayedRequest(node=1, closed=relay_pb2.StreamClosed())]
                )
            },
            "index 1 was closed",
        ),
        ({"hello": relay_pb2.RelayHello(relay="relay-1", source="x")}, "second greeting"),
        ({}, "says nothing this version knows"),
        (
            {"deposit": relay_pb2.Deposit(node="n1", source="s")},
            f"1 to {MAX_DEPOSITED_REPORTS} are allowed",
        ),
    ],
)
async def test_what_no_relay_may_send_ends_its_stream_clearly(
    served: Served, relay: ScriptedRelay, frame: dict[str, Any], complaint: str
) -> None:
    await relay.say(**frame)
    said = (await relay.hear()).goodbye
    assert said.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
    assert complaint in said.message
    assert await relay.hear() is None


async def test_a_node_that_breaks_the_protocol_ends_alone(
    served: Served, relay: ScriptedRelay
) -> None:
    await served.create_node("n2")
    await relay.bring(0, "n1")
    await relay.bring(1, "n2")
    await relay.request(0, report=report(9, "v9"))
    said = (await relay.hear_node(0)).response.goodbye
    assert said.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
    await relay.request(0, report=report(10, "v10"))
    await relay.say(heartbeats=relay_pb2.HeartbeatBatch(number=1, nodes=[0, 1]))
    assert (await relay.hear_kind("heartbeats")).number == 1


async def test_a_stream_that_does_not_greet_is_refused(served: Served) -> None:
    relay = ScriptedRelay(served)
    await relay.say(heartbeats=relay_pb2.HeartbeatBatch())
    said = (await relay.hear()).goodbye
    assert "must be a greeting" in said.message
