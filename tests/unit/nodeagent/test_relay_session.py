"""What a relay puts on the wire: indices, batches, and answers that find the node they are for."""

from __future__ import annotations

from typing import Any

import pytest

from nodeagent.clock import duration
from nodeagent.relay_passage import MAX_WAITING_FRAMES, AgentPassage
from nodeagent.relay_session import (
    MAX_BATCH_FRAMES,
    MAX_UNANSWERED_BATCHES,
    RelaySession,
    RelaySessionBroken,
    RelaySessionFull,
    Request,
    Response,
)
from nodeagent.relay_session import (
    MAX_WAITING_FRAMES as MAX_SESSION_FRAMES,
)
from souverix.nodelink.v1 import nodelink_pb2, relay_pb2


class Told:
    """A passage that notes what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def hear(self, response: nodelink_pb2.ConnectResponse) -> None:
        self.heard.append(response.WhichOneof("kind"))

    def hear_ping(self, ping_ms: int) -> None:
        self.heard.append(ping_ms)

    def ended(self) -> None:
        self.heard.append("ended")


def new_session(max_nodes: int = 10) -> RelaySession:
    welcome = relay_pb2.RelayWelcome(
        max_nodes=max_nodes, lease_ttl=duration(6.0), heartbeat_interval=duration(5.0)
    )
    return RelaySession(welcome, 0.0)


def hello(node: str = "n") -> nodelink_pb2.ConnectRequest:
    return nodelink_pb2.ConnectRequest(hello=nodelink_pb2.AgentHello(node=node))


def heartbeat(ping_ms: int, rtt_s: float = 0, backlog: int = 0) -> nodelink_pb2.ConnectRequest:
    beat = nodelink_pb2.AgentHeartbeat(ping_ms=ping_ms, backlog_reports=backlog)
    if rtt_s:
        beat.rtt.CopyFrom(duration(rtt_s))
    return nodelink_pb2.ConnectRequest(heartbeat=beat)


def sent(session: RelaySession, now_s: float = 0.0) -> list[Request]:
    return list(session.messages(now_s))


def closed(index: int) -> Response:
    frame = relay_pb2.RelayedResponse(node=index, closed=relay_pb2.StreamClosed())
    return Response(responses=relay_pb2.ResponseBatch(responses=[frame]))


def test_heartbeats_are_gathered_in_columns_after_the_greetings_of_their_nodes() -> None:
    session = new_session()
    for ping_ms in (7, 8):
        index = session.open(Told(), hello())
        session.say(index, heartbeat(ping_ms, rtt_s=0.02 * index, backlog=index))
    session.say(0, heartbeat(9))
    greetings, beats = sent(session)
    assert [frame.node for frame in greetings.requests.requests] == [0, 1]
    batch = beats.heartbeats
    assert (batch.number, list(batch.nodes)) == (1, [0, 1])
    assert (list(batch.rtts_us), list(batch.backlogs)) == ([0, 20_000], [0, 1])


def test_columns_that_say_nothing_are_left_out() -> None:
    session = new_session()
    session.say(session.open(Told(), hello()), heartbeat(1))
    batch = sent(session)[1].heartbeats
    assert (len(batch.rtts_us), len(batch.backlogs)) == (0, 0)


def test_each_node_is_answered_with_its_own_ping() -> None:
    session = new_session()
    passages = [Told(), Told()]
    for ping_ms, passage in enumerate(passages, 70):
        session.say(session.open(passage, hello()), heartbeat(ping_ms))
    sent(session)
    ack = Response(heartbeats=relay_pb2.HeartbeatBatchAck(number=1))
    session.receive(ack, 1.0)
    session.receive(ack, 1.0)
    assert [passage.heard for passage in passages] == [[70], [71]]


def test_a_silent_relay_sends_empty_batches_within_a_third_of_the_lease() -> None:
    session = new_session()
    assert sent(session, 1.9) == []
    assert session.heartbeat_due_s() == 2.0
    (message,) = sent(session, 2.0)
    assert len(message.heartbeats.nodes) == 0
    assert sent(session, 3.9) == []


def test_a_controller_silent_for_a_lease_is_noticed() -> None:
    session = new_session()
    assert not session.is_silent(6.0)
    assert session.is_silent(6.1)


def test_an_index_is_used_again_when_both_sides_have_closed_it() -> None:
    session = new_session()
    first = session.open(Told(), hello("a"))
    session.close(first)
    session.close(first)
    session.say(first, hello("late"))
    assert [f.WhichOneof("kind") for f in sent(session)[0].requests.requests] == [
        "request",
        "closed",
    ]
    second = session.open(Told(), hello("b"))
    assert second != first
    session.receive(closed(first), 0.0)
    assert session.open(Told(), hello("c")) == first


def test_a_node_that_the_controller_closes_is_told_and_confirmed() -> None:
    session = new_session()
    passage = Told()
    index = session.open(passage, hello())
    session.say(index, heartbeat(1))
    session.receive(closed(index), 0.0)
    assert passage.heard == ["ended"]
    (message,) = sent(session)
    assert message.requests.requests[-1].HasField("closed")
    assert len(session) == 0


def test_frames_are_cut_into_batches() -> None:
    session = new_session()
    index = session.open(Told(), hello())
    for _ in range(MAX_SESSION_FRAMES):
        session.say(index, nodelink_pb2.ConnectRequest(report=nodelink_pb2.Report()))
    assert not session.has_room
    sizes = [len(message.requests.requests) for message in sent(session)]
    assert max(sizes) == MAX_BATCH_FRAMES
    assert sum(sizes) == MAX_SESSION_FRAMES + 1
    assert session.has_room


def test_as_many_nodes_are_carried_as_the_controller_allows() -> None:
    session = new_session(max_nodes=1)
    session.open(Told(), hello())
    with pytest.raises(RelaySessionFull, match="carries 1 nodes"):
        session.open(Told(), hello())


def test_batches_that_nobody_answers_are_forgotten() -> None:
    session = new_session()
    passage = Told()
    index = session.open(passage, hello())
    for ping_ms in range(MAX_UNANSWERED_BATCHES + 1):
        session.say(index, heartbeat(ping_ms))
        sent(session)
    for number in (1, 2):
        session.receive(Response(heartbeats=relay_pb2.HeartbeatBatchAck(number=number)), 0.0)
    assert passage.heard == [1]


@pytest.mark.parametrize(
    "response", [closed(3), Response(welcome=relay_pb2.RelayWelcome()), Response()]
)
def test_a_controller_that_contradicts_the_contract_is_left(response: Response) -> None:
    with pytest.raises(RelaySessionBroken):
        new_session().receive(response, 0.0)


def test_the_end_of_a_session_ends_its_passages() -> None:
    session = new_session()
    passages = [Told(), Told()]
    for passage in passages:
        session.open(passage, hello())
    session.end()
    assert [passage.heard for passage in passages] == [["ended"], ["ended"]]


# Towards the agent.


async def frames_of(passage: AgentPassage) -> list[nodelink_pb2.ConnectResponse]:
    return [frame async for frame in passage.frames()]


async def test_a_ping_is_answered_under_the_fence_of_the_last_frame() -> None:
    passage = AgentPassage()
    fence = nodelink_pb2.Fence(placement_epoch=3, controller="c", fencing_token=9)
    passage.hear(nodelink_pb2.ConnectResponse(fence=fence, welcome=nodelink_pb2.Welcome()))
    passage.hear_ping(77)
    passage.ended()
    welcome, answer, goodbye = await frames_of(passage)
    assert welcome is passage.welcome
    assert (answer.heartbeat_ack.ping_ms, answer.fence) == (77, fence)
    assert "lost its controller" in goodbye.goodbye.message


async def test_an_agent_that_was_sent_away_is_told_nothing_more() -> None:
    passage = AgentPassage()
    passage.hear(nodelink_pb2.ConnectResponse(goodbye=nodelink_pb2.LinkGoodbye(message="why")))
    passage.ended()
    assert [frame.goodbye.message for frame in await frames_of(passage)] == ["why"]


async def test_an_agent_that_reads_too_slowly_is_left() -> None:
    passage = AgentPassage()
    for ping_ms in range(MAX_WAITING_FRAMES + 1):
        passage.hear_ping(ping_ms)
    assert passage.is_over
    assert await frames_of(passage) == []
