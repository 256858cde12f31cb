"""A zone that was cut off with a long log, and a region that has none of it yet. Owns how both are made and begun anew;
measures nothing.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager

from benchmarks.report import say
from benchmarks.zone_log import ZoneLogWriter, write_zone_log
from controller.etcd.access import Access
from controller.log.embedded import EmbeddedEtcd
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from deploy.local_processes import find_program
from federation.identifiers import StreamId
from federation.proposal import Identity
from souverix.federation.v1 import federation_service_pb2 as service
from souverix.federation.v1.federation_service_pb2_grpc import FederationServiceStub

#: The zone has no checkpoint of a log that was written for it, and replays it all: some 40 µs an event.
ZONE_START_TIMEOUT_S = 240.0

REGION = "region-a"
ZONE = "edge-zone-a1"


def plans(sync_mode: str, zone_log: str = "etcd") -> list[DomainPlan]:
    """Region and zone; `zone_log` "embedded" gives the zone an etcd of its own, as an edge has it."""
    return [
        DomainPlan(REGION, kind="region", level="regional"),
        DomainPlan(ZONE, parent=REGION, sync_mode=sync_mode, log=zone_log),
    ]


def cut_off(federation: LocalFederation, events: int) -> ZoneLogWriter:
    """Lets zone and region meet once, then leaves the zone alone with its events, and keeps the region's log. The zone
    is not running afterwards.
    """
    federation.start_all()
    for name in (f"{ZONE}/r1", f"{REGION}/r1", f"{REGION}/etcd"):
        federation.processes[name].stop()
    for name in (f"{REGION}-etcd", f"{REGION}-r1"):
        shutil.copytree(federation.directory / name, federation.directory / f"{name}-before")
    say(f"the zone writes {events:,} events")
    return asyncio.run(_write(federation, events))


def start_zone(federation: LocalFederation) -> None:
    """Starts the zone on the log that was written for it."""
    federation.start_controller(ZONE)
    federation.wait_for_master(ZONE, ZONE_START_TIMEOUT_S)


async def _write(federation: LocalFederation, events: int) -> ZoneLogWriter:
    controller = federation.plan(ZONE).controller
    root = next(
        line.split('"')[1]
        for line in federation.config_path(ZONE).read_text().splitlines()
        if line.startswith("root_public_key")
    )
    async with AsyncExitStack() as stack:
        if federation.plan(ZONE).log == "embedded":
            etcd = EmbeddedEtcd(find_program("etcd"), federation.data_dir(ZONE) / "etcd")
            await stack.enter_async_context(etcd)
            access = etcd.access
        else:
            access = Access([federation.etcd_endpoint(ZONE)])
        return await write_zone_log(
            access,
            federation.log_prefix(ZONE),
            Identity(controller, ZONE, 1),
            Ed25519Signer.load(federation.directory / f"{controller}.pem"),
            bytes.fromhex(root),
            events,
        )


@contextmanager
def region_from_before(federation: LocalFederation) -> Iterator[None]:
    """The region runs, with the log it had before the cut."""
    for name in (f"{REGION}-etcd", f"{REGION}-r1"):
        shutil.rmtree(federation.directory / name)
        shutil.copytree(federation.directory / f"{name}-before", federation.directory / name)
    federation.start_etcd(REGION)
    federation.start_controller(REGION)
    try:
        federation.wait_for_master(REGION)
        yield
    finally:
        federation.processes[f"{REGION}/r1"].stop()
        federation.processes[f"{REGION}/etcd"].stop()


def wanted_of(federation: LocalFederation, written: ZoneLogWriter) -> dict[StreamId, int]:
    """The zone's own streams, and how far each is to come."""
    return {
        stream: held.received
        for stream, held in written.state.streams.items()
        if stream.origin.controller == federation.plan(ZONE).controller
    }


#: Controller, incarnation and lane of a stream.
StreamName = tuple[str, int, str]


def applied(stub: FederationServiceStub) -> dict[StreamName, int]:
    """How far the zone's streams are in effect at the region."""
    listed = stub.ListStreams(service.ListStreamsRequest(domain=ZONE))
    return {
        (s.controller, s.incarnation, s.lane): s.applied for s in listed.streams if s.domain == ZONE
    }


def holds(stub: FederationServiceStub, wanted: Mapping[StreamId, int]) -> bool:
    """Tells whether every stream is in effect up to the number wanted."""
    held = applied(stub)
    return all(
        held.get((stream.origin.controller, stream.origin.incarnation, stream.lane.name.lower()), 0)
        >= number
        for stream, number in wanted.items()
    )
