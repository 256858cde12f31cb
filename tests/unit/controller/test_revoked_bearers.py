"""Bearers of revoked certificates: refused, ended while a call goes on, remembered when they knock. Real certificates;
the clock stands until it is moved.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.revocation.entries import Revocations
from controller.revocation.knocks import SILENT_AFTER_MS, Knocks
from controller.revocation.targets import ASPECT, subject_of
from controller.revoked_bearers import RevokedBearers
from controller.standing import BearerRefused
from souverix.trust.v1 import revocation_pb2
from tests.certificates import CertificateTree
from tests.federation_fixture import MemoryController, controller_below
from tests.unit.controller.test_bearer import Region, SecuredCall, leaf
from trust.certificates import fingerprint
from trust.files import Credentials
from trust.identity import Kind

ZONE = "edge-zone-a1"


class Watched:
    """Region-a's bearers, held against what is revoked; the zone's authority is known."""

    def __init__(self, tree: CertificateTree) -> None:
        self.region = Region(tree)
        self.zone = controller_below(self.region.controller, f"{ZONE}-control", ZONE)
        self.region.state_authority(ZONE, tree.authorities[ZONE].certificate)
        self.revocations = Revocations(self.region.controller.state, self.now_ms)
        self.knocks = Knocks(self.now_ms)
        RevokedBearers(self.revocations, self.knocks).watch(self.region.bearers)

    def now_ms(self) -> int:
        return int(self.region.now.timestamp() * 1000)

    def revoke(
        self, domain: str, by: MemoryController | None = None, **kind: Any
    ) -> revocation_pb2.RevocationSpec:
        """States a revocation, and has it heard of."""
        spec = revocation_pb2.RevocationSpec(
            certificates=revocation_pb2.RevokedCertificates(**kind), reason="lost"
        )
        spec.revoke_time.FromDatetime(self.region.now)
        writer = by or self.region.controller
        writer.submit(
            lambda p: p.write(
                domain, subject_of(spec.certificates), ASPECT, spec, principal="user:admin"
            )
        )
        if writer is not self.region.controller:
            self.region.controller.receive_from(writer)
        self.heard()
        return spec

    def heard(self) -> None:
        applied = self.region.controller.last_applied
        assert applied is not None
        self.revocations.note(applied)
        self.region.bearers.note(applied)

    def call(self, shown: Credentials) -> Any:
        return self.region.bearers.of_call(SecuredCall(shown))

    def node(self, name: str = "n1", at: datetime | None = None) -> Credentials:
        return leaf(self.region, ZONE, Kind.NODE, name, at=at)


@pytest.fixture
def watched(certificate_tree: CertificateTree) -> Watched:
    return Watched(certificate_tree)


def identity(principal: str, before: datetime) -> revocation_pb2.RevokedIdentity:
    found = revocation_pb2.RevokedIdentity(principal=principal)
    found.issued_before.FromDatetime(before)
    return found


def test_a_certificate_is_revoked_by_its_fingerprint_or_its_serial_number(watched: Watched) -> None:
    first, second, third = watched.node(), watched.node(), watched.node()
    for shown in (first, second, third):
        watched.call(shown)
    watched.revoke(ZONE, fingerprint=fingerprint(first.leaf))
    watched.revoke(ZONE, by=watched.zone, serial_number=f"{second.leaf.serial_number:x}")
    for shown in (first, second):
        assert watched.region.refusal(shown) == "CERTIFICATE_REVOKED"
    assert watched.call(third).identity.name == "n1"


def test_a_domain_speaks_of_what_its_own_authority_issued_and_of_nothing_else(
    watched: Watched,
) -> None:
    shown = leaf(watched.region, "region-a")
    watched.revoke(ZONE, by=watched.zone, fingerprint=fingerprint(shown.leaf))
    watched.revoke(ZONE, identity=identity("user:alice", watched.region.now + timedelta(minutes=1)))
    assert watched.call(shown).identity.name == "alice"


def test_of_an_identity_what_was_issued_before_counts_no_more_and_new_ones_do(
    watched: Watched,
) -> None:
    made_at = watched.region.tree.made_at
    old, other = watched.node(), watched.node("n2")
    watched.region.now = made_at + timedelta(minutes=1)
    watched.revoke(ZONE, identity=identity("node:n1", watched.region.now))
    assert watched.region.refusal(old) == "CERTIFICATE_REVOKED"
    assert watched.call(other).identity.name == "n2"
    assert watched.call(watched.node(at=watched.region.now + timedelta(seconds=1)))


def test_a_revoked_authority_takes_all_that_rests_on_it_along(watched: Watched) -> None:
    """The zone's authority is revoked in the region, which issued it."""
    node, own = watched.node(), leaf(watched.region, "region-a")
    watched.call(node)
    authority = watched.region.tree.authorities[ZONE].certificate
    watched.revoke("region-a", fingerprint=fingerprint(authority))
    assert watched.region.refusal(node) == "CERTIFICATE_REVOKED"
    assert watched.call(own).identity.name == "alice"


