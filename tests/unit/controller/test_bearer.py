"""Whom a server lets in behind TLS: judged by the known authorities, at a given time, also while a call goes on."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest

from controller.bearer import (
    Bearers,
    check_bearer,
    current_bearer,
    is_secured,
    serving,
)
from controller.services.calls import caller_of
from controller.standing import BearerRefused
from souverix.trust.v1 import certificate_authority_pb2
from tests.certificates import CertificateTree, authority_below
from tests.federation_fixture import MemoryController, controller_below, root_controller
from trust.certificates import to_der
from trust.files import Credentials, ReloadedCredentials
from trust.identity import Kind


class SecuredCall:
    """What a gRPC context says of a TLS connection."""

    def __init__(self, shown: Credentials | None) -> None:
        self._shown = shown

    def auth_context(self) -> dict[str, list[bytes]]:
        found = {"transport_security_type": [b"ssl"]}
        if self._shown is not None:
            found["x509_pem_cert"] = [
                self._shown.chain_pem.split(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
            ]
        return found

    def peer(self) -> str:
        return "ipv4:192.0.2.7:4711"

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("souverix-principal", "user:admin"),)


class Region:
    """Bearers of region-a's controller, with a clock that stands until it is moved."""

    def __init__(self, tree: CertificateTree) -> None:
        self.tree = tree
        self.now = tree.made_at
        self.root = root_controller()
        self.controller = controller_below(self.root, "region-a-control", "region-a")
        self.held = ReloadedCredentials(tree.controller("region-a"))
        self.bearers = Bearers(self.held, self.controller.state, lambda: self.now)

    def state_authority(
        self, domain: str, *certificates: Any, by: MemoryController | None = None
    ) -> None:
        """A parent's statement, as bootstrap makes it."""
        writer = by or self.controller
        fact = certificate_authority_pb2.CertificateAuthority(
            domain=domain, certificates=[to_der(c) for c in certificates]
        )
        writer.submit(
            lambda p: p.write(
                domain, f"domains/{domain}", "certificate_authority", fact, principal="user:test"
            )
        )
        if writer.last_applied is not None:
            self.bearers.note(writer.last_applied)

    def refusal(self, shown: Credentials | None) -> str:
        with pytest.raises(BearerRefused) as refused:
            self.bearers.of_call(SecuredCall(shown))
        return refused.value.reason


@pytest.fixture
def region(certificate_tree: CertificateTree) -> Region:
    return Region(certificate_tree)


def leaf(
    region: Region,
    domain: str,
    kind: Kind = Kind.USER,
    name: str = "alice",
    life: timedelta | None = None,
    at: datetime | None = None,
) -> Credentials:
    return region.tree.leaf(domain, kind, name, life=life, at=at).read()


def test_members_of_the_own_domain_and_of_those_above_are_known(region: Region) -> None:
    for domain in ("region-a", "global"):
        bearer = region.bearers.of_call(SecuredCall(leaf(region, domain)))
        assert (bearer.identity.domain, bearer.identity.principal) == (domain, "user:alice")


def test_members_of_a_domain_below_are_known_once_its_authority_was_stated(region: Region) -> None:
    zone = region.tree.authorities["edge-zone-a1"]
    node = leaf(region, "edge-zone-a1", Kind.NODE, "n1")
    assert region.refusal(node) == "CERTIFICATE_ISSUER_UNKNOWN"
    controller_below(region.controller, "edge-zone-a1-control", "edge-zone-a1")
    region.state_authority("edge-zone-a1", zone.certificate)
    assert region.bearers.of_call(SecuredCall(node)).identity.name == "n1"
    region.state_authority("edge-zone-a1")
    assert region.refusal(node) == "CERTIFICATE_ISSUER_UNKNOWN"


def test_an_authority_that_names_another_domain_is_not_taken_for_its(region: Region) -> None:
    """Zone a1's authority, in hostile hands, makes one that calls itself zone a2's: TLS would be content."""
    zone = region.tree.authorities["edge-zone-a1"]
    controller_below(region.controller, "edge-zone-a1-control", "edge-zone-a1")
    controller_below(region.controller, "edge-zone-a2-control", "edge-zone-a2")
    region.state_authority("edge-zone-a1", zone.certificate)
    region.state_authority("edge-zone-a2", region.tree.authorities["edge-zone-a2"].certificate)
    false = authority_below(zone, "edge-zone-a2", region.now)
    files = region.tree.leaf("edge-zone-a2", Kind.NODE, "n1", authority=false)
    assert files.read().verified(region.now)
    assert region.refusal(files.read()) == "CERTIFICATE_ISSUER_UNKNOWN"


def test_times_are_those_of_the_clock_that_is_given(region: Region) -> None:
    shown = leaf(region, "region-a", life=timedelta(hours=1))
    assert region.bearers.of_call(SecuredCall(shown))
    region.now += timedelta(hours=2)
    assert region.refusal(shown) == "CERTIFICATE_EXPIRED"
    region.now -= timedelta(days=30)
    assert region.refusal(shown) == "CERTIFICATE_NOT_YET_VALID"


def test_no_certificate_is_refused(region: Region) -> None:
    assert region.refusal(None) == "CERTIFICATE_MISSING"


