"""How long until a watcher at a node's own controller sees its report: agents report, a `WatchNodes` shows the twin.

Time runs from when the agent makes the report, which says so itself, until the watch shows it; in between the agent
keeps it durably, sends it, and the controller commits it. Agents and watcher are processes of one machine with one
clock.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.raw_etcd import BareEtcds, sequential_put_ms
from benchmarks.report import RUNS, percentile, report, rounded, say
from benchmarks.workload import values
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.fleet.v1 import fleet_service_pb2
from souverix.fleet.v1.fleet_service_pb2_grpc import FleetServiceStub

ZONE = "edge-zone-a1"

AGENTS = 20
REPORT_INTERVAL_S = 0.4

#: Reports of one run: eight seconds at fifty a second.
REPORTS = 400

#: Puts of one baseline run.
PUTS = 200

#: Agents that have not reported by then never will.
START_TIMEOUT_S = 60.0


def run() -> dict[str, Any]:
    """Median latency in milliseconds; the 99th percentile beside it."""
    with tempfile.TemporaryDirectory(prefix="souverix-watch-") as path:
        p50s, p99s, puts = [], [], []
        with (
            LocalFederation(Path(path) / "federation", [DomainPlan(ZONE)]) as federation,
            BareEtcds(Path(path) / "bare", ["bare"]) as bare,
        ):
            federation.start_all()
            federation.start_simulated_agents(
                ZONE, AGENTS, 1, "--report-interval", str(REPORT_INTERVAL_S)
            )
            for _ in range(RUNS):
                latencies_ms = asyncio.run(_one_run(federation.address(ZONE)))
                p50s.append(percentile(latencies_ms, 50))
                p99s.append(percentile(latencies_ms, 99))
                put_ms = asyncio.run(sequential_put_ms([bare.endpoint("bare")], values(PUTS)))
                puts.append(percentile(put_ms, 50))
                say(f"watch: p50 {p50s[-1]:.1f} ms, p99 {p99s[-1]:.1f} ms, put {puts[-1]:.1f} ms")
    return report(
        "watch",
        "ms",
        p50s,
        {"one raw etcd put": puts},
        p99=rounded(statistics.median(p99s)),
        reports_per_s=AGENTS / REPORT_INTERVAL_S,
    )


async def _one_run(address: str) -> list[float]:
    """Latency of each report that comes after the present state was sent, in milliseconds."""
    latencies_ms: list[float] = []
    last_told: dict[str, int] = {}
    request = fleet_service_pb2.WatchNodesRequest(domain=ZONE)
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(START_TIMEOUT_S):
        async for step in FleetServiceStub(channel).WatchNodes(request):
            now_ns = time.time_ns()
            node = step.changed
            made_ns = node.actual_state.report_time.ToNanoseconds()
            if step.WhichOneof("event") == "existing":
                node = step.existing
                last_told[node.id] = node.actual_state.report_time.ToNanoseconds()
            elif made_ns > last_told.get(node.id, 0):
                # A change without a new report is a move on the spectrum, or of the life of the node.
                if node.id in last_told:
                    latencies_ms.append((now_ns - made_ns) / 1e6)
                last_told[node.id] = made_ns
            if len(latencies_ms) >= REPORTS:
                break
    return latencies_ms
