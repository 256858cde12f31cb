"""Links over real streams: who is welcome, what is recorded, how links end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from controller.nodelink.connectivity import COMMITS_BURST, COMMITS_PER_S
from controller.nodelink.link import MAX_OUTBOX_FRAMES
from federation.proposal import Proposal
from federation.state import Applied
from souverix.fleet.v1 import connectivity_pb2, domain_pb2, node_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    CONTROLLER,
    Directory,
    ScriptedAgent,
    Served,
    until,
)

LIVE = connectivity_pb2.CONNECTIVITY_MODE_LIVE
AUTONOMOUS = connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS
DISCONNECTED = connectivity_pb2.CONNECTIVITY_MODE_DISCONNECTED
RETURNING = connectivity_pb2.CONNECTIVITY_MODE_RETURNING
REPLAYING = connectivity_pb2.CONNECTIVITY_MODE_REPLAYING


def mode_of(controller: Served, node: str = "n1") -> int:
    body = controller.body(ROOT, f"nodes/{node}", "link_state")
    return int(body.mode) if body is not None else 0


async def test_a_known_node_is_welcome_under_the_masters_fence(served: Served) -> None:
    welcome = await ScriptedAgent(served).greet()
    assert (welcome.welcome.domain, welcome.welcome.reports_acknowledged) == (ROOT, 0)
    assert welcome.welcome.heartbeat_interval.ToMilliseconds() == 10_000
    assert welcome.welcome.lease_ttl.ToMilliseconds() == 5000
    fence = welcome.fence
    assert (fence.placement_epoch, fence.controller, fence.incarnation) == (1, CONTROLLER, 1)
    assert fence.fencing_token == served.replica.journal().fencing_token > 0


async def test_heartbeats_are_answered_and_are_no_events(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    await until(lambda: mode_of(served) == LIVE)
    offset = served.replica.state.next_offset
    for ping_ms in (7, 8):
        await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=ping_ms, backlog_reports=3))
        frame = await agent.hear("heartbeat_ack")
        assert frame.heartbeat_ack.ping_ms == ping_ms
        assert frame.fence.fencing_token == served.replica.journal().fencing_token
    assert served.replica.state.next_offset == offset
    heard = served.service.links.heard("n1")
    assert heard is not None
    assert heard.backlog_reports == 3


async def test_coming_and_going_are_recorded_with_their_reasons(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet(backlog_reports=2)
    await until(lambda: mode_of(served) == LIVE)
    live = served.body(ROOT, "nodes/n1", "link_state")
    assert (live.reason, live.backlog_messages) == ("first_contact", 2)
    assert live.evidence == "a link opened; 2 reports wait at the node"
    await agent.say(goodbye=nodelink_pb2.AgentGoodbye(reason="the agent stops"))
    await until(lambda: mode_of(served) == DISCONNECTED)
    gone = served.body(ROOT, "nodes/n1", "link_state")
    assert (gone.reason, gone.evidence) == ("agent_stopped", "the agent stops")
    assert gone.previous_mode == LIVE


async def test_a_broken_stream_frees_the_nodes_place_at_once(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    agent.vanish()
    await until(lambda: mode_of(served) == AUTONOMOUS)
    assert served.body(ROOT, "nodes/n1", "link_state").reason == "connection_lost"
    again = await ScriptedAgent(served).greet()
    assert again.WhichOneof("kind") == "welcome"
    await until(lambda: mode_of(served) == LIVE)
    assert served.body(ROOT, "nodes/n1", "link_state").previous_mode == AUTONOMOUS


async def test_reports_whose_acknowledgement_was_lost_are_no_backlog(served: Served) -> None:
    first = ScriptedAgent(served)
    await first.greet()
    for number in range(1, 7):
        await first.report_version(number, f"v{number}")
    while (await first.hear("report_ack")).report_ack.sequence < 6:
        pass
    first.vanish()
    await until(lambda: mode_of(served) == AUTONOMOUS)
    await ScriptedAgent(served).greet(backlog_reports=6, oldest_report=1)
    await until(lambda: mode_of(served) == LIVE)
    assert served.body(ROOT, "nodes/n1", "link_state").reason == "connection_detected"


async def test_a_silent_agent_is_left(tmp_path: Path) -> None:
    async with Directory(tmp_path, heartbeat_interval_s=0.1).served() as served:
        await served.create_node("n1")
        agent = ScriptedAgent(served)
        await agent.greet()
        end = await agent.hear("goodbye")
        assert "no heartbeat" in end.goodbye.message
        await until(lambda: mode_of(served) == AUTONOMOUS)
        assert served.body(ROOT, "nodes/n1", "link_state").reason == "heartbeats_missed"


async def test_a_second_agent_of_a_node_is_refused_while_the_first_lives(served: Served) -> None:
    first = ScriptedAgent(served)
    await first.greet()
    refused = await ScriptedAgent(served, source="s2").greet()
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_DUPLICATE
    assert refused.goodbye.retry_after.ToMilliseconds() >= 1000
    await first.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    assert (await first.hear()).heartbeat_ack.ping_ms == 1


async def test_an_unknown_node_is_sent_away_with_the_next_step(served: Served) -> None:
    refused = await ScriptedAgent(served, "stranger").greet(spec=node_pb2.NodeSpec())
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_UNKNOWN_NODE
    assert "enrolment is not open" in refused.goodbye.message
    assert served.body(ROOT, "nodes/stranger", "existence") is None


async def test_open_enrolment_creates_the_node_from_its_description(tmp_path: Path) -> None:
    directory = Directory(tmp_path, enrolment="open")
    async with directory.served() as served:
        spec = node_pb2.NodeSpec(kind=node_pb2.NODE_KIND_EDGE, tags=["lab"])
        welcome = await ScriptedAgent(served, "newcomer").greet(spec=spec)
        assert welcome.welcome.domain == ROOT
        assert served.body(ROOT, "nodes/newcomer", "existence").exists
        assert served.body(ROOT, "nodes/newcomer", "placement").epoch == 1
        assert served.body(ROOT, "nodes/newcomer", "node_spec") == spec
        audit = served.replica.state.audits[-1].write.body()
        assert (audit.action, audit.principal) == ("node.enrolled", "node:newcomer")


async def test_open_enrolment_without_a_description_or_with_a_bad_one_creates_nothing(
    tmp_path: Path,
) -> None:
    async with Directory(tmp_path, enrolment="open").served() as served:
        bare = await ScriptedAgent(served, "bare").greet()
        assert bare.goodbye.reason == nodelink_pb2.LINK_END_UNKNOWN_NODE
        bad = await ScriptedAgent(served, "bad").greet(
            spec=node_pb2.NodeSpec(display_name="x" * 100_000)
        )
        assert bad.goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
        assert list(served.replica.state.subjects_of(ROOT, "nodes")) == []


async def test_a_node_of_another_controllers_domain_is_told_whose(served: Served) -> None:
    await served.declare("edge-a1", controller="edge-a1-control")
    await served.create_node("n2", "edge-a1")
    refused = await ScriptedAgent(served, "n2").greet()
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_MOVED
    assert "edge-a1-control" in refused.goodbye.message


async def test_a_node_of_a_domain_without_a_controller_links_to_the_one_above(
    served: Served,
) -> None:
    await served.declare("cluster-1")
    await served.create_node("n2", "cluster-1", epoch=3)
    welcome = await ScriptedAgent(served, "n2").greet()
    assert (welcome.welcome.domain, welcome.fence.placement_epoch) == ("cluster-1", 3)


async def test_a_deleted_node_is_not_welcome_and_its_link_ends(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()

    def delete(proposal: Proposal) -> None:
        gone = domain_pb2.Existence(exists=False)
        proposal.write(ROOT, "nodes/n1", "existence", gone, principal="user:test")

    await served.submit(delete)
    end = await agent.hear("goodbye")
    assert end.goodbye.reason == nodelink_pb2.LINK_END_UNKNOWN_NODE
    again = await ScriptedAgent(served).greet()
    assert "deleted" in again.goodbye.message


async def test_a_node_that_is_moved_is_sent_on(served: Served) -> None:
    await served.declare("edge-a1", controller="edge-a1-control")
    agent = ScriptedAgent(served)
    await agent.greet()

    def move(proposal: Proposal) -> None:
        moved = node_pb2.Placement(domain="edge-a1", epoch=2)
        for domain in (ROOT, "edge-a1"):
            proposal.write(domain, "nodes/n1", "placement", moved, principal="user:test")

    await served.submit(move)
    end = await agent.hear("goodbye")
    assert end.goodbye.reason == nodelink_pb2.LINK_END_MOVED
    assert "edge-a1" in end.goodbye.message


async def test_a_bad_greeting_is_refused_with_its_cause(served: Served) -> None:
    for agent, cause in (
        (ScriptedAgent(served, "Not An Id"), "no node id"),
        (ScriptedAgent(served, source=""), "source"),
        (ScriptedAgent(served, source="x" * 200), "source"),
    ):
        refused = await agent.greet()
        assert refused.goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR
        assert cause in refused.goodbye.message


async def test_a_stream_that_does_not_begin_with_a_greeting_is_refused(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    assert (await agent.hear()).goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR


async def test_a_second_greeting_ends_the_link(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    end = await agent.greet()
    assert end.goodbye.reason == nodelink_pb2.LINK_END_PROTOCOL_ERROR


async def test_no_more_links_than_configured(tmp_path: Path) -> None:
    async with Directory(tmp_path, max_links=1).served() as served:
        await served.create_node("n1")
        await served.create_node("n2")
        await ScriptedAgent(served, "n1").greet()
        refused = await ScriptedAgent(served, "n2").greet()
        assert "max_links" in refused.goodbye.message
        assert refused.goodbye.HasField("retry_after")


async def test_an_agent_that_does_not_read_is_dropped_and_its_place_freed(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    link = served.service.links.get("n1")
    assert link is not None
    big = nodelink_pb2.CommandFrame(command_id="x" * 100_000)
    sent = 0
    while link.send(nodelink_pb2.ConnectResponse(command=big)):
        sent += 1
    assert sent <= MAX_OUTBOX_FRAMES
    await until(lambda: served.service.links.get("n1") is None)
    await until(lambda: mode_of(served) == AUTONOMOUS)
    assert served.body(ROOT, "nodes/n1", "link_state").reason == "too_slow"


async def test_the_process_takes_leave_and_no_transition_is_recorded(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    await until(lambda: mode_of(served) == LIVE)
    served.service.stop()
    assert (await agent.hear()).goodbye.reason == nodelink_pb2.LINK_END_SHUTDOWN
    await until(lambda: served.service.links.get("n1") is None)
    assert mode_of(served) == LIVE
    refused = await ScriptedAgent(served).greet()
    assert refused.goodbye.reason == nodelink_pb2.LINK_END_NOT_MASTER


async def test_a_standby_names_the_master(directory: Directory) -> None:
    async with directory.served("r1"), directory.served("r2", wait=False) as standby:
        await standby.replica.replayed()
        refused = await ScriptedAgent(standby).greet()
        assert refused.goodbye.reason == nodelink_pb2.LINK_END_NOT_MASTER
        assert "r1@" in refused.goodbye.message
        assert refused.fence.fencing_token == 0


async def test_a_lost_mastership_ends_the_links_and_the_next_has_a_higher_fence(
    served: Served,
) -> None:
    agent = ScriptedAgent(served)
    first = await agent.greet()
    lease = served.replica._lease
    assert lease is not None
    await lease.release()
    end = await agent.hear("goodbye")
    assert end.goodbye.reason == nodelink_pb2.LINK_END_NOT_MASTER
    await until(lambda: served.service.is_serving)
    second = await ScriptedAgent(served).greet()
    assert second.fence.fencing_token > first.fence.fencing_token


async def test_without_a_valid_lease_no_frame_but_a_goodbye_leaves(served: Served) -> None:
    agent = ScriptedAgent(served)
    await agent.greet()
    link = served.service.links.get("n1")
    assert link is not None
    link._may_speak = lambda: False
    link.send(nodelink_pb2.ConnectResponse(command=nodelink_pb2.CommandFrame(command_id="c")))
    frame = await agent.hear()
    assert frame.goodbye.reason == nodelink_pb2.LINK_END_NOT_MASTER


async def test_transitions_of_many_nodes_share_commits(served: Served) -> None:
    nodes = [f"many-{number}" for number in range(40)]
    for node in nodes:
        await served.create_node(node)
    commits: list[int] = []

    def note(applied: Applied) -> None:
        changed = [key for key in applied.keys if key.aspect == "link_state"]
        if changed:
            commits.append(len(changed))

    began_s = time.monotonic()
    with served.replica.changes.listen(note):
        await asyncio.gather(*(ScriptedAgent(served, node).greet() for node in nodes))
        await until(lambda: sum(commits) == len(nodes))
    took_s = time.monotonic() - began_s
    assert len(commits) <= COMMITS_BURST + 1 + COMMITS_PER_S * took_s
    for node in nodes:
        assert served.body(ROOT, f"nodes/{node}", "link_state").mode == LIVE
