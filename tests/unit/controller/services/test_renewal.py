"""Certificates renewed while they are good: by whom and when, and what a machine does with the new one; over real
TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller import own_renewal
from controller.errors import ServiceError
from controller.services.calls import refusal_in
from controller.services.renewal import RenewalService
from nodeagent import renewing
from nodeagent.certificates import certificate_of
from nodeagent.renewing import Renewer
from souverix.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from souverix.trust.v1 import certificate_authority_pb2, join_service_pb2, join_service_pb2_grpc
from tests.certificates import authority_below
from tests.e2e.clients import wait_until
from tests.unit.controller.enrolling import DOMAIN, Enrolling, enrolling, laid_out
from tests.unit.controller.live_controllers import until
from tests.unit.controller.services.served import refusal
from trust.authority import new_request
from trust.certificates import fingerprint, to_der
from trust.channels import ClientTls, open_channel, served_certificate
from trust.files import Credentials, TrustFiles, read_authority, write_identity, write_roots
from trust.identity import Kind
from trust.keys import new_tls_key, to_pem
from trust.renewal import sign

DAY = timedelta(days=1)


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Enrolling]:
    async with enrolling(laid_out(tmp_path / "federation")) as running:
        yield running


def leaf(zone: Enrolling, name: str, age: timedelta, kind: Kind = Kind.NODE) -> Path:
    """A directory with a certificate of a day, made so long ago."""
    return zone.federation.certificates.issue(
        DOMAIN, kind, name, at=datetime.now(UTC) - age, life=DAY
    )


def read(directory: Path) -> Credentials:
    return TrustFiles.in_directory(directory).read()


async def asked(
    zone: Enrolling, by: Credentials | None, of: Credentials, signer: Any = None
) -> join_service_pb2.RenewCertificateResponse:
    """One bare call, by the bearer of one certificate for another."""
    tls = zone.federation.client_tls(DOMAIN)
    assert tls is not None
    shown = ClientTls.of(by, tls.server_name) if by is not None else tls
    request = new_request(new_tls_key())
    async with open_channel(zone.federation.address(DOMAIN), (), shown) as channel:
        reply: join_service_pb2.RenewCertificateResponse
        reply = await join_service_pb2_grpc.RenewalServiceStub(channel).RenewCertificate(
            join_service_pb2.RenewCertificateRequest(
                certificate=to_der(of.leaf),
                request=request,
                signature=sign(signer or of.key, b"", request),
            ),
            timeout=20,
        )
    return reply


def renewer(zone: Enrolling, directory: Path, name: str, *enrolment: str) -> Renewer:
    certificate = certificate_of(TrustFiles.in_directory(directory), name, [Kind.NODE])
    address = zone.federation.address(DOMAIN)
    return Renewer(certificate, certificate.to_nodes_service, [address], enrolment, lambda: 0.0)


async def test_a_machine_renews_after_two_thirds_of_the_life_and_not_before(
    zone: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "LOOK_S", 0.05)
    young, due = leaf(zone, "young", DAY / 2), leaf(zone, "due", DAY * 0.7)
    before = {name: fingerprint(read(at).leaf) for name, at in (("young", young), ("due", due))}
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(renewer(zone, young, "young").run(stop))
        tasks.create_task(renewer(zone, due, "due").run(stop))
        await until(lambda: fingerprint(read(due).leaf) != before["due"], "the renewal")
        await asyncio.sleep(0.2)
        stop.set()
    assert fingerprint(read(young).leaf) == before["young"]
    renewed = read(due)
    assert renewed.verified(datetime.now(UTC)).identity.name == "due"
    (record,) = zone.audited("certificate.renewed")
    assert (record.principal, record.details["replaces"]) == ("node:due", before["due"])
    assert record.details["fingerprint"] == fingerprint(renewed.leaf)


async def test_an_expired_certificate_is_recovered_by_the_machine_itself(zone: Enrolling) -> None:
    directory = leaf(zone, "edge-7", DAY * 3)
    assert not await renewer(zone, directory, "edge-7").renew()
    assert await renewer(zone, directory, "edge-7", zone.address).renew()
    read(directory).verified(datetime.now(UTC))


async def test_nobody_renews_for_another_but_a_relay_that_passes_it_on(zone: Enrolling) -> None:
    due, other = read(leaf(zone, "edge-7", DAY * 0.7)), read(leaf(zone, "edge-8", DAY * 0.7))
    relay = read(leaf(zone, "relay-1", DAY / 2, Kind.RELAY))
    code, info, text = await refusal(asked(zone, other, due))
    assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_MISMATCH")
    assert "node:edge-8 asks for a certificate of node:edge-7" in text
    _, info, _ = await refusal(asked(zone, relay, due, signer=relay.key))
    assert info.reason == "RENEWAL_PROOF_WRONG"
    _, info, _ = await refusal(asked(zone, None, due))
    assert info.reason == "ACCESS_DENIED"
    assert (await asked(zone, relay, due)).issued.certificates
    assert (await asked(zone, due, due)).issued.certificates


async def test_that_no_authority_is_held_is_no_refusal_for_the_audit_log() -> None:
    service = RenewalService(DOMAIN, None, None, None)
    with pytest.raises(ServiceError, match="holds no certificate authority") as caught:
        await service.RenewCertificate(join_service_pb2.RenewCertificateRequest(), None)
    assert caught.value.reason == "AUTHORITY_NOT_HELD"
    assert refusal_in(caught.value) is None


async def test_nobody_of_a_domain_below_is_issued_a_certificate_of_this_one(
    zone: Enrolling, tmp_path: Path
) -> None:
    """Else whoever holds the authority of a domain below could name nodes of all the others."""
    now = datetime.now(UTC)
    above = read_authority(zone.federation.certificates.authority(DOMAIN), None, now)
    below = authority_below(above, "region-a", now)
    tls = zone.federation.client_tls(DOMAIN)
    assert tls is not None
    async with open_channel(zone.federation.address(DOMAIN), (), tls) as channel:
        creation = fleet_service_pb2.CreateDomainRequest(domain_id="region-a")
        creation.spec.parent = DOMAIN
        await fleet_service_pb2_grpc.FleetServiceStub(channel).CreateDomain(creation)
    known = certificate_authority_pb2.CertificateAuthority(
        domain="region-a", certificates=[to_der(below.certificate)]
    )
    await zone.replica.journal().submit(
        lambda p: p.write(
            "region-a", "domains/region-a", "certificate_authority", known, principal="user:test"
        )
    )
    key = new_tls_key()
    issued = below.issue(key.public_key(), Kind.NODE, "n1", now)
    write_identity(tmp_path, to_pem(key), (issued, *below.intermediates))
    write_roots(tmp_path, below.certificates[-1:])
    old = read(tmp_path)
    _, info, text = await refusal(asked(zone, old, old))
    assert info.reason == "RENEWAL_FOREIGN", text
    assert not zone.audited("certificate.renewed")


async def test_many_renewals_at_once_are_no_way_around_the_pace(zone: Enrolling) -> None:
    due = read(leaf(zone, "due", DAY * 0.7))
    answers = await asyncio.gather(
        *(asked(zone, due, due) for _ in range(12)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in answers) == 6
    assert len(zone.audited("certificate.renewed")) == 6


async def test_renewing_all_the_time_is_refused(zone: Enrolling) -> None:
    young = read(leaf(zone, "young", DAY / 10))
    assert (await refusal(asked(zone, young, young)))[1].reason == "RENEWAL_TOO_EARLY"
    due = read(leaf(zone, "due", DAY * 0.7))
    for _ in range(6):
        await asked(zone, due, due)
    assert (await refusal(asked(zone, due, due)))[1].reason == "RENEWAL_TOO_EARLY"


async def test_a_controller_renews_its_own_and_follows_a_replaced_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_renewal, "LOOK_S", 0.1)
    async with enrolling(laid_out(tmp_path / "federation")) as zone:
        certificates = zone.federation.certificates
        address = zone.federation.address(DOMAIN)
        own = certificates.issue(
            DOMAIN,
            Kind.CONTROLLER,
            "global-control",
            at=datetime.now(UTC) - DAY,
            life=DAY + timedelta(minutes=5),
        )
        old = fingerprint(read(own).leaf)
        await until(lambda: fingerprint(read(own).leaf) != old, "the renewal of its own")

        def is_shown() -> bool:
            return fingerprint(served_certificate(address)) == fingerprint(read(own).leaf)

        await asyncio.to_thread(wait_until, is_shown, "the renewed one shown")
        assert read(own).leaf.not_valid_after_utc > datetime.now(UTC) + DAY
