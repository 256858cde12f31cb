"""A zone that was cut off comes back: how fast its region takes in 100,000 events.

The zone's log is made once (zone_log). Each run gives the region its log from before the cut, opens the link on the
zone's side and waits until the region says, by its API, that every event is in effect there: received over gRPC,
chain and seals verified, committed to its etcd with fsync, merged, readable.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cut_off_zone import (
    REGION,
    ZONE,
    cut_off,
    holds,
    plans,
    region_from_before,
    start_zone,
    wanted_of,
)
from benchmarks.raw_etcd import BareEtcds, fill, mirror_rate
from benchmarks.report import RUNS, report, say
from benchmarks.workload import values
from benchmarks.zone_log import ZoneLogWriter
from deploy.local_federation import LocalFederation
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub

EVENTS = 100_000

#: Of the same events, those that etcdctl mirrors: it puts one after another, so that all would take most of a minute.
MIRRORED = 5_000

#: Between two looks at the region, so that looking costs it little.
POLL_S = 0.02

#: A run that takes longer has failed.
RUN_TIMEOUT_S = 60.0


def run() -> dict[str, Any]:
    """Events a second from the opening of the link until the last is readable at the region."""
    with tempfile.TemporaryDirectory(prefix="souverix-catchup-") as path:
        directory = Path(path)
        rates, mirrored = [], []
        with (
            LocalFederation(directory / "federation", plans("manual")) as federation,
            BareEtcds(directory / "bare", ["source", "target"]) as bare,
        ):
            written = cut_off(federation, EVENTS)
            start_zone(federation)
            asyncio.run(fill(bare.endpoint("source"), values(MIRRORED)))
            for number in range(RUNS):
                rates.append(catch_up(federation, written))
                mirrored.append(
                    asyncio.run(
                        mirror_rate(
                            bare.endpoint("source"),
                            bare.endpoint("target"),
                            MIRRORED,
                            f"run{number}",
                        )
                    )
                )
                say(f"catchup: {rates[-1]:,.0f} events/s, make-mirror {mirrored[-1]:,.0f}")
    return report(
        "catchup",
        "events/s",
        rates,
        {"etcdctl make-mirror": mirrored},
        events=EVENTS,
        event_bytes=round(written.event_bytes / written.events),
        commits=written.head.next_offset,
    )


def catch_up(federation: LocalFederation, written: ZoneLogWriter) -> float:
    """Events a second that a region takes in which knows of none of them."""
    wanted = wanted_of(federation, written)
    with (
        region_from_before(federation),
        federation.channel(ZONE) as zone,
        federation.channel(REGION) as region,
    ):
        stub = FederationServiceStub(region)
        stub.ListStreams(service.ListStreamsRequest(domain=ZONE))
        began_s = time.perf_counter()
        syncing = FederationServiceStub(zone).SyncNow(service.SyncNowRequest())
        while not holds(stub, wanted):
            if time.perf_counter() - began_s > RUN_TIMEOUT_S:
                raise TimeoutError(f"{REGION} has not caught up; {federation.last_lines(REGION)}")
            time.sleep(POLL_S)
        took_s = time.perf_counter() - began_s
        syncing.cancel()
        return written.events / took_s
