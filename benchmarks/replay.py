"""A zone that was offline for twelve days comes back with 1,000,000 events: how long an urgent fact takes meanwhile.

Policies of the zone are updated ten times a second, at the zone's controller, while its backlog goes up; a watch at
the region says when each is to be seen there. What is measured is how long a fact waits for the other lanes: the lane's
own backlog, a tenth of all, goes up first, which takes `control_backlog_s`. The same is measured when both are level.
Writer and watcher are this process, so that one clock measures from the start of the call.

A zone that was away for twelve days has compacted its log meanwhile, so that the runs begin when that is done, and read
most of the backlog from the archive. What it takes on disk is told, and what an agent of the zone takes that returns.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.cut_off_zone import (
    REGION,
    ZONE,
    applied,
    cut_off,
    holds,
    plans,
    region_from_before,
    wanted_of,
)
from benchmarks.reclaimed_disk import compact_zone, drain_agent, tell
from benchmarks.report import percentile, report, rounded, say
from benchmarks.zone_log import ZoneLogWriter
from deploy.local_federation import LocalFederation
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub
from souverix.policy.v1 import policy_pb2, policy_service_pb2
from souverix.policy.v1.policy_service_pb2_grpc import PolicyServiceStub

EVENTS = 1_000_000

#: A run takes most of a minute, of which the replay is a third.
RUNS = 3

UPDATES_PER_S = 10

#: Updates measured when both sides are level.
IDLE_UPDATES = 100

#: Between two looks at the region, so that looking costs it little.
POLL_S = 0.1

#: A replay that takes longer has failed; a zone dials a region that was away within a minute.
RUN_TIMEOUT_S = 180.0

#: A value that is not seen by then is lost.
ARRIVAL_TIMEOUT_S = 20.0

POLICY = "urgent"
NAME = f"domains/{ZONE}/policies/{POLICY}"


def run() -> dict[str, Any]:
    """Median latency of the control lane in milliseconds while the backlog goes up, beside that of idle controllers."""
    with tempfile.TemporaryDirectory(prefix="souverix-replay-") as path:
        busy, idle, busy_p99, idle_p99, rates, control_s = [], [], [], [], [], []
        layout = plans("continuous", "embedded")
        with LocalFederation(Path(path) / "federation", layout) as federation:
            written = cut_off(federation, EVENTS)
            log = compact_zone(federation)
            for number in range(RUNS):
                with region_from_before(federation):
                    measured = asyncio.run(_one_run(federation, written, number))
                busy.append(percentile(measured.busy_ms, 50))
                busy_p99.append(percentile(measured.busy_ms, 99))
                idle.append(percentile(measured.idle_ms, 50))
                idle_p99.append(percentile(measured.idle_ms, 99))
                rates.append(EVENTS / measured.took_s)
                control_s.append(measured.control_s)
                say(
                    f"replay: {rates[-1]:,.0f} events/s; control lane {busy[-1]:.1f} ms meanwhile, "
                    f"{idle[-1]:.1f} ms idle ({len(measured.busy_ms)} and {len(measured.idle_ms)} updates), "
                    f"after its own backlog of {control_s[-1]:.1f} s"
                )
            agent = drain_agent(federation)
            tell(log, agent)
    return report(
        "replay",
        "ms",
        busy,
        {"the same, idle": idle},
        p99=rounded(statistics.median(busy_p99)),
        idle_p99=rounded(statistics.median(idle_p99)),
        events_per_s=rounded(statistics.median(rates)),
        control_backlog_s=rounded(statistics.median(control_s)),
        events=EVENTS,
        zone_etcd_mib=log.directory.mib(),
        zone_log_file_mib=log.file.mib(),
        zone_archive_mib=round(log.archive_bytes / (1 << 20), 1),
        agent_mib=agent.mib(),
    )


class _Measured:
    """Latencies of one run, and how long the replay took, in seconds."""

    def __init__(self) -> None:
        self.busy_ms: list[float] = []
        self.idle_ms: list[float] = []
        self.began_s = 0.0
        self.took_s = 0.0
        #: From the first event until the lane's own backlog was there.
        self.control_s = 0.0


async def _one_run(federation: LocalFederation, written: ZoneLogWriter, run: int) -> _Measured:
    measured = _Measured()
    wanted = wanted_of(federation, written)
    async with (
        grpc.aio.insecure_channel(federation.address(ZONE)) as zone,
        grpc.aio.insecure_channel(federation.address(REGION)) as region,
    ):
        urgent = _Urgent(PolicyServiceStub(zone), PolicyServiceStub(region))
        await urgent.create()
        watching = asyncio.create_task(urgent.watch())
        try:
            with grpc.insecure_channel(federation.address(REGION)) as blocking:
                stub = FederationServiceStub(blocking)
                replaying = asyncio.create_task(
                    asyncio.to_thread(_until_level, stub, wanted, measured)
                )
                await asyncio.wait_for(urgent.seen_at_all.wait(), RUN_TIMEOUT_S)
                measured.control_s = time.perf_counter() - measured.began_s
                while not replaying.done():
                    measured.busy_ms.append(await urgent.update(f"{run}.busy"))
                measured.took_s = replaying.result() - measured.began_s
                for _ in range(IDLE_UPDATES):
                    measured.idle_ms.append(await urgent.update(f"{run}.idle"))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return measured


def _until_level(stub: FederationServiceStub, wanted: Any, measured: _Measured) -> float:
    """Takes the time of the first event at the region, and waits until it has all; the time at which it had."""
    end_s = time.perf_counter() + RUN_TIMEOUT_S
    before = applied(stub)
    while not holds(stub, wanted):
        if not measured.began_s and applied(stub) != before:
            measured.began_s = time.perf_counter()
        if time.perf_counter() > end_s:
            raise TimeoutError("the region has not caught up")
        time.sleep(POLL_S)
    return time.perf_counter()


class _Urgent:
    """One policy of the zone, written there and watched at the region."""

    def __init__(self, zone: PolicyServiceStub, region: PolicyServiceStub) -> None:
        self._zone = zone
        self._region = region
        self._number = 0
        self._versions: dict[str, asyncio.Event] = {}
        self._next_s = time.perf_counter()
        #: The policy reached the region once: the link is open, and control has overtaken.
        self.seen_at_all = asyncio.Event()

    async def create(self) -> None:
        """Makes the policy unless it is there from an earlier run."""
        try:
            await self._zone.CreatePolicy(
                policy_service_pb2.CreatePolicyRequest(
                    domain=ZONE, policy_id=POLICY, spec=policy_pb2.PolicySpec(version="v0")
                )
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    async def watch(self) -> None:
        """Takes note of each version when it is first to be seen at the region."""
        request = policy_service_pb2.WatchPoliciesRequest(domain=ZONE)
        async for step in self._region.WatchPolicies(request):
            if step.changed.name == NAME:
                self.seen_at_all.set()
                seen = self._versions.get(step.changed.spec.version)
                if seen is not None:
                    seen.set()

    async def update(self, name: str) -> float:
        """Updates the policy at its time; milliseconds from the call until the region shows it."""
        await asyncio.sleep(max(0.0, self._next_s - time.perf_counter()))
        self._next_s = time.perf_counter() + 1 / UPDATES_PER_S
        self._number += 1
        version = f"{name}.{self._number}"
        seen = self._versions[version] = asyncio.Event()
        request = policy_service_pb2.UpdatePolicyRequest(
            name=NAME, spec=policy_pb2.PolicySpec(version=version)
        )
        began_s = time.perf_counter()
        await self._zone.UpdatePolicy(request)
        await asyncio.wait_for(seen.wait(), ARRIVAL_TIMEOUT_S)
        return (time.perf_counter() - began_s) * 1000
