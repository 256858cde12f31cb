"""Latencies of reads over the whole fleet: overviews and filtered pages, on a controller that runs already. Owns the
calls and their filters; starts nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from souverix.fleet.v1 import fleet_service_pb2 as fleet
from souverix.fleet.v1 import fleet_service_pb2_grpc

#: Filters as operators write them: one column, several, text, versions, labels, ages. They are taken in turn.
FILTERS = (
    "mode = AUTONOMOUS",
    "phase = ACTIVE AND drift.state = DRIFTING",
    "version < 1.4.7 AND mode = EDGE_CACHED",
    "tags:lab AND health = DEGRADED",
    "stale_by > 20s AND NOT conflicted",
    "id = zone-00* AND severity >= MEDIUM",
)

PAGE_SIZE = 100

#: Largest reply: a page of nodes with their inventories.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 16 * 1024 * 1024)]

#: Calls before the measured ones: the first build channels and caches.
WARM_UP = 3


def overview_latencies(address: str, calls: int) -> list[float]:
    """Seconds that each of so many overviews of the root and its children takes, one after the other."""
    request = fleet.ListDomainOverviewsRequest()
    return asyncio.run(_latencies(address, "ListDomainOverviews", [request], calls))


def filtered_page_latencies(
    address: str, calls: int, filters: Sequence[str] = FILTERS
) -> list[float]:
    """Seconds that each of so many filtered pages of 100 nodes of the whole fleet takes, one after the other."""
    requests = [
        fleet.ListNodesRequest(
            domain="global", include_subtree=True, filter=text, page_size=PAGE_SIZE
        )
        for text in filters
    ]
    return asyncio.run(_latencies(address, "ListNodes", requests, calls))


def node_latencies(address: str, node_ids: Sequence[str], calls: int) -> list[float]:
    """Seconds that each of so many reads of single nodes takes, one after the other."""
    requests = [fleet.GetNodeRequest(name=f"nodes/{node_id}") for node_id in node_ids]
    return asyncio.run(_latencies(address, "GetNode", requests, calls))


async def _latencies(address: str, method: str, requests: Sequence[Any], calls: int) -> list[float]:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: Any = fleet_service_pb2_grpc.FleetServiceStub(channel)
        call: Callable[[Any], Awaitable[Any]] = getattr(stub, method)
        for number in range(WARM_UP):
            await call(requests[number % len(requests)])
        taken = []
        for number in range(calls):
            began_s = time.perf_counter()
            await call(requests[number % len(requests)])
            taken.append(time.perf_counter() - began_s)
        return taken