async def test_a_call_that_goes_on_ends_with_its_certificate(region: Region) -> None:
    bearer = region.bearers.of_call(SecuredCall(leaf(region, "region-a")))
    region.now = bearer.not_after - timedelta(seconds=0.05)
    with pytest.raises(BearerRefused) as refused:
        async with region.bearers.standing(bearer):
            await asyncio.Event().wait()
    assert refused.value.reason == "CERTIFICATE_EXPIRED"


async def test_a_call_that_goes_on_ends_when_its_authority_is_withdrawn(region: Region) -> None:
    controller_below(region.controller, "edge-zone-a1-control", "edge-zone-a1")
    region.state_authority("edge-zone-a1", region.tree.authorities["edge-zone-a1"].certificate)
    zone = region.bearers.of_call(SecuredCall(leaf(region, "edge-zone-a1", Kind.NODE, "n1")))
    own = region.bearers.of_call(SecuredCall(leaf(region, "region-a")))
    with pytest.raises(BearerRefused) as refused:  # noqa: PT012 what happens meanwhile ends it
        async with region.bearers.standing(own), region.bearers.standing(zone):
            region.state_authority("edge-zone-a1")
            await asyncio.Event().wait()
    assert refused.value.reason == "CERTIFICATE_ISSUER_UNKNOWN"


async def test_a_call_that_goes_on_ends_when_a_further_check_refuses_it(region: Region) -> None:
    bearer = region.bearers.of_call(SecuredCall(leaf(region, "region-a")))
    refused_names: set[str] = set()

    def check(found: Any) -> None:
        if found.identity.name in refused_names:
            raise BearerRefused(grpc.StatusCode.UNAUTHENTICATED, "WITHDRAWN", "made up here")

    region.bearers.checks.append(check)
    with pytest.raises(BearerRefused, match="made up here"):  # noqa: PT012 as above
        async with region.bearers.standing(bearer):
            refused_names.add("alice")
            region.bearers.recheck()
            await asyncio.Event().wait()


async def test_another_timeout_within_a_call_stays_one(region: Region) -> None:
    bearer = region.bearers.of_call(SecuredCall(leaf(region, "region-a")))
    with pytest.raises(TimeoutError):
        async with region.bearers.standing(bearer), asyncio.timeout(0):
            await asyncio.Event().wait()


def test_the_caller_is_whom_the_certificate_names_and_metadata_counts_for_nothing(
    region: Region,
) -> None:
    call: Any = SecuredCall(leaf(region, "region-a"))
    assert is_secured(call)
    with serving(region.bearers.of_call(call)):
        caller = caller_of(call)
    assert (caller.principal, caller.issued_by) == ("user:alice", "region-a")
    assert current_bearer() is None
    assert caller_of(call).principal == "user:anonymous", "unjudged, and still not user:admin"


def test_a_name_that_is_claimed_must_be_the_certificates(region: Region) -> None:
    check_bearer(Kind.RELAY, "r1", "region-a")
    shown = leaf(region, "region-a", Kind.RELAY, "r1")
    with serving(region.bearers.of_call(SecuredCall(shown))):
        check_bearer(Kind.RELAY, "r1", "region-a")
        for claim in (
            (Kind.RELAY, "r2", "region-a"),
            (Kind.NODE, "r1", "region-a"),
            (Kind.RELAY, "r1", "region-b"),
        ):
            with pytest.raises(BearerRefused) as refused:
                check_bearer(*claim)
            assert refused.value.reason == "IDENTITY_MISMATCH"


# Certificates that are sent rather than shown to TLS.


def refusal_of(region: Region, shown: Credentials, within: timedelta = timedelta(0)) -> str:
    with pytest.raises(BearerRefused) as refused:
        region.bearers.of_shown(to_der(shown.leaf), within)
    return refused.value.reason


def test_a_certificate_that_ended_counts_for_as_long_as_it_is_let(region: Region) -> None:
    node = leaf(region, "region-a", Kind.NODE, "n1", life=timedelta(hours=1))
    assert region.bearers.of_shown(to_der(node.leaf)).identity.name == "n1"
    region.now += timedelta(days=30)
    assert refusal_of(region, node) == "CERTIFICATE_EXPIRED"
    assert refusal_of(region, node, timedelta(days=29)) == "CERTIFICATE_EXPIRED"
    assert region.bearers.of_shown(to_der(node.leaf), timedelta(days=31)).identity.name == "n1"
    region.now -= timedelta(days=60)
    assert refusal_of(region, node, timedelta(days=31)) == "CERTIFICATE_NOT_YET_VALID"


def test_one_that_ended_must_be_of_the_known_authority_all_the_same(region: Region) -> None:
    sibling = region.tree.authorities["region-b"]
    false = authority_below(sibling, "region-a", region.now)
    files = region.tree.leaf("region-a", Kind.NODE, "n1", authority=false, life=timedelta(hours=1))
    region.now += timedelta(days=1)
    assert refusal_of(region, files.read(), timedelta(days=2)) == "CERTIFICATE_ISSUER_UNKNOWN"


def test_further_checks_are_made_of_what_is_sent(region: Region) -> None:
    """As of a revocation, which must end renewals, too."""

    def refuse(bearer: Any) -> None:
        raise BearerRefused(grpc.StatusCode.UNAUTHENTICATED, "REVOKED", bearer.fingerprint)

    node = leaf(region, "region-a", Kind.NODE, "n1")
    region.bearers.checks.append(refuse)
    assert refusal_of(region, node) == "REVOKED"
