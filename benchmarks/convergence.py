"""How long until a write at the edge is to be seen at the root: edge → region → global, live, 100 writes a second.

The writer is a client of the zone's controller, the watcher one of the global controller; both are this process, so
that one clock measures from the start of the call until the watch shows the value.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.client import SET_DESIRED_STATE, Call, create_nodes, declaration, node_ids
from benchmarks.raw_etcd import BareEtcds, sequential_put_ms
from benchmarks.report import RUNS, percentile, report, rounded, say
from benchmarks.workload import values
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import fleet_service_pb2
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub

EVENTS_PER_S = 100
EVENTS = 600
NODES = 100

#: Puts of one baseline run.
PUTS = 200

#: A value that is not seen by then is lost.
ARRIVAL_TIMEOUT_S = 20.0

ROOT, REGION, ZONE = "global", "region-a", "edge-zone-a1"


def run() -> dict[str, Any]:
    """Median latency in milliseconds; the 99th percentile beside it."""
    with tempfile.TemporaryDirectory(prefix="souverix-convergence-") as path:
        p50s, p99s, puts = [], [], []
        plans = [
            DomainPlan(ROOT),
            DomainPlan(REGION, parent=ROOT, kind="region", level="regional"),
            DomainPlan(ZONE, parent=REGION),
        ]
        with (
            LocalFederation(Path(path) / "federation", plans) as federation,
            BareEtcds(Path(path) / "bare", ["one", "two", "three"]) as bare,
        ):
            federation.start_all()
            asyncio.run(create_nodes(federation.address(ZONE), node_ids(NODES)))
            endpoints = [bare.endpoint(name) for name in ("one", "two", "three")]
            for number in range(RUNS):
                latencies_ms = asyncio.run(_one_run(federation, number))
                p50s.append(percentile(latencies_ms, 50))
                p99s.append(percentile(latencies_ms, 99))
                put_ms = asyncio.run(sequential_put_ms(endpoints, values(PUTS)))
                puts.append(percentile(put_ms, 50))
                say(
                    f"convergence: p50 {p50s[-1]:.1f} ms, p99 {p99s[-1]:.1f} ms, puts {puts[-1]:.1f} ms"
                )
    return report(
        "convergence",
        "ms",
        p50s,
        {"three sequential raw etcd puts": puts},
        p99=rounded(statistics.median(p99s)),
        p99_runs=[rounded(p99) for p99 in p99s],
        events_per_s=EVENTS_PER_S,
    )


async def _one_run(federation: LocalFederation, run: int) -> list[float]:
    """Latency of each write, in milliseconds."""
    ids = node_ids(NODES)
    requests = [declaration(ids[n % NODES], f"2.{run}.{n}") for n in range(EVENTS)]
    seen_s: dict[str, float] = {}
    level = asyncio.Event()
    async with (
        grpc.aio.insecure_channel(federation.address(ZONE)) as zone,
        grpc.aio.insecure_channel(federation.address(ROOT)) as root,
    ):
        watching = asyncio.create_task(_watch(root, seen_s, level))
        try:
            await asyncio.wait_for(level.wait(), ARRIVAL_TIMEOUT_S)
            call: Call = zone.unary_unary(SET_DESIRED_STATE)
            loop = asyncio.get_running_loop()
            first_s = loop.time()
            began_s: dict[str, float] = {}
            calls = []
            for number, request in enumerate(requests):
                await asyncio.sleep(first_s + number / EVENTS_PER_S - loop.time())
                began_s[f"2.{run}.{number}"] = time.perf_counter()
                calls.append(call(request))
            await asyncio.gather(*calls)
            end_s = loop.time() + ARRIVAL_TIMEOUT_S
            while not began_s.keys() <= seen_s.keys():
                if watching.done():
                    watching.result()
                if loop.time() > end_s:
                    raise TimeoutError(
                        f"{len(began_s.keys() - seen_s.keys())} writes were not seen"
                    )
                await asyncio.sleep(0.01)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return [(seen_s[version] - at_s) * 1000 for version, at_s in began_s.items()]


async def _watch(root: grpc.aio.Channel, seen_s: dict[str, float], level: asyncio.Event) -> None:
    """Takes the time at which each version is first to be seen, once all nodes are there."""
    request = fleet_service_pb2.WatchNodesRequest(domain=ZONE, include_subtree=True)
    found = 0
    async for step in FleetServiceStub(root).WatchNodes(request):
        kind = step.WhichOneof("event")
        if kind == "changed":
            seen_s.setdefault(step.changed.desired_state.target_version, time.perf_counter())
        found += kind in ("existing", "changed")
        if found >= NODES:
            level.set()
