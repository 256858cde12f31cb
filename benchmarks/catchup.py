"""A zone that was cut off comes back: how fast its region takes in 100,000 events.

The zone's log is made once (zone_log). Each run gives the region its log from before the cut, opens the link on the
zone's side and waits until the region says, by its API, that every event is in effect there: received over gRPC,
chain and seals verified, committed to its etcd with fsync, merged, readable.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from benchmarks.raw_etcd import BareEtcds, fill, mirror_rate
from benchmarks.report import RUNS, report, say
from benchmarks.workload import values
from benchmarks.zone_log import ZoneLogWriter, write_zone_log
from controller.signing import Ed25519Signer
from deploy.local_federation import DomainPlan, LocalFederation
from federation.identifiers import StreamId
from federation.proposal import Identity
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub

EVENTS = 100_000

#: Of the same events, those that etcdctl mirrors: it puts one after another, so that all would take most of a minute.
MIRRORED = 5_000

REGION = "region-a"
ZONE = "edge-zone-a1"

#: Between two looks at the region, so that looking costs it little.
POLL_S = 0.02

#: A run that takes longer has failed.
RUN_TIMEOUT_S = 60.0


def run() -> dict[str, Any]:
    """Events a second from the opening of the link until the last is readable at the region."""
    with tempfile.TemporaryDirectory(prefix="souverix-catchup-") as path:
        directory = Path(path)
        rates, mirrored = [], []
        plans = [
            DomainPlan(REGION, kind="region", level="regional"),
            DomainPlan(ZONE, parent=REGION, sync_mode="manual"),
        ]
        with (
            LocalFederation(directory / "federation", plans) as federation,
            BareEtcds(directory / "bare", ["source", "target"]) as bare,
        ):
            written = _cut_off_zone(federation)
            asyncio.run(fill(bare.endpoint("source"), values(MIRRORED)))
            for number in range(RUNS):
                rates.append(_one_run(federation, written))
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


def _cut_off_zone(federation: LocalFederation) -> ZoneLogWriter:
    """Lets zone and region meet once, then leaves the zone alone with its events, and keeps the region's log."""
    federation.start_all()
    for name in (f"{ZONE}/r1", f"{REGION}/r1", f"{REGION}/etcd"):
        federation.processes[name].stop()
    for name in (f"{REGION}-etcd", f"{REGION}-r1"):
        shutil.copytree(federation.directory / name, federation.directory / f"{name}-before")
    say(f"catchup: the zone writes {EVENTS:,} events")
    controller = federation.plan(ZONE).controller
    root = next(
        line.split('"')[1]
        for line in federation.config_path(ZONE).read_text().splitlines()
        if line.startswith("root_public_key")
    )
    written = asyncio.run(
        write_zone_log(
            federation.etcd_endpoint(ZONE),
            f"/souverix/{ZONE}",
            Identity(controller, ZONE, 1),
            Ed25519Signer.load(federation.directory / f"{controller}.pem"),
            bytes.fromhex(root),
            EVENTS,
        )
    )
    federation.start_controller(ZONE)
    federation.wait_for_master(ZONE)
    return written


def _one_run(federation: LocalFederation, written: ZoneLogWriter) -> float:
    for name in (f"{REGION}-etcd", f"{REGION}-r1"):
        shutil.rmtree(federation.directory / name)
        shutil.copytree(federation.directory / f"{name}-before", federation.directory / name)
    federation.start_etcd(REGION)
    federation.start_controller(REGION)
    try:
        federation.wait_for_master(REGION)
        wanted = {
            stream: held.received
            for stream, held in written.state.streams.items()
            if stream.origin.controller == federation.plan(ZONE).controller
        }
        with (
            grpc.insecure_channel(federation.address(ZONE)) as zone,
            grpc.insecure_channel(federation.address(REGION)) as region,
        ):
            stub = FederationServiceStub(region)
            stub.ListStreams(service.ListStreamsRequest(domain=ZONE))
            began_s = time.perf_counter()
            syncing = FederationServiceStub(zone).SyncNow(service.SyncNowRequest())
            while not _holds(stub, wanted):
                if time.perf_counter() - began_s > RUN_TIMEOUT_S:
                    raise TimeoutError(
                        f"{REGION} has not caught up; {federation.last_lines(REGION)}"
                    )
                time.sleep(POLL_S)
            took_s = time.perf_counter() - began_s
            syncing.cancel()
        return EVENTS / took_s
    finally:
        federation.processes[f"{REGION}/r1"].stop()
        federation.processes[f"{REGION}/etcd"].stop()


def _holds(stub: FederationServiceStub, wanted: Mapping[StreamId, int]) -> bool:
    """Tells whether every stream is in effect up to the number wanted."""
    listed = stub.ListStreams(service.ListStreamsRequest(domain=ZONE))
    applied = {
        (s.controller, s.incarnation, s.lane): s.applied for s in listed.streams if s.domain == ZONE
    }
    return all(
        applied.get(
            (stream.origin.controller, stream.origin.incarnation, stream.lane.name.lower()), 0
        )
        >= number
        for stream, number in wanted.items()
    )
