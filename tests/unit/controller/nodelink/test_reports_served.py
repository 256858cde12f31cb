"""Reports over real streams: each becomes an event once, in order, and only when all it names is here."""

from __future__ import annotations

import asyncio
from typing import Any

from controller.nodelink.reports import (
    MAX_CHUNKS_WANTED,
    MAX_REPORT_BYTES,
    MAX_REPORTS_IN_FLIGHT,
    chunks_of,
    highest_report,
)
from controller.values import digest_of
from souverix.fleet.v1 import node_pb2, observation_pb2
from souverix.nodelink.v1 import nodelink_pb2
from tests.federation_fixture import ROOT
from tests.unit.controller.nodelink.served_links import Directory, ScriptedAgent, Served, until

PROTOCOL_ERROR = nodelink_pb2.LINK_END_PROTOCOL_ERROR
CHUNKS = (b"debian packages", b"python packages")


def inventory(*chunks: bytes, hostname: str = "edge-7") -> observation_pb2.Inventory:
    parts = [
        observation_pb2.LargeValueChunk(digest=digest_of(c), size_bytes=len(c)) for c in chunks
    ]
    value = observation_pb2.LargeValueRef(
        name="packages",
        digest=digest_of(b"".join(chunks)),
        size_bytes=sum(map(len, chunks)),
        chunks=parts,
    )
    return observation_pb2.Inventory(hostname=hostname, large_values=[value])


def version_of(controller: Served) -> str:
    body = controller.body(ROOT, "nodes/n1", "actual_state")
    return str(body.reported_version) if body is not None else ""


def reports_written(controller: Served) -> int:
    """Events of n1's reports in the log's streams of state and telemetry."""
    return sum(
        held.received
        for stream, held in controller.replica.state.streams.items()
        if stream.lane.name == "TELEMETRY"
    )


async def linked(controller: Served, source: str = "s1") -> tuple[ScriptedAgent, Any]:
    agent = ScriptedAgent(controller, source=source)
    return agent, await agent.greet()


