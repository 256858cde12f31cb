from __future__ import annotations

import hashlib

import grpc
from google.protobuf import timestamp_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from souverix.fleet.v1 import connectivity_pb2, lifecycle_pb2, node_pb2, observation_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.unit.controller.services.served import Served, refusal


async def create_nodes(root: Served, *creations: fleet.NodeCreation) -> None:
    reply = await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=creations))
    assert all(result.status.code == 0 for result in reply.results)


async def report(root: Served, node: str, aspect: str, body: object) -> None:
    """What the node link writes of a node."""
    await root.replica.journal().submit(
        lambda p: p.write("global", f"nodes/{node}", aspect, body, principal=f"node:{node}")
    )


async def ids(root: Served, **query: object) -> list[str]:
    reply = await root.fleet.ListNodes(fleet.ListNodesRequest(**query))  # type: ignore[arg-type]
    return [node.id for node in reply.nodes]


async def test_pages_are_ordered_by_id_and_end(root: Served) -> None:
    await create_nodes(root, *(fleet.NodeCreation(node_id=f"n{i:02}") for i in reversed(range(25))))
    request = fleet.ListNodesRequest(page_size=10)
    pages = []
    while True:
        reply = await root.fleet.ListNodes(request)
        pages.append([node.id for node in reply.nodes])
        request.page_token = reply.next_page_token
        if not reply.next_page_token:
            break

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [node_id for page in pages for node_id in page] == [f"n{i:02}" for i in range(25)]
    assert reply.HasField("as_of_time")


async def test_token_of_another_query_is_refused(root: Served) -> None:
    await create_nodes(root, *(fleet.NodeCreation(node_id=f"n{i}") for i in range(3)))
    reply = await root.fleet.ListNodes(fleet.ListNodesRequest(page_size=1))

    for request in (
        fleet.ListNodesRequest(tags=["x"], page_token=reply.next_page_token),
        fleet.ListNodesRequest(page_token="made-up"),
    ):
        code, info, _ = await refusal(root.fleet.ListNodes(request))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


async def test_filters_hold_together(root: Served) -> None:
    await create_nodes(
        root,
        fleet.NodeCreation(node_id="a", spec=node_pb2.NodeSpec(tags=["x", "y"])),
        fleet.NodeCreation(node_id="b", spec=node_pb2.NodeSpec(tags=["x"])),
        fleet.NodeCreation(node_id="c", desired_state=node_pb2.DesiredState(policy_bundle="p1")),
    )
    live = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
    await report(root, "b", "link_state", live)

    assert await ids(root, tags=["x"]) == ["a", "b"]
    assert await ids(root, tags=["x", "y"]) == ["a"]
    assert await ids(root, modes=[connectivity_pb2.CONNECTIVITY_MODE_LIVE]) == ["b"]
    assert await ids(root, modes=[0]) == ["a", "c"]
    assert await ids(root, policy_bundle="p1") == ["c"]
    assert await ids(root, phases=[lifecycle_pb2.LIFECYCLE_PHASE_ACTIVE]) == []


async def test_subtree_is_looked_at_when_asked_for(root: Served) -> None:
    creation = fleet.CreateDomainRequest(domain_id="region-a")
    creation.spec.parent = "global"
    await root.fleet.CreateDomain(creation)
    await create_nodes(
        root,
        fleet.NodeCreation(node_id="below", domain="region-a"),
        fleet.NodeCreation(node_id="top"),
    )

    assert await ids(root) == ["top"]
    assert await ids(root, include_subtree=True) == ["below", "top"]
    assert await ids(root, domain="region-a") == ["below"]


