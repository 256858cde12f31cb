from __future__ import annotations

import asyncio
from typing import Any

import grpc

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import node_pb2
from tests.unit.controller.services.served import Served, refusal

DEADLINE_S = 20.0


async def next_of(stream: Any) -> Any:
    return await asyncio.wait_for(stream.read(), DEADLINE_S)


async def until_bookmark(stream: Any) -> tuple[list[Any], fleet.WatchBookmark]:
    steps: list[Any] = []
    while True:
        step = await next_of(stream)
        if step.WhichOneof("event") == "bookmark":
            return steps, step.bookmark
        steps.append(step)


async def create(root: Served, node_id: str, domain: str = "", tags: tuple[str, ...] = ()) -> None:
    await root.fleet.CreateNode(
        fleet.CreateNodeRequest(node_id=node_id, domain=domain, spec=node_pb2.NodeSpec(tags=tags))
    )


async def set_tags(root: Served, node_id: str, *tags: str) -> None:
    await root.fleet.UpdateNode(
        fleet.UpdateNodeRequest(
            name=f"nodes/{node_id}", spec=node_pb2.NodeSpec(tags=tags), update_mask={"paths": ["*"]}
        )
    )


async def create_domain(root: Served, domain: str) -> None:
    request = fleet.CreateDomainRequest(domain_id=domain)
    request.spec.parent = "global"
    await root.fleet.CreateDomain(request)


async def test_watch_sends_the_state_then_a_bookmark_then_changes(root: Served) -> None:
    await create(root, "b")
    await create(root, "a")
    stream = root.fleet.WatchNodes(fleet.WatchNodesRequest())

    existing, bookmark = await until_bookmark(stream)
    await create(root, "c")
    changed = await next_of(stream)
    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/a"))
    removed = await next_of(stream)
    stream.cancel()

    assert [step.existing.id for step in existing] == ["a", "b"]
    assert bookmark.initial_state_complete
    assert bookmark.HasField("as_of_time")
    assert changed.changed.id == "c"
    assert removed.removed == fleet.NodeRemoval(name="nodes/a", cause=fleet.REMOVAL_CAUSE_DELETED)


async def test_node_that_moves_out_or_stops_matching_is_removed_with_the_cause(
    root: Served,
) -> None:
    await create_domain(root, "edge-a1")
    await create_domain(root, "edge-a2")
    await create(root, "n1", "edge-a1", ("x",))
    await create(root, "n2", "edge-a1", ("x",))
    stream = root.fleet.WatchNodes(fleet.WatchNodesRequest(domain="edge-a1", tags=["x"]))
    await until_bookmark(stream)

    await root.fleet.MoveNode(fleet.MoveNodeRequest(name="nodes/n1", domain="edge-a2"))
    moved = await next_of(stream)
    await set_tags(root, "n2", "y")
    unmatched = await next_of(stream)
    await set_tags(root, "n2", "x")
    matched = await next_of(stream)
    stream.cancel()

    assert moved.removed.cause == fleet.REMOVAL_CAUSE_MOVED
    assert moved.removed.moved_to_domain == "edge-a2"
    assert unmatched.removed.cause == fleet.REMOVAL_CAUSE_NO_LONGER_MATCHES
    assert matched.changed.id == "n2"


async def test_resumed_watch_sends_what_changed_meanwhile_and_no_more(root: Served) -> None:
    for node_id in ("a", "b", "c"):
        await create(root, node_id)
    stream = root.fleet.WatchNodes(fleet.WatchNodesRequest())
    _, bookmark = await until_bookmark(stream)
    stream.cancel()
    await set_tags(root, "b", "new")
    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/c"))

    again = root.fleet.WatchNodes(fleet.WatchNodesRequest(resume_token=bookmark.resume_token))
    steps, after = await until_bookmark(again)
    again.cancel()

    assert [step.changed.id or step.removed.name for step in steps] == ["b", "nodes/c"]
    assert not after.initial_state_complete


async def test_token_of_another_watch_or_log_ends_out_of_range(root: Served) -> None:
    stream = root.fleet.WatchNodes(fleet.WatchNodesRequest())
    _, bookmark = await until_bookmark(stream)
    stream.cancel()

    other = root.fleet.WatchNodes(
        fleet.WatchNodesRequest(tags=["x"], resume_token=bookmark.resume_token)
    )
    code, info, _ = await refusal(other.read())
    assert (code, info.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
    made_up = root.fleet.WatchNodes(fleet.WatchNodesRequest(resume_token="made-up"))
    code, _, _ = await refusal(made_up.read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_domains_are_watched_with_their_parents_children(root: Served) -> None:
    await create_domain(root, "region-a")
    stream = root.fleet.WatchDomains(fleet.WatchDomainsRequest(include_subtree=True))
    existing, bookmark = await until_bookmark(stream)
    await create_domain(root, "region-b")
    first, second = await next_of(stream), await next_of(stream)
    await root.fleet.DeleteDomain(fleet.DeleteDomainRequest(name="domains/region-b"))
    third, fourth = await next_of(stream), await next_of(stream)
    stream.cancel()

    assert [step.existing.id for step in existing] == ["global", "region-a"]
    assert bookmark.initial_state_complete
    shown = {first.changed.id: first.changed, second.changed.id: second.changed}
    assert set(shown) == {"global", "region-b"}
    assert list(shown["global"].children) == ["region-a", "region-b"]
    steps = {step.WhichOneof("event"): step for step in (third, fourth)}
    assert steps["removed"].removed.name == "domains/region-b"
    assert list(steps["changed"].changed.children) == ["region-a"]
