"""The returns of nodes as operators see them: which are listed, what is told of each, and how they are followed."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from souverix.fleet.v1 import node_pb2
from souverix.nodelink.v1 import nodelink_pb2, replay_service_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import (
    DEADLINE_S,
    Directory,
    ScriptedAgent,
    Served,
    until,
)

REPLAYING = replay_service_pb2.SESSION_STATE_REPLAYING
LIVE = replay_service_pb2.SESSION_STATE_LIVE
ENDED = replay_service_pb2.SESSION_STATE_ENDED
QUARANTINED = replay_service_pb2.SESSION_STATE_QUARANTINED


def reports(count: int) -> list[nodelink_pb2.Report]:
    return [
        nodelink_pb2.Report(actual_state=node_pb2.ActualState(reported_version=f"v{number}"))
        for number in range(count)
    ]


async def come(controller: Served, node: str, waiting: int = 3) -> ScriptedAgent:
    """A node that has come with a backlog, and has its turn."""
    agent = ScriptedAgent(controller, node, f"s-{node}")
    welcome = await agent.greet(backlog_reports=waiting, oldest_report=1)
    assert welcome.welcome.locked
    return agent


async def come_back(controller: Served, node: str, waiting: int = 3) -> ScriptedAgent:
    """A node whose whole backlog is in effect."""
    agent = await come(controller, node, waiting)
    await agent.replay(1, *reports(waiting))
    await agent.hear("lock_released")
    return agent


async def listed(controller: Served, **fields: Any) -> Any:
    request = replay_service_pb2.ListReplaysRequest(**fields)
    return await controller.replays.ListReplays(request, timeout=DEADLINE_S)


def nodes_of(reply: Any) -> list[str]:
    return [replay.node for replay in reply.replays]


async def test_a_return_is_told_from_its_admission_to_its_end(served: Served) -> None:
    agent = await come(served, "n1")
    await agent.hear("replay_turn")
    (replay,) = (await listed(served)).replays
    assert (replay.node, replay.domain, replay.state) == ("n1", ROOT, REPLAYING)
    assert (replay.reports_total, replay.reports_staged, replay.reports_applied) == (3, 0, 0)
    assert replay.HasField("begin_time")
    assert not replay.HasField("end_time")
    assert not replay.HasField("rate_per_s")

    await agent.say(replay_chunk=agent.chunk(1, *reports(3)))
    await agent.hear("lock_released")
    (replay,) = (await listed(served)).replays
    assert replay.state == LIVE
    assert (replay.reports_staged, replay.reports_applied, replay.resumed_reports) == (3, 3, 0)
    assert replay.rate_per_s > 0
    assert not replay.HasField("eta")
    assert replay.end_time.ToMilliseconds() >= replay.begin_time.ToMilliseconds()
    assert replay.reason == ""


async def test_a_cut_return_has_ended_and_the_next_one_takes_its_place(served: Served) -> None:
    agent = await come(served, "n1")
    await agent.hear("replay_turn")
    chunk = agent.chunk(1, *reports(3))
    chunk.ClearField("signature")
    await agent.say(replay_chunk=chunk)
    await until(lambda: [each.staged for each in served.service.desk.replays] == [3])
    agent.vanish()
    await until(lambda: len(served.service.links) == 0)
    (replay,) = (await listed(served)).replays
    assert (replay.state, replay.reports_staged, replay.reports_applied) == (ENDED, 3, 0)

    again = await come(served, "n1")
    turn = (await again.hear("replay_turn")).replay_turn
    assert (turn.staged_sequence, turn.next_chunk) == (3, 2)
    (replay,) = (await listed(served)).replays
    assert (replay.state, replay.resumed_reports) == (REPLAYING, 3)


async def test_a_refused_backlog_is_told_with_its_reason(served: Served) -> None:
    agent = await come(served, "n1")
    await agent.hear("replay_turn")
    chunk = agent.chunk(1, *reports(3))
    chunk.chain_hash = b"\0" * 32
    await agent.say(replay_chunk=chunk)
    await agent.hear("isolated")
    (replay,) = (await listed(served)).replays
    assert (replay.state, replay.reason) == (QUARANTINED, "CHAIN_BROKEN")
    assert replay.reports_applied == 0


async def test_returns_are_listed_by_node_page_by_page(served: Served) -> None:
    for node in ("n4", "n2", "n3"):
        await served.create_node(node)
        await come_back(served, node)
    await come(served, "n1")
    first = await listed(served, page_size=3)
    assert nodes_of(first) == ["n1", "n2", "n3"]
    second = await listed(served, page_size=3, page_token=first.next_page_token)
    assert nodes_of(second) == ["n4"]
    assert second.next_page_token == ""
    assert nodes_of(await listed(served, running_only=True)) == ["n1"]
    assert nodes_of(await listed(served, node="n3")) == ["n3"]
    assert nodes_of(await listed(served, node="unheard-of")) == []


async def test_returns_are_listed_by_domain_with_what_lies_below(served: Served) -> None:
    await served.declare("region-a")
    await served.declare("zone-a1", "region-a")
    await served.create_node("n2", "zone-a1")
    await come_back(served, "n1")
    await come_back(served, "n2")
    assert nodes_of(await listed(served, domain="region-a")) == ["n2"]
    assert nodes_of(await listed(served, domain=ROOT)) == ["n1", "n2"]


async def test_nodes_that_were_sent_away_are_counted(directory: Directory) -> None:
    directory.agents["returns_per_s"] = 0.1
    async with directory.served() as controller:
        for node in ("n1", "n2", "n3"):
            await controller.create_node(node)
        await come(controller, "n1")
        # The first second place lies in the past, so that one more comes in at once.
        await come(controller, "n2")
        agent = ScriptedAgent(controller, "n3")
        away = await agent.greet(backlog_reports=1, oldest_report=1)
        assert away.goodbye.reason == nodelink_pb2.LINK_END_BUSY
        assert (await listed(controller)).deferred_nodes == 1


@pytest.mark.parametrize(
    "fields", [{"domain": "Not An Id"}, {"node": "Not An Id"}, {"page_size": -1}]
)
async def test_a_malformed_question_is_refused(served: Served, fields: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(served, **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_tells_what_there_is_and_then_each_change(served: Served) -> None:
    await served.create_node("n2")
    await come_back(served, "n2")
    watch = served.replays.WatchReplays(replay_service_pb2.WatchReplaysRequest())
    async with asyncio.timeout(DEADLINE_S):
        step = await watch.read()
        assert [(r.node, r.state) for r in step.replays] == [("n2", LIVE)]
        agent = await come(served, "n1")
        await agent.hear("replay_turn")
        step = await watch.read()
        assert [(r.node, r.state) for r in step.replays] == [("n1", REPLAYING)]
        await agent.say(replay_chunk=agent.chunk(1, *reports(3)))
        seen = step.replays[0]
        while seen.state != LIVE:
            (seen,) = (await watch.read()).replays
            assert seen.node == "n1"
        assert seen.reports_applied == 3
    watch.cancel()


async def test_a_watch_of_one_node_tells_of_no_other(served: Served) -> None:
    await served.create_node("n2")
    watch = served.replays.WatchReplays(replay_service_pb2.WatchReplaysRequest(node="n2"))
    async with asyncio.timeout(DEADLINE_S):
        assert not (await watch.read()).replays
        await come_back(served, "n1")
        await come_back(served, "n2")
        assert nodes_of(await watch.read()) == ["n2"]
    watch.cancel()


async def test_a_replica_that_is_not_the_master_knows_of_no_returns(directory: Directory) -> None:
    async with directory.served() as _, directory.served("r2", wait=False) as standby:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listed(standby)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        watch = standby.replays.WatchReplays(replay_service_pb2.WatchReplaysRequest())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch.read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