async def test_negative_page_size_and_unknown_domain_are_refused(root: Served) -> None:
    code, info, _ = await refusal(root.fleet.ListNodes(fleet.ListNodesRequest(page_size=-1)))
    assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size")
    code, _, _ = await refusal(root.fleet.ListNodes(fleet.ListNodesRequest(domain="nowhere")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_times_out_of_range_are_refused_naming_the_field(root: Served) -> None:
    beyond = timestamp_pb2.Timestamp(seconds=2**62)
    await create_nodes(root, fleet.NodeCreation(domain="global", node_id="n1"))
    for call in (
        root.fleet.ListNodes(fleet.ListNodesRequest(update_time_start=beyond)),
        root.fleet.ListObservations(fleet.ListObservationsRequest(node="n1", end_time=beyond)),
    ):
        code, info, _ = await refusal(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["field"] in ("update_time_start", "end_time")


async def test_reports_are_in_the_twin_and_listed_newest_first(root: Served) -> None:
    await create_nodes(root, fleet.NodeCreation(node_id="n1"))
    await report(root, "n1", "inventory", observation_pb2.Inventory(hostname="h1"))
    await report(root, "n1", "actual_state", node_pb2.ActualState(reported_version="v1"))

    node = (await root.fleet.GetNode(fleet.GetNodeRequest(name="nodes/n1"))).node
    reply = await root.fleet.ListObservations(fleet.ListObservationsRequest(node="n1"))

    assert node.inventory.hostname == "h1"
    assert node.actual_state.reported_version == "v1"
    assert [o.type for o in reply.observations] == ["actual_state", "inventory"]
    assert reply.observations[0].document["reported_version"] == "v1"
    assert reply.observations[1].inventory.hostname == "h1"
    assert node.observations.last_snapshot_ref == reply.observations[1].id
    only = await root.fleet.ListObservations(
        fleet.ListObservationsRequest(node="n1", types=["inventory"])
    )
    assert len(only.observations) == 1


async def test_large_value_is_read_chunk_by_chunk_and_from_an_offset(root: Served) -> None:
    chunks = [b"a" * 1000, b"b" * 500]
    digests = ["sha256:" + hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    whole = "sha256:" + hashlib.sha256(b"".join(chunks)).hexdigest()
    for digest, chunk in zip(digests, chunks, strict=True):
        await root.values.put(digest, chunk)
    await create_nodes(root, fleet.NodeCreation(node_id="n1"))
    inventory = observation_pb2.Inventory()
    reference = inventory.large_values.add(name="packages", digest=whole, size_bytes=1500)
    for digest, chunk in zip(digests, chunks, strict=True):
        reference.chunks.add(digest=digest, size_bytes=len(chunk))
    await report(root, "n1", "inventory", inventory)

    async def download(offset: int) -> list[tuple[int, bytes, int]]:
        request = fleet.DownloadLargeValueRequest(digest=whole, offset=offset)
        stream = root.fleet.DownloadLargeValue(request)
        return [(piece.offset, piece.data, piece.size_bytes) async for piece in stream]

    assert await download(0) == [(0, chunks[0], 1500), (1000, chunks[1], 1500)]
    assert b"".join(data for _, data, _ in await download(1200)) == b"b" * 300
    single = root.fleet.DownloadLargeValue(fleet.DownloadLargeValueRequest(digest=digests[1]))
    assert [piece.data async for piece in single] == [chunks[1]]


async def test_large_value_that_is_not_here_is_not_found(root: Served) -> None:
    for digest, wanted in (
        ("sha256:" + "0" * 64, grpc.StatusCode.NOT_FOUND),
        ("sha256:zz", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        stream = root.fleet.DownloadLargeValue(fleet.DownloadLargeValueRequest(digest=digest))
        code, _, _ = await refusal(stream.read())
        assert code is wanted


async def test_read_mask_of_a_list_applies_to_each_node(root: Served) -> None:
    await create_nodes(root, fleet.NodeCreation(node_id="a"), fleet.NodeCreation(node_id="b"))

    reply = await root.fleet.ListNodes(fleet.ListNodesRequest(read_mask=FieldMask(paths=["id"])))

    assert list(reply.nodes) == [node_pb2.Node(id="a"), node_pb2.Node(id="b")]
