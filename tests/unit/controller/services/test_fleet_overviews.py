from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from souverix.fleet.v1 import connectivity_pb2, drift_pb2, lifecycle_pb2, node_pb2
from souverix.fleet.v1 import fleet_service_pb2 as fleet
from tests.unit.controller.services.served import DEADLINE_S, Served, refusal


async def region(root: Served) -> None:
    creation = fleet.CreateDomainRequest(domain_id="region-a")
    creation.spec.parent = "global"
    await root.fleet.CreateDomain(creation)


async def register(root: Served, domain: str, ids: Sequence[str]) -> None:
    desired = node_pb2.DesiredState(target_version="1.4.7")
    items = [fleet.NodeCreation(node_id=i, domain=domain, desired_state=desired) for i in ids]
    reply = await root.fleet.BatchCreateNodes(fleet.BatchCreateNodesRequest(items=items))
    assert all(result.status.code == 0 for result in reply.results)


async def report(root: Served, domain: str, node: str, aspect: str, body: Any) -> None:
    await root.replica.journal().submit(
        lambda p: p.write(domain, f"nodes/{node}", aspect, body, principal=f"node:{node}")
    )


def counts(messages: Any, field: str) -> dict[Any, int]:
    return {getattr(each, field): each.node_count for each in messages}


async def test_overviews_count_a_domain_and_those_below_it(root: Served) -> None:
    await region(root)
    await register(root, "global", ["g"])
    await register(root, "region-a", ["a", "b", "c"])
    for node, version in (("a", "1.4.7"), ("b", "1.3.0")):
        actual = node_pb2.ActualState(reported_version=version)
        actual.runtime.health = node_pb2.RUNTIME_HEALTH_OK
        await report(root, "region-a", node, "actual_state", actual)
    live = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
    await report(root, "region-a", "a", "link_state", live)

    reply = await root.fleet.ListDomainOverviews(fleet.ListDomainOverviewsRequest())

    top, below = reply.overviews
    assert (top.domain, top.parent, top.node_count, top.subtree_node_count) == ("global", "", 1, 4)
    assert (below.domain, below.parent) == ("region-a", "global")
    assert (below.node_count, below.subtree_node_count) == (3, 3)
    assert counts(below.modes, "mode") == {0: 2, connectivity_pb2.CONNECTIVITY_MODE_LIVE: 1}
    assert counts(below.healths, "health") == {0: 1, node_pb2.RUNTIME_HEALTH_OK: 2}
    assert counts(top.phases, "phase") == {lifecycle_pb2.LIFECYCLE_PHASE_PROVISIONING: 4}
    assert counts(below.versions.values, "value") == {"1.4.7": 1, "1.3.0": 1}
    assert counts(top.target_versions.values, "value") == {"1.4.7": 4}
    assert counts(below.drift_states, "state") == {
        drift_pb2.DRIFT_STATE_UNKNOWN: 1,
        drift_pb2.DRIFT_STATE_IN_SPEC: 1,
        drift_pb2.DRIFT_STATE_DRIFTING: 1,
    }
    assert below.drift.objects_out_of_spec == 1
    assert below.HasField("oldest_report_time")
    assert reply.read_model.pending_node_count == 0
    assert reply.HasField("as_of_time")


async def test_distributions_show_the_most_frequent_values_and_count_the_rest(root: Served) -> None:
    await register(root, "global", [f"n{number}" for number in range(40)])
    for number in range(40):
        actual = node_pb2.ActualState(reported_version=f"1.0.{max(0, number - 3)}")
        await report(root, "global", f"n{number}", "actual_state", actual)

    overview = (await root.fleet.ListDomainOverviews(fleet.ListDomainOverviewsRequest())).overviews[
        0
    ]

    versions = overview.versions
    assert (versions.values[0].value, versions.values[0].node_count) == ("1.0.0", 4)
    assert (len(versions.values), versions.other_node_count, versions.value_count) == (32, 5, 37)


async def test_pages_of_overviews_follow_the_tree(root: Served) -> None:
    await region(root)
    request = fleet.ListDomainOverviewsRequest(include_subtree=True, page_size=1)
    first = await root.fleet.ListDomainOverviews(request)
    request.page_token = first.next_page_token
    second = await root.fleet.ListDomainOverviews(request)

    assert [o.domain for o in (*first.overviews, *second.overviews)] == ["global", "region-a"]
    assert not second.next_page_token
    unknown = root.fleet.ListDomainOverviews(fleet.ListDomainOverviewsRequest(domain="nowhere"))
    code, _, _ = await refusal(unknown)
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_watch_shows_overviews_again_when_they_change(root: Served) -> None:
    await register(root, "global", ["a"])
    watch = root.fleet.WatchDomainOverviews(fleet.WatchDomainOverviewsRequest())
    async with asyncio.timeout(DEADLINE_S):
        first = await watch.read()
        await register(root, "global", ["b"])
        second = await watch.read()

    assert first.overviews[0].node_count == 1
    assert second.overviews[0].node_count == 2
    watch.cancel()


async def test_overviews_of_a_past_time_count_what_was(root: Served) -> None:
    await region(root)
    await register(root, "region-a", ["a", "b"])
    live = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_LIVE)
    await report(root, "region-a", "a", "link_state", live)
    await asyncio.sleep(0.01)
    then = Timestamp()
    then.FromNanoseconds(time.time_ns())
    await asyncio.sleep(0.01)
    await register(root, "region-a", ["c"])
    gone = connectivity_pb2.LinkState(mode=connectivity_pb2.CONNECTIVITY_MODE_AUTONOMOUS)
    await report(root, "region-a", "a", "link_state", gone)

    request = fleet.ListDomainOverviewsRequest(as_of_time=then)
    top, below = (await root.fleet.ListDomainOverviews(request)).overviews

    assert (top.node_count, top.subtree_node_count, below.node_count) == (0, 2, 2)
    assert counts(top.modes, "mode") == {0: 1, connectivity_pb2.CONNECTIVITY_MODE_LIVE: 1}
    assert counts(below.target_versions.values, "value") == {"1.4.7": 2}
    assert below.as_of_time.ToMilliseconds() == then.ToMilliseconds()