async def test_reports_become_events_and_are_acknowledged_then(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.report_version(1, "1.0")
    await agent.report(2, inventory=observation_pb2.Inventory(hostname="edge-7"))
    acknowledged = 0
    while acknowledged < 2:
        acknowledged = (await agent.hear("report_ack")).report_ack.sequence
    state = served.body(ROOT, "nodes/n1", "actual_state")
    assert state.reported_version == "1.0"
    assert state.runtime.HasField("last_heartbeat_time")
    assert served.body(ROOT, "nodes/n1", "inventory").hostname == "edge-7"
    assert highest_report(served.replica.state, ROOT, "n1", "s1") == 2


async def test_a_backlog_is_taken_in_few_commits(served: Served) -> None:
    agent, _ = await linked(served)
    before = served.replica.state.next_offset
    for number in range(1, 65):
        await agent.report_version(number, f"v{number}")
    while (await agent.hear("report_ack")).report_ack.sequence < 64:
        pass
    assert version_of(served) == "v64"
    assert served.replica.state.next_offset - before < 64


async def test_a_report_sent_again_over_the_next_link_is_acknowledged_and_not_written_again(
    served: Served,
) -> None:
    agent, _ = await linked(served)
    for number in (1, 2):
        await agent.report(number, inventory=observation_pb2.Inventory(hostname=f"h{number}"))
    while (await agent.hear("report_ack")).report_ack.sequence < 2:
        pass
    agent.vanish()
    await until(lambda: len(served.service.links) == 0)
    written = reports_written(served)
    again, welcome = await linked(served)
    assert welcome.welcome.reports_acknowledged == 2
    await again.report(3, inventory=observation_pb2.Inventory(hostname="h3"))
    assert (await again.hear("report_ack")).report_ack.sequence == 3
    assert reports_written(served) == written + 1


async def test_what_was_committed_after_the_greeting_was_read_is_not_written_twice(
    served: Served,
) -> None:
    """An old link's commit may land between the next link's greeting and its first report."""
    agent, welcome = await linked(served)
    assert welcome.welcome.reports_acknowledged == 0

    def late_commit(proposal: Any) -> None:
        body = observation_pb2.Inventory(hostname="from the old link")
        proposal.write(ROOT, "nodes/n1", "inventory", body, principal="node:n1", report=("s1", 1))

    await served.submit(late_commit)
    written = reports_written(served)
    await agent.report(1, inventory=observation_pb2.Inventory(hostname="from the old link"))
    assert (await agent.hear("report_ack")).report_ack.sequence == 1
    assert reports_written(served) == written


async def test_the_count_of_reports_survives_a_restart(directory: Directory) -> None:
    async with directory.served() as first:
        await first.create_node("n1")
        agent, _ = await linked(first)
        for number in (1, 2, 3):
            await agent.report_version(number, f"v{number}")
        while (await agent.hear("report_ack")).report_ack.sequence < 3:
            pass
    async with directory.served() as second:
        _, welcome = await linked(second)
        assert welcome.welcome.reports_acknowledged == 3


async def test_a_new_source_counts_from_one(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.report_version(1, "old")
    await agent.hear("report_ack")
    agent.vanish()
    await until(lambda: len(served.service.links) == 0)
    renewed, welcome = await linked(served, source="s2")
    assert welcome.welcome.reports_acknowledged == 0
    await renewed.report_version(1, "new")
    await renewed.hear("report_ack")
    assert version_of(served) == "new"


async def test_a_gap_in_the_numbers_ends_the_link_with_what_was_expected(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.report_version(1, "1.0")
    await agent.report_version(3, "3.0")
    end = await agent.hear("goodbye")
    assert end.goodbye.reason == PROTOCOL_ERROR
    assert "report 3 came where 2 was expected" in end.goodbye.message
    assert version_of(served) in ("", "1.0")


async def test_bad_reports_end_the_link_and_change_nothing(served: Served) -> None:
    huge = node_pb2.ActualState(config_name="x" * (MAX_REPORT_BYTES + 1))
    many = observation_pb2.LargeValueRef(
        size_bytes=1,
        chunks=[
            observation_pb2.LargeValueChunk(digest=digest_of(str(i).encode()), size_bytes=1)
            for i in range(MAX_CHUNKS_WANTED + 1)
        ],
    )
    no_digest = observation_pb2.LargeValueRef(
        size_bytes=1, chunks=[observation_pb2.LargeValueChunk(digest="sha256:../x")]
    )
    for cause, body in (
        ("says nothing", {}),
        ("at most", {"actual_state": huge}),
        ("names", {"inventory": observation_pb2.Inventory(large_values=[many])}),
        ("as a digest", {"inventory": observation_pb2.Inventory(large_values=[no_digest])}),
    ):
        agent, _ = await linked(served)
        await agent.report(1, **body)
        end = await agent.hear("goodbye")
        assert end.goodbye.reason == PROTOCOL_ERROR
        assert cause in end.goodbye.message
        await until(lambda: len(served.service.links) == 0)
    assert highest_report(served.replica.state, ROOT, "n1", "s1") == 0


async def test_an_inventory_waits_for_its_chunks_and_everything_behind_it_waits_too(
    served: Served,
) -> None:
    agent, _ = await linked(served)
    await agent.report(1, inventory=inventory(*CHUNKS))
    await agent.report_version(2, "2.0")
    want = await agent.hear("want_values")
    assert list(want.want_values.digests) == [digest_of(c) for c in CHUNKS]
    await agent.say(chunk=nodelink_pb2.ValueChunk(digest=digest_of(CHUNKS[0]), data=CHUNKS[0]))
    await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    assert (await agent.hear()).WhichOneof("kind") == "heartbeat_ack"
    assert served.body(ROOT, "nodes/n1", "inventory") is None
    assert version_of(served) == ""
    await agent.say(chunk=nodelink_pb2.ValueChunk(digest=digest_of(CHUNKS[1]), data=CHUNKS[1]))
    assert (await agent.hear("report_ack")).report_ack.sequence == 2
    assert version_of(served) == "2.0"
    values = served.service.desk.values
    assert await asyncio.gather(*(values.get(digest_of(c)) for c in CHUNKS)) == list(CHUNKS)


async def test_chunks_that_are_here_are_not_wanted_again(served: Served) -> None:
    for chunk in CHUNKS:
        await served.service.desk.values.put(digest_of(chunk), chunk)
    agent, _ = await linked(served)
    await agent.report(1, inventory=inventory(*CHUNKS))
    frame = await agent.hear()
    assert frame.report_ack.sequence == 1


async def test_a_chunk_that_is_not_what_it_says_ends_the_link(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.report(1, inventory=inventory(*CHUNKS))
    await agent.hear("want_values")
    await agent.say(chunk=nodelink_pb2.ValueChunk(digest=digest_of(CHUNKS[0]), data=b"forged"))
    end = await agent.hear("goodbye")
    assert end.goodbye.reason == PROTOCOL_ERROR
    assert "another digest" in end.goodbye.message


async def test_a_chunk_nobody_asked_for_is_dropped(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.say(chunk=nodelink_pb2.ValueChunk(digest=digest_of(b"junk"), data=b"junk"))
    await agent.say(heartbeat=nodelink_pb2.AgentHeartbeat(ping_ms=1))
    await agent.hear("heartbeat_ack")
    assert await served.service.desk.values.missing([digest_of(b"junk")]) == [digest_of(b"junk")]


async def test_more_reports_in_flight_than_allowed_end_the_link(served: Served) -> None:
    agent, _ = await linked(served)
    await agent.report(1, inventory=inventory(*CHUNKS))
    for number in range(2, MAX_REPORTS_IN_FLIGHT + 2):
        await agent.report_version(number, "x")
    end = await agent.hear("goodbye")
    assert "in flight" in end.goodbye.message


def test_a_value_without_chunks_is_one_chunk_and_an_empty_one_is_none() -> None:
    whole = observation_pb2.LargeValueRef(digest=digest_of(b"x"), size_bytes=1)
    empty = observation_pb2.LargeValueRef(digest=digest_of(b""))
    named = chunks_of(observation_pb2.Inventory(large_values=[whole, empty, whole]))
    assert named == [digest_of(b"x")]
