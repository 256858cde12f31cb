"""A region and the files of its zone, for what attacks them. Owns how both are made; attacks nothing."""

from __future__ import annotations

import grpc

from benchmarks.cut_off_zone import REGION, ZONE, cut_off, start_zone
from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from souverix.bundle.v1 import bundle_service_pb2 as service
from souverix.bundle.v1.bundle_service_pb2_grpc import BundleServiceStub

#: Events of the zone: some of each lane, in one segment.
EVENTS = 120

#: A call that takes longer hangs.
TIMEOUT_S = 30.0


def exported(federation: LocalFederation) -> bytes:
    """A bundle of all that the zone wrote while it was cut off; the zone has stopped."""
    cut_off(federation, EVENTS)
    start_zone(federation)
    request = service.ExportBundleRequest(audience=federation.plan(REGION).controller)
    with grpc.insecure_channel(federation.address(ZONE)) as channel:
        replies = BundleServiceStub(channel).ExportBundle(request, timeout=TIMEOUT_S)
        data = b"".join(reply.data for reply in replies)
    federation.processes[f"{ZONE}/r1"].stop()
    return data


def key_of(federation: LocalFederation, domain: str) -> Ed25519Signer:
    """The signing key of a domain's controller."""
    controller = federation.plan(domain).controller
    return Ed25519Signer.load(federation.directory / f"{controller}.pem")
