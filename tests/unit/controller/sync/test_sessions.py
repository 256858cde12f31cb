"""Sessions of parent and child over real sockets: beginnings, resumption, refusals, ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from deploy.tcp_proxy import TcpProxy
from federation.chain import extend
from federation.identifiers import Lane, Origin, StreamId
from souverix.event.v1 import event_pb2
from souverix.sync.v1 import sync_pb2
from tests.unit.controller.sync.tree import PlayedChild, Tree, until


async def test_a_child_learns_its_place_at_first_contact(pair: Tree) -> None:
    record = pair["zone"].replica.state.authority.records["zone"]
    assert record.master_of_record == "zone-control"
    assert pair["zone"].replica.state.authority.path_of("zone") == ("global", "zone")


async def test_events_flow_both_ways(pair: Tree) -> None:
    await pair["global"].write("global", "from-above")
    await pair["zone"].write("zone", "from-below")
    await until(lambda: pair["zone"].knows("global", "from-above"), "the parent's policy below")
    await until(lambda: pair["global"].knows("zone", "from-below"), "the child's policy above")


async def test_sessions_resume_by_position_after_cuts(tree: Tree) -> None:
    tree.add("global")
    async with TcpProxy("127.0.0.1", int(tree["global"].address.rpartition(":")[2])) as link:
        tree.add("zone", "global", dial=link.endpoint)
        await tree.start()
        zone, top = tree["zone"], tree["global"]
        for number in range(3):
            link.cut()
            await until(lambda: not zone.session_up(), "the child sees the cut")
            await zone.write("zone", f"cut-off-{number}")
            link.heal()
            await until(lambda n=number: top.knows("zone", f"cut-off-{n}"), "the write above")  # type: ignore[misc]
        held = {s: h.received for s, h in zone.replica.state.streams.items() if s.domain == "zone"}
        await until(
            lambda: all(top.replica.state.received(s) == n for s, n in held.items()),
            "equal streams",
        )
        # Nothing was taken twice: every event of the child stands in one commit of the parent.
        mine = [s for s in held if s.origin.controller == "zone-control"]
        offset, seen = 0, dict.fromkeys(mine, 0)
        while commits := await top.replica.read_commits(offset, 1 << 20):
            for commit in commits:
                for run in commit.runs:
                    for stream in mine:
                        if (
                            run.stream.controller == "zone-control"
                            and run.stream.lane == int(stream.lane)
                            and run.stream.domain == stream.domain
                        ):
                            assert run.first_sequence == seen[stream] + 1
                            seen[stream] = run.seal.sequence
            offset += len(commits)
        assert seen == {stream: held[stream] for stream in mine}
        await tree.stop()


async def test_a_controller_that_is_no_child_is_told_that_it_is_unknown(childless: Tree) -> None:
    stranger = PlayedChild(childless["global"], "stranger", "zone")
    await stranger.greet()
    goodbye = await stranger.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_UNKNOWN_PEER
    assert "stranger" in goodbye.message
    assert await stranger.ended()


async def test_a_child_of_another_version_is_told_which_are_spoken(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.greet(versions=[99])
    assert (await child.receive("goodbye")).reason == sync_pb2.GOODBYE_REASON_VERSION
    assert await child.ended()


async def test_a_standby_says_that_it_is_not_the_master(childless: Tree) -> None:
    top = childless["global"]
    journal, top.replica._journal = top.replica._journal, None
    try:
        child = PlayedChild(top, "zone-control", "zone")
        assert (await child.receive("goodbye")).reason == sync_pb2.GOODBYE_REASON_NOT_MASTER
        assert await child.ended()
    finally:
        top.replica._journal = journal


async def test_a_lost_mastership_ends_sessions_and_the_child_comes_back(childless: Tree) -> None:
    top, zone = childless["global"], childless["zone"]
    child = PlayedChild(top, "zone-control", "zone")
    await child.begin()
    lease = top.replica._lease
    assert lease is not None
    await lease.release()
    goodbye = await child.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_NOT_MASTER
    await zone.start()
    await until(zone.session_up, "a session with the next mastership")
    await zone.write("zone", "afterwards")
    await until(lambda: top.knows("zone", "afterwards"), "a write after the change of master")


async def test_a_newer_session_of_a_child_ends_the_earlier_one(childless: Tree) -> None:
    top = childless["global"]
    first = PlayedChild(top, "zone-control", "zone")
    await first.begin()
    second = PlayedChild(top, "zone-control", "zone")
    await second.begin()
    goodbye = await first.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_REPLACED
    assert await first.ended()
    second.call.cancel()


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({"ack": sync_pb2.Ack()}, "out of place"),
        ({}, "none is out of place"),
    ],
)
async def test_a_frame_out_of_place_ends_the_session_with_the_reason(
    childless: Tree, frame: dict[str, object], why: str
) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.send(**frame)
    goodbye = await child.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert why in goodbye.message
    assert await child.ended()


async def test_bytes_that_are_no_frame_end_the_session_only(pair: Tree) -> None:
    top = pair["global"]
    call: Any = top.channel.stream_stream("/souverix.sync.v1.SyncService/Connect")()
    await call.write(b"\xff\xff\xff no message")
    response = sync_pb2.ConnectResponse.FromString(await call.read())
    assert response.frame.goodbye.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert await call.read() is grpc.aio.EOF
    assert pair["zone"].session_up()
    await pair["zone"].write("zone", "unharmed")
    await until(lambda: top.knows("zone", "unharmed"), "the other session goes on")


async def test_an_empty_frame_of_runs_ends_the_session(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    await child.send(runs=sync_pb2.Runs())
    goodbye = await child.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_PROTOCOL_ERROR
    assert "holds none" in goodbye.message


async def test_a_quarantined_run_holds_up_its_own_stream_only(childless: Tree) -> None:
    top = childless["global"]
    child = PlayedChild(top, "zone-control", "zone")
    await child.begin()
    held = top.links.children["zone-control"]
    interns = []
    for index, name in enumerate(("forger", "honest")):
        intern = sync_pb2.StreamIntern(index=index)
        intern.stream.domain, intern.stream.controller = "zone", name
        intern.stream.incarnation, intern.stream.lane = 1, event_pb2.LANE_STATE
        interns.append(intern)
    good = StreamId("zone", Origin("honest", 1), Lane.STATE)

    def run(index: int, sequence: int, chain_hash: bytes) -> sync_pb2.InternedRun:
        seal = event_pb2.Seal(sequence=sequence, chain_hash=chain_hash, key_id="none")
        return sync_pb2.InternedRun(
            stream_index=index, first_sequence=sequence, events=[b""], seal=seal
        )

    await child.send(runs=sync_pb2.Runs(interns=interns, runs=[run(0, 1, b"forged")]))
    await child.send(runs=sync_pb2.Runs(runs=[run(0, 2, b"what follows")]))
    hash_ = extend(top.replica.state.chain_hash(good), [b""])
    await child.send(runs=sync_pb2.Runs(runs=[run(1, 1, hash_)]))
    await until(lambda: top.replica.state.received(good) == 1, "the other stream's event")
    assert top.links.children["zone-control"] is held
    assert held.closed is None
    child.call.cancel()


async def test_a_gap_ends_the_session_so_that_positions_are_compared_anew(childless: Tree) -> None:
    child = PlayedChild(childless["global"], "zone-control", "zone")
    await child.begin()
    intern = sync_pb2.StreamIntern()
    intern.stream.domain, intern.stream.controller = "zone", "hasty"
    intern.stream.incarnation, intern.stream.lane = 1, event_pb2.LANE_STATE
    seal = event_pb2.Seal(sequence=5, chain_hash=b"x", key_id="none")
    run = sync_pb2.InternedRun(first_sequence=5, events=[b""], seal=seal)
    await child.send(runs=sync_pb2.Runs(interns=[intern], runs=[run]))
    assert "missing" in (await child.receive("goodbye")).message
    assert await child.ended()


async def test_runs_of_an_earlier_connection_that_come_late_do_no_harm(tree: Tree) -> None:
    tree.add("global")
    port = int(tree["global"].address.rpartition(":")[2])
    async with TcpProxy("127.0.0.1", port) as slow, TcpProxy("127.0.0.1", port) as quick:
        zone_plan = tree.add("zone", "global", dial=slow.endpoint)
        await tree.start()
        top, zone = tree["global"], tree["zone"]
        await until(zone.session_up, "the first session")
        slow.stall()
        for number in range(20):
            await zone.write("zone", f"held-{number}")
        # The child gives the stalled connection up and comes by another way.
        await zone.stop()
        parent = zone_plan.config.parent
        assert parent is not None
        object.__setattr__(parent, "addresses", (quick.endpoint,))
        await zone.start()
        await until(lambda: top.knows("zone", "held-19"), "all writes by the new connection")
        before = {s: h.chain_hash for s, h in top.replica.state.streams.items()}
        slow.heal()
        await zone.write("zone", "after")
        await until(lambda: top.knows("zone", "after"), "a write after the late ones")
        await until(lambda: slow.connections == 0, "the end of the old connection")
        assert top.replica.state.streams.keys() >= before.keys()
        assert not top.replica.state.evidence
        await tree.stop()
