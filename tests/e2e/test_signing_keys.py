"""Signing keys of running controllers: rotation under writes, and a zone that is taken over, sealed, and goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from controller.signing import Ed25519Signer
from deploy.local_federation import LocalFederation
from deploy.local_layout import DomainPlan
from souverix.audit.v1 import audit_service_pb2
from souverix.federation.v1 import federation_service_pb2 as service
from tests.e2e.clients import DEADLINE_S, PRINCIPAL, Clients, reason_of, wait_until

ZONE = "edge-zone-a1"
ZONE_CONTROL = f"{ZONE}-control"


@dataclass
class Levels:
    """The controllers of this module."""

    region: Clients
    zone: Clients
    zone_key: Path


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Levels]:
    plans = [
        DomainPlan("region-a", kind="region", level="regional", log="sqlite"),
        DomainPlan(ZONE, "region-a", log="sqlite"),
    ]
    federation = LocalFederation(tmp_path_factory.mktemp("federation"), plans)
    with (
        federation,
        Clients(federation.address("region-a")) as region,
        Clients(federation.address(ZONE)) as zone,
    ):
        federation.start_all()
        yield Levels(region, zone, federation.signing_key(ZONE))


def rotate(clients: Clients) -> service.RotateSigningKeyResponse:
    reply: service.RotateSigningKeyResponse = clients.federation.RotateSigningKey(
        service.RotateSigningKeyRequest(), timeout=DEADLINE_S, metadata=PRINCIPAL
    )
    return reply


def held(clients: Clients) -> list[service.HeldRun]:
    request = service.ListHeldRunsRequest(domain=ZONE)
    return list(clients.federation.ListHeldRuns(request, timeout=DEADLINE_S).runs)


def stands_at(clients: Clients, version: str) -> bool:
    """Tells whether the policy has a version; not while the controller folds its log anew."""
    try:
        return clients.policy_version(ZONE, "honest") == version
    except grpc.RpcError:
        return False


def actions(clients: Clients, domain: str) -> set[str]:
    request = audit_service_pb2.ListAuditEntriesRequest(domain=domain, page_size=1000)
    entries = clients.audit.ListAuditEntries(request, timeout=DEADLINE_S).entries
    return {entry.record.action.rpartition("/")[2] for entry in entries}


def test_a_key_is_exchanged_under_writes_and_none_is_refused_or_lost(levels: Levels) -> None:
    written: list[str] = []
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            name = f"under-load-{len(written)}"
            levels.zone.create_policy(ZONE, name, "v1")
            written.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ids = []
        for _ in range(3):
            reply = rotate(levels.zone)
            ids += [reply.old_key_id, reply.key_id]
            count = len(written)
            wait_until(lambda count=count: len(written) > count + 5, "writes under the new key")  # type: ignore[misc]
    finally:
        over.set()
        writer.join()
    assert ids[1] == ids[2]
    assert ids[3] == ids[4]
    assert len(set(ids)) == 4
    for name in (written[0], written[len(written) // 2], written[-1]):
        levels.region.wait_for_policy(ZONE, name, "v1")
    streams = levels.region.federation.ListStreams(
        service.ListStreamsRequest(domain=ZONE), timeout=DEADLINE_S
    ).streams
    assert all(s.received == s.applied for s in streams)
    assert Ed25519Signer.load(levels.zone_key).key_id == ids[-1]
    assert "key.rotated" in actions(levels.zone, ZONE)


def test_a_key_that_is_laid_beside_the_present_one_is_put_in_force(levels: Levels) -> None:
    fresh = Ed25519Signer.generate()
    fresh.save(levels.zone_key.with_name(f"{levels.zone_key.name}.next"))
    wait_until(
        lambda: Ed25519Signer.load(levels.zone_key).key_id == fresh.key_id, "the key in its place"
    )
    levels.zone.create_policy(ZONE, "after-the-file", "v1")
    levels.region.wait_for_policy(ZONE, "after-the-file", "v1")


def test_a_zone_that_was_taken_over_is_sealed_and_goes_on_with_a_new_key(levels: Levels) -> None:
    levels.zone.create_policy(ZONE, "honest", "v1")
    levels.region.wait_for_policy(ZONE, "honest", "v1")
    time_of_takeover = time.time() + 0.05
    wait_until(lambda: time.time() > time_of_takeover + 0.05, "the clock")
    levels.zone.update_policy(ZONE, "honest", "evil")
    levels.region.wait_for_policy(ZONE, "honest", "evil")
    fresh = Ed25519Signer.generate()

    request = service.SealStreamsRequest(controller=ZONE_CONTROL, reason="taken over")
    request.void_since.FromNanoseconds(int(time_of_takeover * 1e9))
    reply = levels.region.federation.SealStreams(request, timeout=DEADLINE_S, metadata=PRINCIPAL)
    assert reply.voided_events > 0

    for clients in (levels.region, levels.zone):
        wait_until(lambda c=clients: stands_at(c, "v1"), f"the honest value at {clients.address}")  # type: ignore[misc]
        void = [run for run in held(clients) if run.outcome == service.HELD_OUTCOME_VOID]
        assert {run.reason for run in void} == {"STREAM_SEALED"}
    with pytest.raises(grpc.RpcError) as refused:
        levels.zone.create_policy(ZONE, "not-yet", "v1")
    assert reason_of(refused.value) == "SIGNING_KEY_NOT_IN_FORCE"

    grant = service.GrantKeyRequest(controller=ZONE_CONTROL, public_key=fresh.public_key)
    levels.region.federation.GrantKey(grant, timeout=DEADLINE_S, metadata=PRINCIPAL)
    fresh.save(levels.zone_key.with_name(f"{levels.zone_key.name}.next"))

    def writes_again() -> bool:
        try:
            levels.zone.create_policy(ZONE, "healed", "v1", request_id="healed")
        except grpc.RpcError:
            return False
        return True

    wait_until(writes_again, "the zone under its new key")
    levels.region.wait_for_policy(ZONE, "healed", "v1")
    status = levels.zone.federation.GetStatus(service.GetStatusRequest(), timeout=DEADLINE_S)
    assert status.incarnation == 2
    assert {"SealStreams", "GrantKey"} <= actions(levels.region, "region-a")