def test_a_refusal_says_when_by_whom_and_why(watched: Watched) -> None:
    shown = watched.node()
    watched.revoke(ZONE, fingerprint=fingerprint(shown.leaf))
    with pytest.raises(
        BearerRefused, match=r"node:n1 .* was revoked at .* by user:admin: lost"
    ) as refused:
        watched.call(shown)
    assert refused.value.bearer is not None
    assert refused.value.metadata["revocation"].startswith(f"domains/{ZONE}/revocations/sha256-")


async def test_a_call_that_goes_on_ends_when_its_certificate_is_revoked(watched: Watched) -> None:
    mine, other = watched.call(watched.node()), watched.call(watched.node("n2"))
    bearers = watched.region.bearers
    with pytest.raises(BearerRefused) as refused:  # noqa: PT012 what happens meanwhile ends it
        async with asyncio.timeout(10), bearers.standing(other), bearers.standing(mine):
            watched.revoke(ZONE, fingerprint=mine.fingerprint)
            await asyncio.Event().wait()
    assert refused.value.reason == "CERTIFICATE_REVOKED"
    assert not list(watched.knocks.recent()), "it was ended, and has not called again"


def test_who_goes_on_calling_is_remembered_until_it_gives_up(watched: Watched) -> None:
    shown = watched.node()
    now = watched.region.now
    watched.revoke(ZONE, identity=identity("node:n1", now + timedelta(seconds=1)))
    for _ in range(2):
        watched.region.refusal(shown)
        watched.region.now += timedelta(seconds=30)
    (knock,) = watched.knocks.recent()
    assert (knock.domain, knock.principal) == (ZONE, "node:n1")
    assert (knock.first_ms, knock.last_ms) == (
        int(now.timestamp() * 1000),
        int((now + timedelta(seconds=30)).timestamp() * 1000),
    )
    watched.call(watched.node(at=watched.region.now))
    assert list(watched.knocks.recent()) == [knock], "the thief may call beside the robbed"
    watched.region.now += timedelta(milliseconds=SILENT_AFTER_MS + 1000)
    assert not list(watched.knocks.recent())


def test_a_certificate_that_was_shown_to_another_is_judged_the_same(watched: Watched) -> None:
    bearers, shown = watched.region.bearers, watched.node()
    pem = shown.chain_pem.split(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
    assert bearers.of_certificate(b"words before it\n" + pem).identity.name == "n1"
    for refused in (b"", b"none", shown.chain_pem):
        with pytest.raises(BearerRefused):
            bearers.of_certificate(refused)
    watched.revoke(ZONE, fingerprint=fingerprint(shown.leaf))
    with pytest.raises(BearerRefused) as found:
        bearers.of_certificate(pem)
    assert found.value.reason == "CERTIFICATE_REVOKED"


def test_issued_is_told_without_the_allowance_for_clocks(watched: Watched) -> None:
    at = watched.region.tree.made_at
    assert watched.call(watched.node()).issued_s == int(at.astimezone(UTC).timestamp())
