"""What the dialled side holds back and gives back: places of replays, calls, tasks."""

from __future__ import annotations

import asyncio

from controller.config import SyncSection
from controller.sync.service import MAX_REPLAYS, REPLAY_EVENTS, RETRY_AFTER_MS, ReplayAdmission
from souverix.sync.v1 import sync_pb2
from tests.unit.controller.sync.tree import DEADLINE_S, PlayedChild, Tree, until

MANY = REPLAY_EVENTS + 1


def test_a_bounded_number_of_children_replays_and_the_others_come_back_at_spread_times() -> None:
    replaying: dict[str, ReplayAdmission] = {}
    for number in range(MAX_REPLAYS):
        assert ReplayAdmission(replaying).try_admit(f"c{number}", MANY) is None
    waits = {ReplayAdmission(replaying).try_admit("late", MANY) for _ in range(50)}
    assert len(waits) > 10
    assert all(w is not None and RETRY_AFTER_MS[0] <= w <= RETRY_AFTER_MS[1] for w in waits)
    assert ReplayAdmission(replaying).try_admit("late", REPLAY_EVENTS - 1) is None


def test_a_place_taken_over_by_a_newer_session_is_not_freed_by_the_earlier_one() -> None:
    replaying: dict[str, ReplayAdmission] = {}
    earlier, newer = ReplayAdmission(replaying), ReplayAdmission(replaying)
    for admission in (earlier, newer):
        assert admission.try_admit("c1", MANY) is None
    earlier.replayed("c1")
    assert list(replaying) == ["c1"]
    newer.replayed("c1")
    assert not replaying


async def test_a_place_is_free_again_when_the_child_is_level_and_when_it_is_gone(
    tree: Tree,
) -> None:
    top = tree.add("global")
    for number in range(MAX_REPLAYS + 2):
        tree.add(f"z{number}", "global")
    await top.start()

    def child(number: int) -> PlayedChild:
        return PlayedChild(top, f"z{number}-control", f"z{number}")

    children = [child(number) for number in range(MAX_REPLAYS)]
    for played in children:
        await played.begin(backlog_events=MANY)
    refused = child(MAX_REPLAYS)
    await refused.greet(backlog_events=MANY)
    goodbye = await refused.receive("goodbye")
    assert goodbye.reason == sync_pb2.GOODBYE_REASON_BUSY
    assert RETRY_AFTER_MS[0] <= goodbye.retry_after_ms <= RETRY_AFTER_MS[1]

    await children[0].send(heartbeat=sync_pb2.Heartbeat(level=True))
    await children[0].send(want_chunks=sync_pb2.WantChunks(digests=[f"sha256:{'0' * 64}"]))
    await children[0].receive("chunk")
    again = child(MAX_REPLAYS)
    await again.begin(backlog_events=MANY)

    children[1].call.cancel()
    await until(lambda: "z1-control" not in top.links.children, "the end of the second session")
    other = child(MAX_REPLAYS + 1)
    await other.begin(backlog_events=MANY)
    for played in (*children, again, other):
        played.call.cancel()


async def test_a_child_that_reads_no_more_is_let_go(childless: Tree) -> None:
    top, zone = childless["global"], childless["zone"]
    child = PlayedChild(top, "zone-control", "zone")
    await child.begin()
    held = top.links.children["zone-control"]
    chunk = sync_pb2.Frame(chunk=sync_pb2.Chunk(digest="d", data=b"x" * 250_000))
    while held.closed is None:
        held.send(chunk)
    assert "too slowly" in held.closed.message
    await until(lambda: not top.links.children, "the session's end")
    await until(lambda: not held._tasks, "the end of its tasks")
    await zone.start()
    await until(zone.session_up, "the child's next session")
    await zone.write("zone", "goes-on")
    await until(lambda: top.knows("zone", "goes-on"), "a write by the child's next session")
    child.call.cancel()


async def test_a_goodbye_arrives_and_the_call_ends(childless: Tree) -> None:
    top = childless["global"]
    child = PlayedChild(top, "zone-control", "zone")
    await child.begin()
    top.links.children["zone-control"].close(sync_pb2.GOODBYE_REASON_SHUTDOWN, "enough")
    assert (await child.receive("goodbye")).message == "enough"
    assert await child.ended()


async def test_a_childs_goodbye_arrives_though_it_ends_the_call(tree: Tree) -> None:
    tree.add("global")
    tree.add("zone", "global", sync=SyncSection(mode="manual"))
    await tree.start()
    top, zone = tree["global"], tree["zone"]
    for number in range(10):
        await zone.write("zone", f"p-{number}")
        async for _ in zone.links.sync_now(DEADLINE_S):
            pass
        await until(lambda: not top.links.children, "the end of the session")
        assert top.knows("zone", f"p-{number}")
        assert "level" in top.links.peers()[0].last_error


def lasting_tasks() -> int:
    """Tasks, without the waits within them: those of the controller's own duties come and go."""
    waits = ("Queue.get", "Event.wait")
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return sum(getattr(each, "__qualname__", "") not in waits for each in coroutines)


async def test_two_hundred_sessions_opened_and_cut_leave_nothing_behind(childless: Tree) -> None:
    top, zone = childless["global"], childless["zone"]

    async def cut(number: int) -> None:
        child = PlayedChild(top, "zone-control", "zone")
        if number % 3:
            await child.compare()
        elif number % 2:
            await child.greet()
        child.call.cancel()

    tasks, listeners = lasting_tasks(), len(top.replica.changes._listeners)
    for batch in range(20):
        await asyncio.gather(*(cut(batch * 10 + n) for n in range(10)))
    await until(lambda: not top.links.children, "the end of all sessions")
    await until(lambda: len(top.replica.changes._listeners) <= listeners, "no listener left")
    await until(lambda: lasting_tasks() <= tasks, "no task left")
    assert top.links._required_forwards().under_way == 0
    await zone.start()
    await until(zone.session_up, "a session as before")
