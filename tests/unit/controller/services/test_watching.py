from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
import pytest

from controller.changes import MAX_LAG_COMMITS, Changes, SlowWatcher
from controller.errors import ServiceError
from controller.services.watching import Step, StepKind, Watch, settled_offset
from federation.identifiers import Key
from federation.state import Applied
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2
from tests.federation_fixture import MemoryController, controller_below, root_controller

REQUEST = fleet.WatchNodesRequest()
LOG = b"this log"


class Specs:
    """Shows node specs of the root's domain by subject; the region "hidden" is not to be seen."""

    def __init__(self, controller: MemoryController) -> None:
        self._state = controller.state

    def items(self) -> Iterable[str]:
        return sorted(self._state.subjects_of("global", "nodes"))

    def touched(self, applied: Applied) -> Iterable[str]:
        return [key.subject for key in applied.keys if key.aspect == "node_spec"]

    def keys(self, item: str) -> Iterable[Key]:
        return [Key("global", item, "node_spec")]

    def show(self, item: str) -> str | None:
        winner = self._state.winner(Key("global", item, "node_spec"))
        region = winner.body().region if winner is not None else "hidden"
        return None if region == "hidden" else region


def put(controller: MemoryController, changes: Changes, node: str, region: str) -> None:
    spec = node_pb2.NodeSpec(region=region)
    controller.submit(
        lambda p: p.write("global", f"nodes/{node}", "node_spec", spec, principal="user:a")
    )
    assert controller.last_applied is not None
    changes.publish(controller.last_applied)


def watch(controller: MemoryController, changes: Changes, log: bytes = LOG) -> Watch[str]:
    return Watch(controller.state, changes, Specs(controller), REQUEST, log)


async def collect(watched: Watch[str], token: str = "", age_s: float = 0.0) -> list[Step[str]]:
    return [step async for step in watched.steps(token, age_s)]


async def test_stream_ends_by_age_with_a_token_that_shows_nothing_twice() -> None:
    root, changes = root_controller(), Changes()
    put(root, changes, "a", "north")

    steps = await collect(watch(root, changes))
    again = await collect(watch(root, changes), steps[-1].token)

    assert [step.kind for step in steps] == [
        StepKind.EXISTING,
        StepKind.BOOKMARK,
        StepKind.BOOKMARK,
    ]
    assert [step.kind for step in again] == [StepKind.BOOKMARK, StepKind.BOOKMARK]


async def test_commit_during_the_initial_state_is_not_missed() -> None:
    root, changes = root_controller(), Changes()
    put(root, changes, "a", "north")
    put(root, changes, "b", "north")
    steps = watch(root, changes).steps("", 60.0)

    first = await anext(steps)
    put(root, changes, "a", "south")
    rest = [await anext(steps) for _ in range(3)]
    await steps.aclose()

    assert first.resource == "north"
    assert [(s.kind, s.resource) for s in rest] == [
        (StepKind.EXISTING, "north"),
        (StepKind.BOOKMARK, None),
        (StepKind.CHANGED, "south"),
    ]


async def test_what_was_never_shown_is_not_removed() -> None:
    root, changes = root_controller(), Changes()
    steps = watch(root, changes).steps("", 60.0)
    await anext(steps)

    put(root, changes, "a", "hidden")
    put(root, changes, "b", "north")
    shown = await asyncio.wait_for(anext(steps), 10)
    put(root, changes, "b", "hidden")
    removed = await asyncio.wait_for(anext(steps), 10)
    await steps.aclose()

    assert (shown.item, shown.kind) == ("nodes/b", StepKind.CHANGED)
    assert (removed.item, removed.kind) == ("nodes/b", StepKind.REMOVED)


async def test_resumed_watch_says_once_that_something_is_not_to_be_seen() -> None:
    root, changes = root_controller(), Changes()
    put(root, changes, "a", "north")
    token = (await collect(watch(root, changes)))[-1].token
    put(root, changes, "a", "hidden")

    steps = await collect(watch(root, changes), token)

    assert [(s.kind, s.item) for s in steps[:-1]] == [
        (StepKind.REMOVED, "nodes/a"),
        (StepKind.BOOKMARK, ""),
    ]


async def test_token_of_another_log_is_out_of_range() -> None:
    root, changes = root_controller(), Changes()
    token = (await collect(watch(root, changes)))[-1].token

    with pytest.raises(ServiceError) as caught:
        await collect(watch(root, changes, b"another log"), token)

    assert caught.value.code is grpc.StatusCode.OUT_OF_RANGE


async def test_slow_watcher_gets_a_token_before_it_is_dropped() -> None:
    root, changes = root_controller(), Changes()
    steps = watch(root, changes).steps("", 60.0)
    await anext(steps)
    for number in range(MAX_LAG_COMMITS + 1):
        changes.publish(Applied(number))

    bookmark = await anext(steps)

    assert bookmark.kind is StepKind.BOOKMARK
    assert bookmark.token
    with pytest.raises(SlowWatcher):
        await anext(steps)


def test_settled_offset_stands_before_what_waits_for_a_key() -> None:
    root = root_controller()
    region = controller_below(root, "region-a-control", "region-a")
    zone = controller_below(region, "edge-a1-control", "edge-a1")
    zone.submit(
        lambda p: p.write(
            "edge-a1", "nodes/n1", "node_spec", node_pb2.NodeSpec(), principal="user:a"
        )
    )

    root.receive(zone.name, zone.commits[-1].runs[0])
    waits_at = root.commits[-1].offset
    root.declare("region-b", "global")

    assert settled_offset(root.state) == waits_at
    root.receive_from(region)
    assert settled_offset(root.state) == root.state.next_offset
