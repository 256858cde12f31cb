from __future__ import annotations

import asyncio

import grpc

from souverix.fleet.v1 import connectivity_pb2, drift_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.unit.controller.services.served import DEADLINE_S, Served, refusal


async def register(root: Served, *ids: str, tags: list[str] | None = None) -> None:
    items = [
        fleet.NodeCreation(
            node_id=node_id,
            spec=node_pb2.NodeSpec(tags=tags or []),
            desired_state=node_pb2.DesiredState(target_version="1.4.10"),
        )
        for node_id in ids
    ]
    reply = await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=items))
    assert all(result.status.code == 0 for result in reply.results)


async def report(root: Served, node: str, version: str) -> None:
    body = node_pb2.ActualState(reported_version=version)
    await root.replica.journal().submit(
        lambda p: p.write("global", f"nodes/{node}", "actual_state", body, principal=f"node:{node}")
    )


async def listed(root: Served, **query: object) -> fleet.ListNodesResponse:
    reply: fleet.ListNodesResponse = await root.fleet.ListNodes(
        fleet.ListNodesRequest(**query)  # type: ignore[arg-type]
    )
    return reply


def ids(reply: fleet.ListNodesResponse) -> list[str]:
    return [node.id for node in reply.nodes]


async def test_filter_holds_beside_the_other_fields_and_matches_are_counted(root: Served) -> None:
    await register(root, "a", "b", "c", tags=["lab"])
    await register(root, "d")
    for node, version in (("a", "1.4.9"), ("b", "1.4.10"), ("d", "1.4.9")):
        await report(root, node, version)

    behind = await listed(root, filter="version:* AND version < 1.4.10")
    assert (ids(behind), behind.total_size) == (["a", "d"], 2)
    assert ids(await listed(root, filter="version < 1.4.10", tags=["lab"])) == ["a"]
    first = await listed(root, filter="tags:lab", page_size=1)
    assert (ids(first), first.total_size) == (["a"], 3)
    assert first.read_model.pending_node_count == 0
    assert first.read_model.next_offset == root.replica.state.next_offset


async def test_order_goes_on_over_pages_and_tokens_belong_to_it(root: Served) -> None:
    await register(root, "a", "b", "c", "d")
    for node, version in (("a", "1.4.10"), ("b", "2.0.0"), ("c", "1.4.9")):
        await report(root, node, version)
    request = fleet.ListNodesRequest(order_by="version desc", page_size=2)

    first = await root.fleet.ListNodes(request)
    request.page_token = first.next_page_token
    second = await root.fleet.ListNodes(request)

    assert [*ids(first), *ids(second)] == ["b", "a", "c", "d"]
    assert not second.next_page_token
    request.order_by = "version"
    code, info, _ = await refusal(root.fleet.ListNodes(request))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


async def test_lists_show_drift_without_details_as_single_reads_do(root: Served) -> None:
    await register(root, "a", "b")
    await report(root, "a", "1.3.0")

    for node in (await listed(root)).nodes:
        alone = (await root.fleet.GetNode(fleet.GetNodeRequest(name=node.name))).node.drift
        for field in ("version_drifts", "config_drift", "policy_drift"):
            alone.ClearField(field)
        for drift in (node.drift, alone):
            drift.ClearField("last_evaluated_time")
            drift.ClearField("stale_by")
        assert node.drift == alone


async def test_refused_filters_and_orders_name_the_field(root: Served) -> None:
    for query in ({"filter": "colour = red"}, {"order_by": "colour"}):
        request = fleet.ListNodesRequest(**query)  # type: ignore[arg-type]
        code, info, text = await refusal(root.fleet.ListNodes(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["field"] in query
        assert "colour" in text
    watch = root.fleet.WatchNodes(fleet.WatchNodesRequest(filter="("))
    code, _, _ = await refusal(watch.read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_watch_with_a_filter_shows_what_comes_to_match_and_what_ceases_to(
    root: Served,
) -> None:
    await register(root, "a", "b")
    await report(root, "a", "1.3.0")
    watch = root.fleet.WatchNodes(fleet.WatchNodesRequest(filter="version < 1.4"))
    async with asyncio.timeout(DEADLINE_S):
        first = await watch.read()
        bookmark = await watch.read()
        await report(root, "b", "1.3.5")
        came = await watch.read()
        await report(root, "a", "1.4.10")
        went = await watch.read()

    assert first.existing.id == "a"
    assert bookmark.bookmark.initial_state_complete
    assert came.changed.id == "b"
    assert came.changed.drift.state == drift_pb2.DRIFT_STATE_DRIFTING
    assert went.removed.name == "nodes/a"
    assert went.removed.cause == fleet.REMOVAL_CAUSE_NO_LONGER_MATCHES
    watch.cancel()


async def test_deleted_nodes_are_gone_and_modes_are_found(root: Served) -> None:
    await register(root, "a", "b")
    link = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS)
    for node in ("a", "b"):
        await root.replica.journal().submit(
            lambda p, node=node: p.write(  # type: ignore[misc]
                "global", f"nodes/{node}", "link_state", link, principal="controller:x"
            )
        )
    assert ids(await listed(root, filter="mode = AUTONOMOUS")) == ["a", "b"]

    await root.fleet.DeleteNode(fleet.DeleteNodeRequest(name="nodes/a"))

    assert ids(await listed(root, filter="mode = AUTONOMOUS")) == ["b"]
    assert (await listed(root)).total_size == 1
